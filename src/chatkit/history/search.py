"""Finds messages in a history's file, also while a server writes it; changes nothing, and keeps nothing open.

Each chunk is read through a connection of its own: between two of them a pager may wait for hours, and any that is
open meanwhile keeps the server from shrinking, and at its end from removing, its write-ahead log.
"""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from chatkit.events import Message
from chatkit.history.base import HistoryError
from chatkit.history.sqlite.files import FOREIGN, check_version
from chatkit.history.sqlite.queries import (
    KINDS,
    find,
    identify,
    indexed_upto,
    newest_id,
)
from chatkit.protocol.names import name_key

# A thousand of the longest lines are 8 MB; to open the file anew costs a tenth of what so many short ones cost.
CHUNK_ROWS = 1000
# Any few of a pattern's trigrams find every message that has all of it; more only leave less to look at.
MAX_TRIGRAMS = 32
END_OF_TIME = 253_402_214_400.0  # 9999-12-31: a datetime has no later day in every time zone

_DAMAGED = "is damaged"
_UNFINISHED = "can't be read: its server didn't end in order, and to see what it left the folder must be writable"
_FAULTS = {
    sqlite3.SQLITE_NOTADB: FOREIGN,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_ERROR: _DAMAGED,  # a table isn't there
    sqlite3.SQLITE_CANTOPEN: _UNFINISHED,
    sqlite3.SQLITE_READONLY: _UNFINISHED,
}

_Row = tuple[int, float, str, str, str]
_T = TypeVar("_T")


def browse(
    path: str | os.PathLike[str],
    *,
    last: int | None = None,
    since: float | None = None,
    sender: str | None = None,
    text: str | None = None,
) -> Iterator[Message]:
    """The messages that are in the file when the first of them is asked for, oldest first.

    path: a history, as a server writes it; it may be writing now.
    last: only so many, the newest of those that match.
    since: only those said at this time or later, in seconds since the epoch.
    sender: only those of the member that had this name (`Ada` and `ada` are one name).
    text: only those that hold this somewhere, in capitals or not, as `fold` has it. By SQLite's full-text index where
        the file and this Python have one; what it finds is the same without.

    HistoryError: there is no such history, or it is damaged; also in the middle. ValueError: `text` isn't valid Unicode.
    """
    reader = _Reader(os.fspath(path), _Wanted(since, sender, text))
    oldest, newest = 1, reader.newest()
    if last is not None:  # found backwards, then told forwards: however many, none are kept
        ids = deque((row[0] for row in islice(reader.rows(oldest, newest, backwards=True), last)), maxlen=1)
        oldest = ids[0] if ids else newest + 1
    for number, time, name, kind, said in reader.rows(oldest, newest):
        yield KINDS[kind](name, said, number, time)


class _Folding(dict[int, int]):
    """One letter for one letter, never `ss` for `ß`, and only those that Unicode 3.2 had: FTS5 knows at least these."""

    def __missing__(self, code: int) -> int:
        letter = chr(code)
        folded = min(letter.casefold(), letter.lower(), key=len)
        is_known = len(folded) == 1 and unicodedata.ucd_3_2_0.category(letter) != "Cn"
        self[code] = ord(folded) if is_known else code
        return self[code]


_FOLDING = _Folding()


def fold(text: str) -> str:
    """`text` as a search sees it: capitals and small letters are one, in any script."""
    return text.lower() if text.isascii() else text.translate(_FOLDING)


class _Wanted:
    """Which messages are looked for.

    match: what to ask FTS5: it finds all of those and maybe more. Empty where it can't be asked.
    """

    def __init__(self, since: float | None, sender: str | None, text: str | None) -> None:
        self.since = -math.inf if since is None else since
        self._key = None if sender is None else name_key(sender)
        self._folded = fold(text or "")
        self._casefolded = (text or "").casefold()
        self.match = _trigrams(self._folded)

    def __contains__(self, row: _Row) -> bool:
        _, _, sender, _, text = row
        if self._key is not None and name_key(sender) != self._key:
            return False
        # What `fold` makes equal, casefold does too, in a tenth of the time where a text isn't ASCII.
        return self._casefolded in text.casefold() and self._folded in fold(text)


