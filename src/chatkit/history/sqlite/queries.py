"""All SQL of a history's file: its tables, and a function for each query.

SQLite releases the interpreter's lock at each step of a statement, and gets it back only when other threads pause.
So one step carries many messages here: a thousand rows are one INSERT, a page of messages is one row of JSON.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

from chatkit.events import Action, Message

# "chat" in ASCII, in the header of the file: `file` and every reader can tell a history from other databases.
APPLICATION_ID = 0x63686174
# Raise it with every change that an older chatkit can't read, and say in MIGRATIONS how to get there.
VERSION = 3

# docs/history.md explains the tables. `state` has one row.
EPOCHS = "CREATE TABLE epochs (epoch TEXT PRIMARY KEY, last INTEGER NOT NULL)"
STATE = "CREATE TABLE state (epoch TEXT NOT NULL, reserved INTEGER NOT NULL, indexed INTEGER NOT NULL)"
TABLES = (
    """CREATE TABLE messages (
        id INTEGER PRIMARY KEY, time REAL NOT NULL, sender TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL
    )""",
    STATE,
    EPOCHS,
    "CREATE TABLE unused (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

# The statements that lead from each version to the next. They copy instead of renaming, so that a migrated file has the
# schema of a new one, to the letter. A step never changes: when a table does, it keeps the table's text of today.
MIGRATIONS = {
    1: (
        STATE,
        "INSERT INTO state SELECT name, reserved, indexed FROM room",
        "DROP TABLE room",
        "PRAGMA user_version = 2",
    ),
    2: (EPOCHS, "PRAGMA user_version = 3"),
}

# Trigrams find any part of a word in any script, as reading every message would. FTS5 has them since SQLite 3.34.
SEARCH = """CREATE VIRTUAL TABLE search USING fts5(
    text, content = 'messages', content_rowid = 'id', tokenize = 'trigram', detail = none
)"""

# Far below SQLite's limit (SQLITE_MAX_VARIABLE_NUMBER, 32766 since 3.32), and the compiled statement stays small.
ROWS_AT_ONCE = 1000
MAX_READ_ROWS = 1000

# Starts of a server that the file remembers. A client that was away for longer receives all messages.
MAX_EPOCHS = 10_000

KINDS = {"message": Message, "action": Action}

# Messages up to the last one that has less than a number of bytes before it. A line takes its text, and about a hundred
# bytes around that. Only ids and lengths are summed up: a table of the texts would be too large for a cache.
_SELECT = """
    SELECT json_group_array(json_array(kind, sender, text, id, time)) FROM messages WHERE id > :after AND id <= (
        SELECT max(id) FROM (
            SELECT id, sum(bytes) OVER (ORDER BY id) - bytes AS before FROM (
                SELECT id, length(text) + 100 AS bytes FROM messages WHERE id > :after AND id <= :upto
                ORDER BY id LIMIT :rows
            )
        ) WHERE before < :bytes
    )
"""

_OLDEST = "(SELECT id, time FROM messages ORDER BY id LIMIT :rows)"
_LAST_TO_PRUNE = f"""
    SELECT max(id) FROM {_OLDEST} WHERE (id < :keep OR time < :oldest_time) AND id < (
        SELECT coalesce(min(id), 1 << 62) FROM {_OLDEST} WHERE id >= :keep AND time BETWEEN :oldest_time AND :now
    )
