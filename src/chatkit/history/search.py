"""A search in a history's file, also while a server writes it. It changes nothing, and leaves nothing open.

Operations: read the file from one end to the other in chunks of rows; filter them. Goal: a pager may wait for hours
between two chunks, and any connection that is open meanwhile keeps the server from shrinking its write-ahead log, and
from removing it at the end. Plan: each chunk has a connection of its own.
"""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import sys
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from chatkit.events import Message
from chatkit.history.base import HistoryError
from chatkit.history.sqlite import queries
from chatkit.history.sqlite.files import FOREIGN, check_version, connect
from chatkit.protocol.names import name_key

# A thousand of the longest lines are 8 MB; a thousand short ones take ten times as long to read as the file to open.
CHUNK_ROWS = 1000
# A few trigrams of a pattern find every message that has all of them; more only leave fewer messages to compare.
MAX_TRIGRAMS = 32
# A server locks the file for a moment when it ends, or recovers from a crash.
BUSY_SECONDS = 5.0
END_OF_TIME = 253_402_214_400.0  # 9999-12-31: a datetime has no later day in every time zone

_DAMAGED = "is damaged; restore a backup"
_UNREADABLE_LOG = (
    "can't be read: its server didn't end in order, and to read its log the folder must be writable; "
    "copy the file and its -wal to another folder"
)
_REASONS = {
    sqlite3.SQLITE_NOTADB: FOREIGN,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_ERROR: _DAMAGED,  # a table isn't there
    sqlite3.SQLITE_CANTOPEN: _UNREADABLE_LOG,
    sqlite3.SQLITE_READONLY: _UNREADABLE_LOG,
}

_Row = tuple[int, float, str, str, str]
_T = TypeVar("_T")


def browse(
    path: str | os.PathLike[str],
    *,
    last: int | None = None,
    since: float | None = None,
    until: float | None = None,
    sender: str | None = None,
    text: str | None = None,
    wait: Callable[[], bool] = lambda: False,
) -> Iterator[Message]:
    """Yield the messages that are in the file when the first one is asked for, oldest first.

    Args:
        path: a history, of any version up to this one's; a server may be writing it.
        last: yield only the newest `last` matches.
        since: yield only messages from this time on (Unix time in seconds, inclusive).
        until: yield only messages before this time (Unix time in seconds).
        sender: yield only messages of the member with this name (`Ada` and `ada` are one name).
        text: yield only messages with this text in them; `fold` says which letters are equal. The file's full-text
            index makes it fast where this SQLite can use it; the result is the same without.
        wait: called when all messages have been yielded. If it returns True, later ones are yielded, too.

    Raises:
        HistoryError: there is no such history, or it is damaged; it may also be raised between two messages.
        ValueError: `text` isn't valid Unicode.

    Resource handling: no file is open between two messages.
    """
    reader = _Reader(os.fspath(path), _Filter(since, until, sender, text))
    oldest, newest = 1, reader.newest()
    if last is not None:  # find where they begin, then read forwards: no more than a chunk is in memory, however many
        ids = deque(
            (row[0] for row in islice(reader.rows(oldest, newest, backwards=True), min(last, sys.maxsize))), maxlen=1
        )
        oldest = ids[0] if ids else newest + 1
    yield from reader.messages(oldest, newest)
    while wait():
        read, newest = newest, reader.newest()
        yield from reader.messages(min(read, newest) + 1, newest)  # a backup in the file's place may have fewer


class _Folding(dict[int, int]):
    """A table for `str.translate` from capitals to small letters, one for one: never `ss` for `ß`.

    It has only letters of Unicode 3.2: every FTS5 knows at least these.
    """

    def __missing__(self, code: int) -> int:
        """Add a letter to the table."""
        letter = chr(code)
        folded = min(letter.casefold(), letter.lower(), key=len)
        is_known = len(folded) == 1 and unicodedata.ucd_3_2_0.category(letter) != "Cn"
        self[code] = ord(folded) if is_known else code
        return self[code]


_FOLDING = _Folding()


def fold(text: str) -> str:
    """Return `text` as a search compares it: capitals and small letters are equal, in any script."""
    return text.lower() if text.isascii() else text.translate(_FOLDING)


class _Filter:
    """The conditions of a search.

    Attributes:
        times: the earliest time, and the end of the time (exclusive).
        match: an FTS5 query that finds every match and maybe more; empty if the index can't help.
    """

    def __init__(self, since: float | None, until: float | None, sender: str | None, text: str | None) -> None:
        self.times = (-math.inf if since is None else since, math.inf if until is None else until)
        self._key = None if sender is None else name_key(sender)
        self._folded = fold(text or "")
        self._casefolded = (text or "").casefold()
        self.match = _match_trigrams(self._folded)

    def matches(self, row: _Row) -> bool:
        """Tell whether a row meets the conditions, except for `times`."""
        _, _, sender, _, text = row
        if self._key is not None and name_key(sender) != self._key:
            return False
        # Texts that are equal for `fold` are equal for casefold, which takes a tenth of the time if they aren't ASCII.
        return self._casefolded in text.casefold() and self._folded in fold(text)