def _trigrams(text: str) -> str:
    """An FTS5 query for them. The index is made without positions: it knows three letters in a row, and no more."""
    text.encode()
    trigrams = dict.fromkeys(text[start : start + 3] for start in range(len(text) - 2))
    usable = [three.replace('"', '""') for three in trigrams if "\0" not in three]  # a NUL ends a query
    return " AND ".join(f'"{three}"' for three in usable[:MAX_TRIGRAMS])


class _Reader:
    """Reads what is wanted from one file. Nothing is open between two calls."""

    def __init__(self, path: str, wanted: _Wanted) -> None:
        self._name = path
        self._path = os.path.realpath(path)  # as SQLite does before it looks for what stands beside
        self._wanted = wanted

    def newest(self) -> int:
        """The newest message's id, 0 before the first."""
        return self._ask(newest_id)

    def rows(self, first: int, last: int, *, backwards: bool = False) -> Iterator[_Row]:
        """What is wanted of the messages with ids from `first` to `last`."""
        while first <= last:
            rows, done = self._ask(partial(self._chunk, first, last, backwards))
            yield from (row for row in map(self._checked, rows) if row in self._wanted)
            first, last = (first, done - 1) if backwards else (done + 1, last)

    def _chunk(self, first: int, last: int, backwards: bool, connection: sqlite3.Connection) -> tuple[list[Any], int]:
        """(rows from the beginning of that span, or from its end; the id up to which these are all there are)"""
        indexed = indexed_upto(connection) if self._wanted.match else 0
        if backwards:
            match, first = (self._wanted.match, first) if last <= indexed else ("", max(first, indexed + 1))
        else:
            match, last = (self._wanted.match, min(last, indexed)) if first <= indexed else ("", last)
        rows = find(connection, first, last, self._wanted.since, match, CHUNK_ROWS, backwards=backwards)
        if len(rows) == CHUNK_ROWS:
            return rows, rows[-1][0]
        return rows, first if backwards else last

    def _checked(self, row: Any) -> _Row:
        """A row as a server writes it."""
        number, time, sender, kind, text = row
        if type(time) is float and 0 <= time < END_OF_TIME and type(sender) is type(text) is str and kind in KINDS:
            return number, time, sender, kind, text
        raise self._fault(f"{_DAMAGED} (message {number})")

    def _ask(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """The answer from one moment of the file's life."""
        while True:
            before = self._unserved()
            try:
                answer = self._ask_once(query, immutable=before is not None)
            except HistoryError:
                if self._is_still(before):
                    raise
            else:
                if self._is_still(before):
                    return answer

    def _is_still(self, before: tuple[int, int, int] | None) -> bool:
        """Whether what was read holds: SQLite sees to it where there is a log, else nobody must have written."""
        return before is None or before == self._unserved()

    def _ask_once(self, query: Callable[[sqlite3.Connection], _T], *, immutable: bool) -> _T:
        """immutable: nobody writes, so SQLite needs no log beside the file, and leaves none."""
        uri = f"{Path(self._path).as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
        try:
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                self._check(connection)
                return query(connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # without: Python's, of text not UTF-8
            raise self._fault(_FAULTS.get(code & 0xFF, f"can't be read: {error}")) from None

    def _check(self, connection: sqlite3.Connection) -> None:
        check_version(self._name, *identify(connection))

    def _unserved(self) -> tuple[int, int, int] | None:
        """What differs after a server had the file; None where one has it now, or had it when it crashed."""
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise self._fault(f"can't be read: {os.strerror(error.errno or 0)}") from None
        if not stat.S_ISREG(found.st_mode):
            raise self._fault("isn't an ordinary file")
        if not os.access(self._path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise self._fault("can't be read: Permission denied")
        if any(os.path.exists(f"{self._path}{suffix}") for suffix in ("-wal", "-journal")):
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _fault(self, what: str) -> HistoryError:
        return HistoryError(f"{self._name} {what}")
