"""Commits messages to a history that may be slow or fail, then fans them out.

Operations: `put` queues an item; the committer's thread commits everything queued at once and fans it out.
Goal: no member sees a message before it is stored, and a disk that hangs blocks neither the room nor the workers.
Plan: three threads. The writer calls the history; the committer waits for it, at most `Limits.history_seconds`, then
goes on without it; the reader serves replays. So a hanging disk blocks the writer and the reader only.

In these threads a history fails with whatever it raises: SystemExit in one must not end the room.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from os import PathLike
from queue import Empty, SimpleQueue
from typing import Any

from chatkit.events import Message
from chatkit.history.base import History
from chatkit.limits import Limits
from chatkit.protocol.replies import NOT_KEPT
from chatkit.room.batch import Batch, Item
from chatkit.room.listing import Listing
from chatkit.room.pages import PageRequest, Pages

logger = logging.getLogger("chatkit")

# Workers stop reading when this much waits to be committed: as much as one of their turns reads.
MAX_WAITING_BYTES = 1024 * 1024
ITEM_BYTES = 500  # the memory of an item itself, without its content
# At the start the newest messages are read in portions of this size.
LOADED_BYTES = 1024 * 1024
# `end` waits no longer than this for a history that already fails.
HUNG_SECONDS = 0.1
FAILED_START_SECONDS = 1.0  # for the end of the threads that were started
# How often to retry after a failure; less often if it fails again within a minute, as on a disk that is nearly full.
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0
CALM_SECONDS = 60.0
# A failed read is tried once more, so that a short failure doesn't leave a gap.
READ_ATTEMPTS = 2
# Maintenance waits this long after a commit, unless it is due earlier.
PAUSE_SECONDS = 0.1

FanOut = Callable[[Item], None]


class JobThread(threading.Thread):
    """A thread that runs jobs in order. A daemon: a hanging disk must not keep the process alive."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def do(self, call: Callable[[], Any]) -> Future[Any]:
        """Queue a call. Returns the future of its result."""
        future: Future[Any] = Future()
        self._jobs.put((future, call))
        return future

    def end(self, seconds: float) -> None:
        """End after the queued jobs, if it was started; return after `seconds` at the latest, even if one hangs."""
        self._jobs.put(None)
        _join(self, seconds)

    def run(self) -> None:
        while job := self._jobs.get():
            future, call = job
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


def _join(thread: threading.Thread, seconds: float) -> None:
    """Wait for the end of a thread, if it was started."""
    if thread.is_alive():
        thread.join(seconds)


