"""SqliteHistory. docs/history.md says what it guarantees, and how large and fast it is."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from chatkit.events import Message
from chatkit.history.base import History, HistoryError
from chatkit.history.sqlite import files, queries
from chatkit.history.sqlite.files import DamagedHistory, translate_errors
from chatkit.history.sqlite.locks import ContentLock, NameLock, TakenHistory, inode_of, taken_error
from chatkit.history.sqlite.maintenance import AgeClock, Maintenance

logger = logging.getLogger("chatkit")

# So many ids are reserved in the file at a time. After a crash ids go on above them: any of them may have been shown.
RESERVED_IDS = 1_000_000

# A disk that damages every file must not be filled with damaged files: one is put aside in so many seconds.
PUT_ASIDE_SECONDS = 60.0

SYNC = ("normal", "full")


class SqliteHistory(History):
    """A history in an SQLite file.

    Args:
        path: the file. It is made if there is none, readable for its owner alone.
        keep: the number of messages to keep, None for all.
        days: the age in days at which messages are pruned, None for never.
        sync: "normal": a crash of the process loses nothing, a power failure at most the last 10 seconds.
            "full": neither loses anything, and each commit waits for the disk.

    Raises:
        ValueError: `keep` or `days` isn't above zero, or `sync` is neither of the two.

    Resource handling: `open` takes two connections and a lock file beside `path`; `close` frees them. A file of an
        older version is migrated. A damaged file is renamed, never overwritten, and a new one is begun; the logger
        `chatkit` says so. A file that is removed or replaced while it is open stays as it is: appends go to `path`. If
        the lock file was removed, too, and another server has taken `path`, each append raises HistoryError.

    Threads: `read` has a connection of its own; one thread may call it while another calls the other methods.
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
        self._path = Path(os.path.realpath(path))  # the log and the lock are beside the file, not beside a link
        self._names = {suffix: f"{self._path}{suffix}" for suffix in files.SUFFIXES}
        self._sync, self._keep, self._days = sync, keep, days
        self._reader_lock = threading.RLock()
        self._lock, self._content = NameLock(self._path), ContentLock()
        self._is_open = self._is_taken = False
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._maintenance: Maintenance | None = None
        self._clock = AgeClock()
        self._inodes: files.Inodes = {}  # of the files that are open
        self._reserved = 0  # ids up to this one are reserved in the file
        self._unsaved_unused: list[tuple[int, int]] = []
        self._unsaved_epochs: Mapping[str, int] = {}
        self._is_damaged = False  # set by the reader
        self._put_aside_until = 0.0

    def open(self) -> None:
        """Lock the file, and make, migrate or put it aside where necessary.

        Raises:
            HistoryError: another server has the file, it isn't a history of chatkit, a newer chatkit wrote it, or the
                disk fails. Also for a damaged file, if one was put aside within the last minute.
        """
        if self._is_open:
            raise taken_error(self._path)
        with ExitStack() as stack:
            stack.callback(self.close)
            self._is_open, self._is_taken, self._clock = True, False, AgeClock()
            self.epoch, self._unsaved_unused = "", []  # what another server did meanwhile counts
            with translate_errors(self._path):
                self._lock.acquire()
            try:
                self._connect()
            except DamagedHistory as damaged:
                self._put_aside(damaged)
            stack.pop_all()

    def append(self, messages: Sequence[Message]) -> None:
        """Commit all of these messages in one transaction, or none."""
        try:
            self._check_file()
            self._append(messages)
        except DamagedHistory as damaged:
            self._put_aside(damaged)
            self._append(messages)

    def skip(self, first: int, last: int) -> None:
        """Mark ids as unused; the next `append` or `close` writes that to the file."""
        added = self.add_unused(first, last)
        if self._unsaved_unused and self._unsaved_unused[-1][0] == added[0]:
            self._unsaved_unused[-1] = added  # it continues the last one
        else:
            self._unsaved_unused.append(added)
        self.newest_id = last

    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        """Return the first messages with ids above `after` up to `upto`, about `max_bytes` long, at most a thousand."""
        with self._reader_lock, translate_errors(self._path):
            self._check_open()
            if not self._reader:
                self._lock.check()
                self._reader = files.open_reader(self._path)
            try:
                return queries.select(self._reader, after, upto, max_bytes)
            except sqlite3.DatabaseError as error:
                self._is_damaged = getattr(error, "sqlite_errorname", "").startswith("SQLITE_CORRUPT")
                raise

    def maintain(self, *, idle: bool) -> float:
        """Prune, checkpoint, and if idle index, for a few milliseconds. Return the seconds until the next call.

        There is nothing to do in a file that another server has taken: `append` says so.
        """
        oldest_to_keep = None if self._keep is None else self.cursor_before_last(self.newest_id, self._keep) + 1
        try:
            self._check_file()
            if not self._maintenance:
                self._connect()
            assert self._maintenance
            with translate_errors(self._path):
                seconds = self._maintenance.step(idle=idle, oldest_to_keep=oldest_to_keep)
            self.pruned_upto = max(self.pruned_upto, self._maintenance.pruned_upto)
            return seconds
        except TakenHistory:
            return math.inf
        except DamagedHistory as damaged:
            self._put_aside(damaged)
            return 0.0

    def close(self) -> None:
        """Write the last ids, close the file and unlock it. Errors are ignored: every commit is in the file already."""
        if not self._is_open:
            return
        with suppress(HistoryError), translate_errors(self._path):
            if self._writer:
                self._check_lock()
            if self._writer:
                self._append_in_transaction(self._writer, (), self.newest_id)
        self._is_open = False  # from here on no method connects again
        self._disconnect()
        self._lock.release()

    def _connect(self) -> sqlite3.Connection:
        """Open the file for writing. A file that is new to a running epoch goes on with the epoch and its ids."""
        with translate_errors(self._path):
            try:
                with ExitStack() as stack:
                    writer = files.open_writer(self._path, self._lock, self._content, sync=self._sync)
                    stack.callback(writer.close)
                    self._load_state(writer)
                    self._replace_reader()
                    self._writer, self._maintenance = writer, Maintenance(writer, self._days, self._clock)
                    stack.pop_all()
            finally:
                self._inodes = files.inodes_of(self._path)
            return writer

    def _replace_reader(self) -> None:
        """Open the file for reading. Another read may have opened it as it was before."""
        with self._reader_lock:
            before, self._reader = self._reader, None
            if before:
                before.close()
            self._reader = files.open_reader(self._path)

    def _load_state(self, writer: sqlite3.Connection) -> None:
        """Go on after the ids of the file, in a new epoch; or after those of the running one, if the file is new to it.

        Ids are reserved before the first is given.
        """
        epoch, self._reserved = queries.read_state(writer)
        newest = queries.newest_id(writer)
        self.pruned_upto = queries.oldest_id(writer) - 1
        is_first = not self.epoch
        if is_first:
            self._begin_epoch(writer, epoch, newest)
        elif epoch != self.epoch:
            self._unsaved_unused, self._unsaved_epochs = list(self.unused), dict(self.earlier_epochs)
        try:
            self._append_in_transaction(writer, (), max(self._reserved, self.newest_id + RESERVED_IDS))
        except sqlite3.OperationalError:
            if not is_first:
                raise
            # A locked file doesn't keep a server from starting: the first commit tries again.

    def _begin_epoch(self, writer: sqlite3.Connection, epoch: str, newest: int) -> None:
        """Go on after the last epoch, in a new one.

        Each start has its own: the file may be a backup that was put back, and its next ids were given before, to
        clients that come back with the epoch of these. A file can't tell.
        """
        self.unused, self.newest_id = queries.read_unused(writer), max(newest, self._reserved)
        known = max(newest, self.unused[-1][1] if self.unused else 0)
        # `close` reserves no more ids than were given. After a crash many are reserved; each may have been given.
        if self._reserved - known >= RESERVED_IDS // 2:
            self._unsaved_unused = [self.add_unused(known + 1, self._reserved)]
        if not newest:  # there never were messages, or all of them were pruned
            self.pruned_upto = self.newest_id
        self._unsaved_epochs = {epoch: self.newest_id}
        self.earlier_epochs = queries.read_epochs(writer) | self._unsaved_epochs
        self.epoch = os.urandom(8).hex()

    def _append(self, messages: Sequence[Message]) -> None:
        """Commit messages; reserve more ids when half of the reserved ones are given."""
        self._check_open()
        writer = self._writer or self._connect()
        newest = messages[-1].id or 0 if messages else self.newest_id
        reserved = self._reserved
        if newest >= reserved - RESERVED_IDS // 2:
            reserved = newest + RESERVED_IDS
        with translate_errors(self._path):
            if 0 < len(messages) <= queries.ROWS_AT_ONCE and reserved == self._reserved and not self._unsaved_unused:
                queries.insert(writer, messages)  # one statement is a transaction of its own
            else:
                self._append_in_transaction(writer, messages, reserved)
        self.newest_id = max(self.newest_id, newest)
        assert self._maintenance
        self._maintenance.count(messages)

    def _append_in_transaction(self, writer: sqlite3.Connection, messages: Sequence[Message], reserved: int) -> None:
        """Commit messages, reserved ids, unused ids and earlier epochs together."""
        with queries.transaction(writer):
            queries.write_unused(writer, self._unsaved_unused)
            queries.write_epochs(writer, self._unsaved_epochs)
            queries.write_state(writer, self.epoch, reserved)
            for start in range(0, len(messages), queries.ROWS_AT_ONCE):
                queries.insert(writer, messages[start : start + queries.ROWS_AT_ONCE])
        self._reserved, self._unsaved_unused, self._unsaved_epochs = reserved, [], {}

    def _check_open(self) -> None:
        """Raise HistoryError unless the history is open."""
        if not self._is_open:
            raise HistoryError(f"{self._path} is closed; call open() first")

    def _check_lock(self) -> None:
        """Raise TakenHistory, now and ever after, once another server has taken the files.

        If only the lock file was removed, and no other server came, lock a new one.
        """
        with translate_errors(self._path):
            if self._lock.is_held and not self._is_taken:
                return
            if not self._is_taken and self._is_untouched():
                with suppress(TakenHistory):
                    self._lock.acquire()
                    return
            self._is_taken = True
            if self._writer and self._has_moved(""):
                self._write_log(self._writer)  # into a file that was renamed; it isn't the other server's
            self._close_writer()
        raise TakenHistory(
            f"another server has taken {self._path}, since its lock file was removed; "
            "end this server, or start it again with another file"
        )

    def _is_untouched(self) -> bool:
        """Tell whether nobody wrote where the files of this history are or were. Each server that starts writes."""
        for suffix in ("", "-wal"):
            if self._has_moved(suffix) and files.size_of(self._names[suffix]):
                return False
        return not self._writer or queries.read_state(self._writer) == (self.epoch, self._reserved)

    def _check_file(self) -> None:
        """Raise DamagedHistory if the reader has found damage. Let go of files that were removed or replaced."""
        self._check_open()
        self._check_lock()
        with translate_errors(self._path):
            if self._writer and self._has_moved(""):
                self._release_renamed(self._writer, self._path)
            # Without its name a log would be lost at a crash. A reader may need it until its transaction ends.
            elif self._writer and self._has_moved("-wal") and queries.checkpoint(self._writer, "PASSIVE"):
                self._release_renamed(self._writer, self._names["-wal"])
        if self._is_damaged:
            raise DamagedHistory(f"{self._path} is damaged (old messages can't be read)")

    def _has_moved(self, suffix: str) -> bool:
        """Tell whether a file that is open has lost its name."""
        return inode_of(self._names[suffix]) != self._inodes.get(suffix)

    def _release_renamed(self, writer: sqlite3.Connection, name: str | Path) -> None:
        """Write the log into the file, wherever it is now, and close it. Remove no files but its own."""
        logger.error("%s was removed or replaced: new messages go into the new file of this name", name)
        self._write_log(writer)
        files.remove_log(self._path, self._inodes, self._lock)
        self._close_writer()
        self._disconnect()
        self._is_damaged = False

    def _write_log(self, writer: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error):
            queries.checkpoint(writer, "TRUNCATE")

    def _close_writer(self) -> None:
        """Close the writer, and leave the log alone, or the one that has its name now: the reader is still open."""
        if self._writer:
            with suppress(sqlite3.Error):
                self._writer.close()
        self._writer = self._maintenance = None

    def _put_aside(self, damaged: DamagedHistory) -> None:
        """Rename the damaged file, and go on with the epoch in a new one; but only once in PUT_ASIDE_SECONDS."""
        with self._reader_lock:  # a read waits for the new file: between the two there is none
            self._disconnect()
            self._is_damaged = False
            if time.monotonic() < self._put_aside_until:
                raise HistoryError(str(damaged))
            self._put_aside_until = time.monotonic() + PUT_ASIDE_SECONDS
            with translate_errors(self._path):
                aside = files.put_aside(self._path, self._inodes, self._lock)
            logger.error("%s: it is kept as %s, and a new history begins", damaged, aside)
            self._connect()

    def _disconnect(self) -> None:
        """Close both connections; the reader's once no read is under way."""
        with self._reader_lock:
            with suppress(sqlite3.Error):
                for connection in (self._reader, self._writer):
                    if connection:
                        connection.close()
            self._reader = self._writer = self._maintenance = None
            self._content.release()