"""

# A time that is no number is damage, which the reader of the row reports.
_IN_TIME = "time >= :since AND (time < :until OR typeof(time) <> 'real')"
_COLUMNS = "SELECT messages.id, time, sender, kind, messages.text FROM"
_SCAN = f"{_COLUMNS} messages WHERE id BETWEEN :first AND :last AND {_IN_TIME} ORDER BY id"
# Ordered by the index's own id: then it finds no more than a chunk, and nothing is sorted.
_MATCH = f"""{_COLUMNS} search CROSS JOIN messages ON messages.id = search.rowid
    WHERE search MATCH :match AND search.rowid BETWEEN :first AND :last AND {_IN_TIME} ORDER BY search.rowid"""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Do everything in the block, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have ended it already
            connection.execute("ROLLBACK")
        raise


# The file


def create(connection: sqlite3.Connection, epoch: str) -> None:
    """Make the tables of a new history, in WAL mode."""
    with transaction(connection):
        for statement in TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO state VALUES (?, 0, 0)", (epoch,))
    connection.execute("PRAGMA journal_mode = WAL")


def configure_writer(connection: sqlite3.Connection, *, sync: str, log_pages: int) -> None:
    """Set how a writer commits. log_pages: SQLite's own checkpoint waits for so many pages of 4 KiB."""
    connection.execute("PRAGMA journal_mode = WAL")  # a backup, put back, is in another one
    connection.execute(f"PRAGMA synchronous = {sync}")
    connection.execute("PRAGMA fullfsync = ON")  # macOS's fsync alone leaves data in the disk's cache
    connection.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")
    connection.execute(f"PRAGMA journal_size_limit = {log_pages * 4096}")
    connection.execute("PRAGMA secure_delete = ON")  # pruned text is overwritten in the file


def checkpoint(connection: sqlite3.Connection, mode: str) -> bool:
    """Move the log into the file, and sync both. Tell whether all of it was moved: a reader may still need a part.

    mode: PASSIVE, or TRUNCATE to empty the log too.
    """
    _, pages, moved = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return bool(pages == moved)


