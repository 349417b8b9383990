"""History files as a server writes them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from chatkit import Message
from chatkit.history.sqlite.queries import SEARCH, TABLES
from chatkit.history.sqlite.store import SqliteHistory
from tests.helpers.marks import needs


def has_trigrams() -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(SEARCH)
        except sqlite3.OperationalError:
            return False
    return True


indexing = needs(has_trigrams(), "an SQLite with FTS5 and its trigram tokenizer")
START = 1_800_000_000.0
MESSAGES = 3000


def connect(path: Path) -> sqlite3.Connection:
    """As a server has it open."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def insert(connection: sqlite3.Connection, messages: Sequence[Message]) -> None:
    rows = [(each.id, each.time, each.sender, type(each).__name__.lower(), each.text) for each in messages]
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", rows)
    connection.execute("COMMIT")


def index(connection: sqlite3.Connection, upto: int) -> None:
    connection.execute(SEARCH)
    connection.execute("INSERT INTO search (rowid, text) SELECT id, text FROM messages WHERE id <= ?", (upto,))
    connection.execute("UPDATE state SET indexed = ?", (upto,))


def write(path: Path, messages: Sequence[Message], *, indexed: int | None = None) -> sqlite3.Connection:
    """A new history, open for writing. indexed: up to which id the index goes; None for no index at all."""
    connection = connect(path)
    for statement in TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO state VALUES ('there', 0, 0)")
    insert(connection, messages)
    if indexed is not None:
        index(connection, indexed)
    return connection


def fill(path: Path, messages: int = MESSAGES, text: str = "x" * 60) -> None:
    """Make a history with so many messages, each with this text."""
    history = SqliteHistory(path)
    history.open()
    history.append([Message("ada", f"kept {number} {text}", number, 1.0) for number in range(1, messages + 1)])
    history.close()


@contextmanager
def protected(folder: Path) -> Iterator[None]:
    """Protect the folder from writing; root becomes another user meanwhile."""
    folder.chmod(0o555)
    if is_root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
