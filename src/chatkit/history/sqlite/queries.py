"""Messages to rows and back. SQLite lets go of the interpreter's lock at every step of a statement, and gets it back only
when other threads pause: so one step here carries many messages."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from chatkit.events import Action, Message

# As many as SQLite takes by far (SQLITE_MAX_VARIABLE_NUMBER, 32766 since 3.32), while its compiled statement stays small.
ROWS_AT_ONCE = 1000
MAX_READ_ROWS = 1000

KINDS = {"message": Message, "action": Action}

# The bytes of a line are its text's and about a hundred around it.
_SELECT = """
    SELECT json_group_array(json_array(kind, sender, text, id, time)) FROM (
        SELECT *, sum(length(text) + 100) OVER (ORDER BY id) - length(text) - 100 AS before FROM (
            SELECT * FROM messages WHERE id > ? AND id <= ? ORDER BY id LIMIT ?
        )
    ) WHERE before < ?
"""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that happens inside is done, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have ended it already
            connection.execute("ROLLBACK")
        raise


def insert(connection: sqlite3.Connection, messages: Sequence[Message]) -> None:
    """All of at most ROWS_AT_ONCE messages."""
    rows = ",".join(["(?,?,?,?,?)"] * len(messages))
    values = [
        value
        for message in messages
        for value in (message.id, message.time, message.sender, type(message).__name__.lower(), message.text)
    ]
    connection.execute(f"INSERT INTO messages (id, time, sender, kind, text) VALUES {rows}", values)


def select(connection: sqlite3.Connection, after: int, upto: int, max_bytes: int) -> list[Message]:
    """The first messages with ids above `after` up to `upto`: at least one, if there is one, and about so many bytes."""
    (found,) = connection.execute(_SELECT, (after, upto, MAX_READ_ROWS, max(1, max_bytes))).fetchone()
    return [KINDS[kind](*fields) for kind, *fields in json.loads(found) if kind in KINDS]