def _match_trigrams(text: str) -> str:
    """Return an FTS5 query for the trigrams of `text`. The index has no positions: it finds them in any order."""
    text.encode()
    trigrams = dict.fromkeys(text[start : start + 3] for start in range(len(text) - 2))
    usable = [three.replace('"', '""') for three in trigrams if "\0" not in three]  # a NUL ends a query
    return " AND ".join(f'"{three}"' for three in usable[:MAX_TRIGRAMS])


class _Reader:
    """The matches of a filter in one file. Nothing is open between two reads."""

    def __init__(self, path: str, criteria: _Filter) -> None:
        self._name = path
        self._path = os.path.realpath(path)  # SQLite resolves a link before it looks for the log
        self._filter = criteria

    def newest(self) -> int:
        """Return the newest message's id, 0 if there is no message."""
        return self._read(queries.newest_id)

    def messages(self, first: int, last: int) -> Iterator[Message]:
        """Yield the matches with ids from `first` to `last` (both inclusive), oldest first."""
        for number, time, sender, kind, text in self.rows(first, last):
            yield queries.KINDS[kind](sender, text, number, time)

    def rows(self, first: int, last: int, *, backwards: bool = False) -> Iterator[_Row]:
        """Yield the matches with ids from `first` to `last` (both inclusive)."""
        while first <= last:
            rows, end = self._read(partial(self._read_chunk, first, last, backwards))
            yield from (row for row in map(self._checked, rows) if self._filter.matches(row))
            first, last = (first, end - 1) if backwards else (end + 1, last)

    def _read_chunk(
        self, first: int, last: int, backwards: bool, connection: sqlite3.Connection
    ) -> tuple[list[Any], int]:
        """Return rows from the beginning of a range of ids (backwards: from its end), and the last id that they cover.

        A chunk is found by the index, or it lies above the indexed ids and is read.
        """
        match = self._filter.match
        indexed = queries.indexed_upto(connection) if match else 0
        if backwards:
            match, first = (match, first) if last <= indexed else ("", max(first, indexed + 1))
        else:
            match, last = (match, min(last, indexed)) if first <= indexed else ("", last)
        rows = queries.find(connection, first, last, self._filter.times, match, CHUNK_ROWS, backwards=backwards)
        if len(rows) == CHUNK_ROWS:
            return rows, rows[-1][0]
        return rows, first if backwards else last

    def _checked(self, row: Any) -> _Row:
        """Return a row that has the types and values of a message."""
        number, time, sender, kind, text = row
        is_valid = type(time) is float and 0 <= time < END_OF_TIME and type(sender) is type(text) is str
        if is_valid and kind in queries.KINDS:
            return number, time, sender, kind, text
        raise self._error(f"is damaged (message {number}); restore a backup")

    def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return a query's result from one moment of the file.

        With a log SQLite sees to that. Without one no server has the file, and it is read without locks; if a server
        came meanwhile, read it again.
        """
        while True:
            state = self._state_without_log()
            try:
                result = self._read_once(query, immutable=state is not None)
            except HistoryError:
                if state is None or state == self._state_without_log():
                    raise
            else:
                if state is None or state == self._state_without_log():
                    return result

    def _read_once(self, query: Callable[[sqlite3.Connection], _T], *, immutable: bool) -> _T:
        """Return a query's result. immutable: SQLite takes no lock, and makes no log beside the file."""
        mode = "ro&immutable=1" if immutable else "ro"
        try:
            with closing(connect(self._path, mode=mode, busy_seconds=BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                check_version(self._name, *queries.identify(connection))
                return query(connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # without: Python's, of text not UTF-8
            raise self._error(_REASONS.get(code & 0xFF, f"can't be read: {error}")) from None

    def _state_without_log(self) -> tuple[int, int, int] | None:
        """Return (inode, bytes, time of change in ns): all are the same while no server has the file.

        None if there is a log: a server has the file now, or had it when it crashed.
        """
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise self._error(f"can't be read: {os.strerror(error.errno or 0)}") from None
        if not stat.S_ISREG(found.st_mode):
            raise self._error("isn't an ordinary file; choose another file")
        if not os.access(self._path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise self._error("can't be read: Permission denied")
        if any(os.path.exists(f"{self._path}{suffix}") for suffix in ("-wal", "-journal")):
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _error(self, text: str) -> HistoryError:
        """Return an error that begins with the file's name."""
        return HistoryError(f"{self._name} {text}")
