"""Messages in an SQLite file. docs/history.md says what is guaranteed, and how large and fast it is."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chatkit.events import Message
from chatkit.history.base import History, HistoryError
from chatkit.history.sqlite.files import (
    BESIDE,
    Damaged,
    connect,
    in_words,
    inode,
    length,
    lock,
    open_writer,
    put_aside,
    unlock,
)
from chatkit.history.sqlite.maintenance import Upkeep
from chatkit.history.sqlite.queries import (
    ROWS_AT_ONCE,
    checkpoint,
    insert,
    newest_id,
    oldest_id,
    read_state,
    read_unused,
    select,
    transaction,
    write_state,
    write_unused,
)

logger = logging.getLogger("chatkit")

# After a crash ids go on above those that may have been given: so many are reserved at a time, in the file.
RESERVED_IDS = 1_000_000

# The log beside the file has so many pages of 4 KiB at the most, unless a reader holds it.
LOG_PAGES = 4000

# How often a damaged file is put aside at the most.
PUT_ASIDE_SECONDS = 60.0

SYNC = ("normal", "full")


class SqliteHistory(History):
    """A history in the file `path`, which is made, readable for its owner alone, if there is none.

    keep: how many messages are kept, None for all. days: for how many days, None for ever.
    sync: `normal`: `kill -9` loses nothing, a power failure at most the last 10 seconds; `full`: neither loses anything,
        and each commit waits for the disk.

    Resource handling: two connections, a lock file beside. A damaged file is renamed, never overwritten, and a new one
    begun; the log (`chatkit`) says so.

    ValueError: `keep` or `days` isn't above zero, or `sync` is something else.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, keep: int | None = None, days: float | None = None, sync: str = "normal"
    ) -> None:
        if sync not in SYNC:
            raise ValueError(f"sync must be normal or full, not {sync!r}")
        if not all(value is None or value > 0 for value in (keep, days)):
            raise ValueError("keep and days must be above zero")
        self.epoch = ""
        self.newest_id = 0
        self.unused = []
        self._path = Path(os.path.realpath(path))  # its siblings and its lock are where the file is
        self._sync, self._keep, self._days = sync, keep, days
        self._reading = threading.Lock()
        self._lock: int | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._upkeep: Upkeep | None = None
        self._reserved = 0
        self._inode: int | None = None
        self._is_damaged = False  # a reader has seen it
        self._put_aside_until = 0.0
        self._unwritten: list[tuple[int, int]] = []

    def open(self) -> None:
        with in_words(self._path):
            self._lock = lock(self._path)
        try:
            self._connect_or_begin_anew()
        except BaseException:
            self.close()
            raise

    def append(self, messages: Sequence[Message]) -> None:
        try:
            self._check_again()
            self._append(messages)
        except Damaged as damaged:
            self._put_aside(damaged)
            self._append(messages)

    def skip(self, first: int, last: int) -> None:
        self._unwritten.append(self.add_unused(first, last))
        self.newest_id = last

    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        with self._reading, in_words(self._path):
            self._check_open()
            if not self._reader:
                self._reader = connect(self._path, mode="ro")
            try:
                return select(self._reader, after, upto, max_bytes)
            except sqlite3.DatabaseError as error:
                self._is_damaged = getattr(error, "sqlite_errorname", "").startswith("SQLITE_CORRUPT")
                raise

    def maintain(self, *, idle: bool) -> float:
        oldest_to_keep = None if self._keep is None else self.cursor_before_last(self.newest_id, self._keep) + 1
        try:
            self._check_again()
            if not self._upkeep:
                self._connect()
            assert self._upkeep
            with in_words(self._path):
                seconds = self._upkeep.step(idle=idle, oldest_to_keep=oldest_to_keep)
            self.pruned_upto = max(self.pruned_upto, self._upkeep.pruned_upto)
            return seconds
        except Damaged as damaged:
            self._put_aside(damaged)
            return 0.0

    def close(self) -> None:
        with suppress(HistoryError), in_words(self._path):
            if self._writer:
                self._append_with_more(self._writer, (), self.newest_id)
        descriptor, self._lock = self._lock, None  # from here on nobody connects again
        self._disconnect()
        if descriptor is not None:
            unlock(self._path, descriptor)

    def _connect_or_begin_anew(self) -> None:
        try:
            self._connect()
        except Damaged as damaged:
            self._put_aside(damaged)

    def _connect(self) -> sqlite3.Connection:
        """Open the file, which may be a new one: in the middle of a room's life its name and ids go on in it."""
        with in_words(self._path):
            # `Upkeep` does the checkpoints when nobody waits; its own steps may write more than was said.
            writer = open_writer(self._path, sync=self._sync, log_pages=LOG_PAGES)
            try:
                self._take_over(writer)
            except BaseException:
                writer.close()
                raise
            self._writer, self._upkeep, self._inode = writer, Upkeep(writer, self._days), inode(self._path)
            return writer

    def _take_over(self, writer: sqlite3.Connection) -> None:
        """Go on with the ids where the file, or this room, left off; reserve some before the first is given."""
        name, self._reserved = read_state(writer)
        newest = newest_id(writer)
        self.pruned_upto = oldest_id(writer) - 1
        unused = read_unused(writer)
        if self.epoch and name != self.epoch:
            self._unwritten = list(self.unused)
        elif not self.epoch:
            self.epoch, self.unused, self.newest_id = name, unused, max(newest, self._reserved)
            known = max(newest, unused[-1][1] if unused else 0)
            # An orderly end leaves as many as the file couldn't take; after a crash nobody knows which were given.
            if self._reserved - known >= RESERVED_IDS // 2:
                self._unwritten = [self.add_unused(known + 1, self._reserved)]
            if not newest:  # nothing, or all of it was pruned
                self.pruned_upto = self.newest_id
        reserved = max(self._reserved, self.newest_id + RESERVED_IDS)
        try:
            write_state(writer, self.epoch, reserved)
            self._reserved = reserved
        except sqlite3.OperationalError:
            if name != self.epoch:
                raise
            # The first commit tries again: a locked file is no reason not to begin.

    def _append(self, messages: Sequence[Message]) -> None:
        self._check_open()
        writer = self._writer or self._connect()
        newest = messages[-1].id or 0 if messages else self.newest_id
        reserved = self._reserved
        if newest >= reserved - RESERVED_IDS // 2:
            reserved = newest + RESERVED_IDS
        with in_words(self._path):
            if 0 < len(messages) <= ROWS_AT_ONCE and reserved == self._reserved and not self._unwritten:
                insert(writer, messages)  # a transaction of its own
            else:
                self._append_with_more(writer, messages, reserved)
        self.newest_id = max(self.newest_id, newest)
        assert self._upkeep
        self._upkeep.count(messages)

    def _append_with_more(self, writer: sqlite3.Connection, messages: Sequence[Message], reserved: int) -> None:
        with transaction(writer):
            write_unused(writer, self._unwritten)
            write_state(writer, self.epoch, reserved)
            for start in range(0, len(messages), ROWS_AT_ONCE):
                insert(writer, messages[start : start + ROWS_AT_ONCE])
        self._reserved, self._unwritten = reserved, []

    def _check_open(self) -> None:
        if self._lock is None:
            raise HistoryError(f"{self._path} is closed")

    def _check_again(self) -> None:
        """Damaged: a reader has seen that. If somebody removed or replaced the file, the one of that name counts."""
        if self._is_damaged:
            raise Damaged(f"{self._path} is damaged (what was said before can't be read)")
        if self._writer and inode(self._path) != self._inode:
            logger.error("%s was removed or replaced: what is said from now on goes into the new file", self._path)
            self._let_go()

    def _let_go(self) -> None:
        """The file has another name now, if any: its log is written into it, so that nobody takes it for a new file's."""
        assert self._writer
        with suppress(sqlite3.Error):
            checkpoint(self._writer, "TRUNCATE")
        self._disconnect()
        for suffix in BESIDE[1:]:
            beside = Path(f"{self._path}{suffix}")
            if suffix == "-wal" and length(beside):
                os.rename(beside, f"{self._path}.removed-{time.time_ns()}-wal")
            beside.unlink(missing_ok=True)

    def _put_aside(self, damaged: Damaged) -> None:
        """The room goes on in a new file; the damaged one is kept. But a disk that damages every file shan't be filled."""
        self._disconnect()
        self._is_damaged = False
        if time.monotonic() < self._put_aside_until:
            raise HistoryError(str(damaged))
        self._put_aside_until = time.monotonic() + PUT_ASIDE_SECONDS
        with in_words(self._path):
            aside = put_aside(self._path)
        logger.error("%s: it is kept as %s, and a new history begins", damaged, aside)
        self._connect()

    def _disconnect(self) -> None:
        with self._reading, suppress(sqlite3.Error):
            for connection in (self._reader, self._writer):
                if connection:
                    connection.close()
        self._reader = self._writer = self._upkeep = None