class HistoryReader:
    """A thread that reads from `history`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._thread = JobThread("chatkit-history-reader")
        self._ending = threading.Event()
        self._failures = 0  # in a row

    def start(self) -> None:
        self._thread.start()

    def begin_end(self) -> None:
        """Stop retrying and logging failed reads."""
        self._ending.set()

    def end(self, seconds: float) -> None:
        """End the thread, after `begin_end`; return after `seconds` at the latest."""
        self._thread.end(seconds)

    def read(self, request: PageRequest, deliver: Callable[[list[Message]], None]) -> None:
        """Call deliver(messages) in the reader's thread, with none if they can't be read."""
        self._thread.do(lambda: deliver(self._read(request)))

    def _read(self, request: PageRequest) -> list[Message]:
        while True:
            try:
                messages = self._history.read(request.after, request.upto, request.max_bytes)
                self._failures = 0
                return messages
            except BaseException as error:
                self._failures += 1
                if self._failures == READ_ATTEMPTS and not self._ending.is_set():
                    logger.error("the history can't be read: %s", error)
            if self._failures >= READ_ATTEMPTS or self._ending.wait(RETRY_SECONDS):
                return []


class Committer:
    """The stage between a publisher and its subscribers: it commits messages, then fans them out.

    Args:
        history: the history; `start` opens it, `end` closes it.
        required: whether a message that can't be stored is refused. If not, it is fanned out and counted.

    Attributes:
        failure: the reason why messages can't be committed at the moment, or "".
        unstored: the number of messages that were fanned out but not stored.
    """

    def __init__(self, history: History, limits: Limits, *, required: bool) -> None:
        self.history = history
        self.required = required
        self.failure = ""
        self.unstored = 0
        self._limits = limits
        self._fan_out: FanOut
        self._pages: Pages
        self._failed: Callable[[BaseException], None]
        self._newest_id = 0
        self._is_open = False
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._put_bytes = self._taken_bytes = 0  # each has one writer: under the room's lock, and the thread
        self._thread = threading.Thread(target=self._run, name="chatkit-committer", daemon=True)
        self._writer, self._reader = JobThread("chatkit-history-writer"), HistoryReader(history)
        self._last_job: tuple[Future[Any], int]  # of the writer, and the number of messages that it stores
        self._maintain_at = 0.0
        self._unstored_before = 0
        self._retry_seconds, self._healthy_since = RETRY_SECONDS, -math.inf
        self._maintenance_fails = False
        self._unkept_upto = 0

    @property
    def is_backlogged(self) -> bool:
        """Whether so much waits to be committed that workers should stop reading."""
        return self._put_bytes - self._taken_bytes >= MAX_WAITING_BYTES

    def attach(self, pages: Pages, fan_out: FanOut) -> None:
        """Connect the committer to its publisher, before `start`.

        Args:
            pages: receives the newest messages at the start, and the ids that are pruned later.
            fan_out: called with each item, in the order of `put`, in one thread.
        """
        self._pages, self._fan_out = pages, fan_out

    def start(self, failed: Callable[[BaseException], None]) -> int:
        """Open the history and start the threads.

        Args:
            failed: called with the exception that ends the committer's thread, if there is one.

        Returns:
            The last id that was given, 0 if there is none.

        Raises:
            HistoryError: the history can't be opened.
        """
        self._failed = failed
        with ExitStack() as stack:
            self.history.open()
            self._is_open = True
            stack.callback(self.end, FAILED_START_SECONDS)
            self._newest_id = newest = self.history.newest_id
            self._load(newest)
            for thread in (self._writer, self._reader, self._thread):
                thread.start()
            stack.pop_all()
            return newest

    def _load(self, newest: int) -> None:
        """Read the newest messages into memory."""
        self._pages.recent.newest_id = newest
        after = self.history.cursor_before_last(newest, self._limits.history_size)
        try:
            while after < newest and (messages := self.history.read(after, newest, LOADED_BYTES)):
                self._pages.append(messages)
                after = messages[-1].id or newest
        except Exception as error:
            logger.error("only a part of the history could be loaded: %s", error)

    def end(self, seconds: float) -> bool:
        """Commit and fan out everything queued, and close the history, within `seconds`; also after half a start.

        Returns:
            Whether it had been started.
        """
        if not self._is_open:
            return False
        self._is_open = False
        until = time.monotonic() + seconds
        self._queue.put(None)
        _join(self._thread, seconds)
        self._reader.begin_end()
        if self._writer.is_alive():
            self._writer.do(self._close)
        else:
            self._close()
        for thread in (self._writer, self._reader):
            thread.end(HUNG_SECONDS if self.failure else max(0.0, until - time.monotonic()))
        return True

    def put(self, item: Item) -> None:
        """Queue an item to be committed and fanned out. Called under the room's lock; never waits."""
        if isinstance(item, Batch):
            self._newest_id = item.newest_id or self._newest_id
        self._put_bytes += _size(item)
        self._queue.put(item)

    def can_replay_after(self, after: int) -> bool:
        """Tell whether everything after this id is stored."""
        return after >= max(self._unkept_upto, self.history.pruned_upto)

    def read_older(self, request: PageRequest, deliver: Callable[[list[Message]], None]) -> None:
        """Call deliver(messages) in the reader's thread, with none if they can't be read."""
        self._reader.read(request, deliver)

    # In the writer's thread

    def _maintain(self, *, idle: bool) -> float:
        """Maintain the history, and return the seconds until the next time.

        This may fail while messages can still be stored, and the other way round: so `failure` isn't set here.
        """
        try:
            seconds = self.history.maintain(idle=idle)
            self._maintenance_fails = False
        except BaseException as error:
            if not self._maintenance_fails:
                logger.error("maintenance of the history failed: %s", error)
            self._maintenance_fails = True
            return RETRY_SECONDS
        return seconds

    def _close(self) -> None:
        self.history.newest_id = max(
            self.history.newest_id, self._newest_id
        )  # also of messages that it lacks, so that no id is given twice
        try:
            self.history.close()
        except BaseException as error:
            logger.error("closing the history failed: %s", error)

    # In the committer's thread

    def _run(self) -> None:
        try:
            while self._step(self._maintain_at - time.monotonic()):
                pass
        except BaseException as error:
            logger.critical("%s died", self._thread.name, exc_info=True)
            self._failed(error)

    def _step(self, patience: float) -> bool:
        """Commit and fan out everything queued, maintain the history when that is due. Returns False at the end."""
        items, is_open = self._take(patience)
        messages = [message for item in items if isinstance(item, Batch) for message in item.messages]
        stored = not messages or self._store(messages)
        self._taken_bytes += sum(map(_size, items))
        for item in items:
            if self.required and not stored and isinstance(item, Batch) and item.messages:
                self._refuse(item)
            else:
                self._fan_out(item)
        if self._maintain_at <= time.monotonic():
            self._maintain_when_due()
        return is_open

    def _take(self, patience: float) -> tuple[list[Item], bool]:
        """Take everything queued (one commit covers it). Returns (items, is_open)."""
        items = list[Item]()
        try:
            item = self._queue.get(timeout=None if patience == math.inf else max(0.0, patience))
            while item:
                items.append(item)
                item = self._queue.get_nowait()
        except Empty:
            return items, True
        return items, False

    def _store(self, messages: list[Message]) -> bool:
        """Commit messages. Returns whether they are stored.

        A failed history isn't tried here: the chat would wait for it each time. `_retry` tries it.
        """
        if not self.failure:
            self._do(partial(self.history.append, messages), len(messages))
        if self.failure:
            self.unstored += len(messages)
            self._unkept_upto = messages[-1].id or 0
        else:
            self._maintain_at = min(self._maintain_at, time.monotonic() + PAUSE_SECONDS)
        return not self.failure

    def _maintain_when_due(self) -> None:
        if self.failure:
            self._retry()
            self._maintain_at = time.monotonic() + self._retry_seconds
        else:
            seconds = self._do(partial(self._maintain, idle=self._queue.empty()))
            self._maintain_at = time.monotonic() + (self._retry_seconds if self.failure else seconds)
            self._pages.forget(self.history.pruned_upto)

    def _do(self, call: Callable[[], Any], messages: int = 0) -> Any:
        """Return the result of a call in the writer's thread; set `failure` if it fails or takes too long."""
        self._last_job = self._writer.do(call), messages
        try:
            return self._last_job[0].result(min(self._limits.history_seconds, threading.TIMEOUT_MAX))
        except TimeoutError:
            self.failure = f"it takes longer than {self._limits.history_seconds:g} seconds"
        except BaseException as error:
            self.failure = str(error) or repr(error)
        self._maintain_at = time.monotonic() + self._next_retry()
        self._unstored_before = self.unstored
        effect = "messages are refused" if self.required else "the chat continues without it"
        logger.error("cannot write to the history, %s: %s", effect, self.failure)
        return None

    def _next_retry(self) -> float:
        """Return the seconds until the next retry; they double if the history fails soon after a recovery."""
        is_recurring = time.monotonic() - self._healthy_since < CALM_SECONDS
        self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS) if is_recurring else RETRY_SECONDS
        return self._retry_seconds

    def _retry(self) -> None:
        """Check, without waiting, whether the last job is done; recover if it succeeded, else commit nothing to try."""
        future, messages = self._last_job
        if not future.done():
            return
        if future.exception() or (messages and self.required):  # refused messages must be forgotten, too
            self._last_job = self._writer.do(partial(self.history.append, ())), 0
            return
        self.failure = ""
        self._healthy_since = time.monotonic()
        self.unstored -= messages  # they were stored after all, only late
        logger.warning("writing to the history again; it lacks %d messages", self.unstored - self._unstored_before)

    def _refuse(self, batch: Batch) -> None:
        """Skip the ids of these messages in the history, and tell their senders alone."""
        messages = batch.messages
        self._writer.do(partial(self.history.skip, messages[0].id or 0, messages[-1].id or 0))
        self._fan_out(batch.refused(NOT_KEPT))


def _size(item: Item) -> int:
    if isinstance(item, Batch):
        return ITEM_BYTES + item.size
    return ITEM_BYTES + (item.held_bytes if isinstance(item, Listing) else 0)


def committer_of(history: str | PathLike[str] | History, limits: Limits, *, required: bool) -> Committer:
    """Return a committer for the history in a file, or for a `History` object."""
    if not isinstance(history, History):
        from chatkit.history.sqlite.store import SqliteHistory  # sqlite3 is loaded only if it is needed

        history = SqliteHistory(history)
    return Committer(history, limits, required=required)
