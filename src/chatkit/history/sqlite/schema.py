"""What a history looks like as an SQLite file; docs/history.md says the same for people."""

from __future__ import annotations

# "chat", so that `file` and every reader can tell it from other databases; kept in the file's header.
APPLICATION_ID = 0x63686174
# Raised with every change that an older chatkit couldn't read.
VERSION = 1

# Messages have the room's ids. `room` is one row: the room's name (as in `welcome`), up to which id none may be given
# again after a crash, up to which id `search` knows the messages. `unused`: ids that no message was ever given.
TABLES = (
    """CREATE TABLE messages (
        id INTEGER PRIMARY KEY, time REAL NOT NULL, sender TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL
    )""",
    "CREATE TABLE room (name TEXT NOT NULL, reserved INTEGER NOT NULL, indexed INTEGER NOT NULL)",
    "CREATE TABLE unused (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

# Finds any part of a word, in any script, as reading everything would. Only where SQLite has it (FTS5, 3.34).
SEARCH = """CREATE VIRTUAL TABLE search USING fts5(
    text, content = 'messages', content_rowid = 'id', tokenize = 'trigram', detail = none
)"""