def identify(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return (application id, version of the schema)."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application_id, version


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to VERSION in one transaction: after a crash they have the old version or the new one."""
    with transaction(connection):
        _, version = identify(connection)
        for statement in chain.from_iterable(MIGRATIONS[number] for number in range(version, VERSION)):
            connection.execute(statement)


# Ids


def read_state(connection: sqlite3.Connection) -> tuple[str, int]:
    """Return (epoch, highest reserved id)."""
    epoch, reserved = connection.execute("SELECT epoch, reserved FROM state").fetchone()
    return epoch, reserved


def write_state(connection: sqlite3.Connection, epoch: str, reserved: int) -> None:
    """Set the epoch, and reserve the ids up to `reserved`."""
    connection.execute("UPDATE state SET epoch = ?, reserved = ?", (epoch, reserved))


def read_epochs(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the last id of each earlier epoch."""
    return dict(connection.execute("SELECT epoch, last FROM epochs"))


def write_epochs(connection: sqlite3.Connection, epochs: Mapping[str, int]) -> None:
    """Add earlier epochs, each with its last id. The oldest beyond MAX_EPOCHS are forgotten."""
    connection.executemany("INSERT OR REPLACE INTO epochs VALUES (?, ?)", epochs.items())
    connection.execute("DELETE FROM epochs WHERE rowid <= (SELECT max(rowid) FROM epochs) - ?", (MAX_EPOCHS,))


def oldest_id(connection: sqlite3.Connection) -> int:
    """Return the lowest id of all messages, 1 if there are none."""
    (oldest,) = connection.execute("SELECT coalesce(min(id), 1) FROM messages").fetchone()
    return int(oldest)


def newest_id(connection: sqlite3.Connection) -> int:
    """Return the highest id of all messages, 0 if there are none."""
    (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
    return int(newest)


def read_unused(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return the ranges of ids that no message has, ascending."""
    return connection.execute("SELECT first, last FROM unused ORDER BY first").fetchall()


def write_unused(connection: sqlite3.Connection, ranges: Sequence[tuple[int, int]]) -> None:
    """Mark these ids as unused. A message among them was kept too late, and is removed."""
    connection.executemany("DELETE FROM messages WHERE id BETWEEN ? AND ?", ranges)
    connection.executemany("INSERT OR REPLACE INTO unused VALUES (?, ?)", ranges)


# Messages


def insert(connection: sqlite3.Connection, messages: Sequence[Message]) -> None:
    """Insert at most ROWS_AT_ONCE messages with one statement."""
    rows = ",".join(["(?,?,?,?,?)"] * len(messages))
    values = [
        value
        for message in messages
        for value in (message.id, message.time, message.sender, type(message).__name__.lower(), message.text)
    ]
    connection.execute(f"INSERT INTO messages (id, time, sender, kind, text) VALUES {rows}", values)


def select(connection: sqlite3.Connection, after: int, upto: int, max_bytes: int) -> list[Message]:
    """Return the first messages above `after` up to `upto`: at least one if there is one, about `max_bytes` in all."""
    values = {"after": after, "upto": upto, "rows": MAX_READ_ROWS, "bytes": max(1, max_bytes)}
    (found,) = connection.execute(_SELECT, values).fetchone()
    return [KINDS[kind](*fields) for kind, *fields in json.loads(found) if kind in KINDS]


def read_end(connection: sqlite3.Connection) -> None:
    """Read the newest messages for nothing but the error that damage raises."""
    newest = newest_id(connection)
    select(connection, max(0, newest - MAX_READ_ROWS), newest, 1 << 30)


def last_to_prune(
    connection: sqlite3.Connection, rows: int, oldest_to_keep: int, oldest_time: float, now: float
) -> int | None:
    """Return the id up to which the oldest `rows` messages are to be pruned, None if none is.

    It stops at the first message that is young enough. A time in the future says nothing: the next message decides.

    Args:
        oldest_to_keep: messages with lower ids are pruned in any case.
        oldest_time: the earliest time of a message that is young enough.
        now: the latest one.
    """
    values = {"rows": rows, "keep": oldest_to_keep, "oldest_time": oldest_time, "now": now}
    (found,) = connection.execute(_LAST_TO_PRUNE, values).fetchone()
    return found  # type: ignore[no-any-return]


def prune(connection: sqlite3.Connection, upto: int, *, has_index: bool) -> None:
    """Delete the messages up to this id, from the index too."""
    with transaction(connection):
        if has_index:
            connection.execute(
                "INSERT INTO search (search, rowid, text) SELECT 'delete', id, text FROM messages "
                "WHERE id <= min(?, (SELECT indexed FROM state))",
                (upto,),
            )
        connection.execute("DELETE FROM messages WHERE id <= ?", (upto,))


# The index


def make_index(connection: sqlite3.Connection) -> bool:
    """Make the search index if there is none; tell whether this SQLite can use it."""
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'search'").fetchone():
            connection.execute(SEARCH)
        connection.execute("SELECT rowid FROM search LIMIT 0")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_ERROR":
            raise
        return False  # no such module, or no such tokenizer
    return True


def index_next(connection: sqlite3.Connection, rows: int) -> bool:
    """Index the next `rows` messages; tell whether there were any."""
    with transaction(connection):
        (upto,) = connection.execute(
            "SELECT max(id) FROM (SELECT id FROM messages WHERE id > (SELECT indexed FROM state) ORDER BY id LIMIT ?)",
            (rows,),
        ).fetchone()
        if upto is None:
            return False
        connection.execute(
            "INSERT INTO search (rowid, text) SELECT id, text FROM messages "
            "WHERE id > (SELECT indexed FROM state) AND id <= ?",
            (upto,),
        )
        connection.execute("UPDATE state SET indexed = ?", (upto,))
        return True


def indexed_upto(connection: sqlite3.Connection) -> int:
    """Return the id up to which the index has every message; 0 if this SQLite can't use it."""
    try:
        connection.execute("SELECT rowid FROM search LIMIT 0")
    except sqlite3.OperationalError:  # the server's SQLite had no FTS5, or this one hasn't
        return 0
    table = "room" if identify(connection)[1] == 1 else "state"  # a reader doesn't migrate
    (indexed,) = connection.execute(f"SELECT coalesce(max(indexed), 0) FROM {table}").fetchone()
    return int(indexed)


def find(
    connection: sqlite3.Connection,
    first: int,
    last: int,
    times: tuple[float, float],
    match: str,
    rows: int,
    *,
    backwards: bool,
) -> list[Any]:
    """Return at most `rows` rows with ids from `first` to `last`.

    Args:
        times: the earliest time of a message, and the end of the time (exclusive).
        match: an FTS5 query for the index; empty to read all rows.
        backwards: begin with the newest.
    """
    query = f"{_MATCH if match else _SCAN} {'DESC' if backwards else 'ASC'} LIMIT :rows"
    values = {"first": first, "last": last, "since": times[0], "until": times[1], "match": match, "rows": rows}
    return connection.execute(query, values).fetchall()
