"""A history that may be slow or fail: messages are committed to it first, and then fanned out.

Three threads: the writer commits, the reader reads for replays, and the committer waits for the writer, at most
`Limits.history_seconds`, and fans out. So a disk that hangs holds up nobody but its own two threads.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from os import PathLike
from queue import Empty, SimpleQueue
from typing import Any

from chatkit.events import Message
from chatkit.history.base import History
from chatkit.limits import Limits
from chatkit.protocol.replies import NOT_KEPT
from chatkit.room.batch import Batch, Subscribe
from chatkit.room.pages import PageRequest, Pages

logger = logging.getLogger("chatkit")

# As much may wait to be committed before workers wait, too, as one of their turns reads.
MAX_WAITING_BYTES = 1024 * 1024
ITEM_BYTES = 500  # of memory, whatever is in it
# At the start the newest messages are read so much at a time.
LOADED_BYTES = 1024 * 1024
# The end waits no longer for a history that is in trouble already.
HUNG_SECONDS = 0.1
# Trouble may be over: how often to try. Less often where it comes back within a minute: a disk that is nearly full.
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0
CALM_SECONDS = 60.0
# A failed read is tried once more, so that passing trouble doesn't make a gap.
READ_ATTEMPTS = 2
# Maintenance begins when nothing was said for a moment, or goes on in between.
PAUSE_SECONDS = 0.1

Item = Batch | Subscribe
FanOut = Callable[[Item], None]


class JobThread(threading.Thread):
    """Does one thing after the other. A daemon: nobody waits for a disk that hangs."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def do(self, call: Callable[[], Any]) -> Future[Any]:
        """Call it, after everything before; what comes of it."""
        future: Future[Any] = Future()
        self._jobs.put((future, call))
        return future

    def end(self, seconds: float) -> None:
        """End after what there is to do, or leave it behind after so long."""
        self._jobs.put(None)
        self.join(seconds)

    def run(self) -> None:
        while job := self._jobs.get():
            future, call = job
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


class HistoryReader:
    """One thread that reads `history`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._thread = JobThread("chatkit-history-reader")
        self._ending = threading.Event()
        self._failures = 0  # in a row

    def start(self) -> None:
        self._thread.start()

    def begin_end(self) -> None:
        """From now on nothing is tried twice, and nobody hears of what can't be read."""
        self._ending.set()

    def end(self, seconds: float) -> None:
        """After `begin_end`; returns after so long at the latest."""
        self._thread.end(seconds)

    def read(self, request: PageRequest, deliver: Callable[[list[Message]], None]) -> None:
        """deliver(what the history has of that, or nothing if it can't be read), in this thread."""
        self._thread.do(lambda: deliver(self._found(request)))

    def _found(self, request: PageRequest) -> list[Message]:
        while True:
            try:
                found = self._history.read(request.after, request.upto, request.max_bytes)
                self._failures = 0
                return found
            except Exception as error:
                self._failures += 1
                if self._failures == READ_ATTEMPTS and not self._ending.is_set():
                    logger.error("the history can't be read: %s", error)
            if self._failures >= READ_ATTEMPTS or self._ending.wait(RETRY_SECONDS):
                return []


class Committer:
    """Fans out what a history has committed.

    Args:
        history: opened by `start`, closed by `end`.
        required: whether a message that can't be kept is refused. Else it is fanned out all the same, and counted.

    Attributes:
        failure: why messages can't be committed at the moment, or "".
        unstored: how many messages were fanned out that the history lacks.
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
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._put_bytes = self._taken_bytes = 0  # each has one writer: the holder of the room's lock, and the thread
        self._thread = threading.Thread(target=self._run, name="chatkit-committer", daemon=True)
        self._writer, self._reader = JobThread("chatkit-history-writer"), HistoryReader(history)
        self._doing: tuple[Future[Any], int]  # the writer's last job, and how many messages it is about
        self._maintain_at = 0.0
        self._unstored_before = 0
        self._retry_seconds, self._well_since = RETRY_SECONDS, -math.inf
        self._maintenance_fails = False
        self._unkept_upto = 0

    @property
    def is_backlogged(self) -> bool:
        """Whether so much waits to be committed that workers should read no more."""
        return self._put_bytes - self._taken_bytes >= MAX_WAITING_BYTES

    def attach(self, pages: Pages, fan_out: FanOut) -> None:
        """Say where everything goes, before `start`.

        Args:
            pages: told the newest messages, and those that are pruned later.
            fan_out: called with each item, in the order of `put`, in one thread.
        """
        self._pages, self._fan_out = pages, fan_out

    def start(self, failed: Callable[[BaseException], None]) -> int:
        """Open the history and begin.

        Args:
            failed: called with the error when the committer's thread dies of one.

        Returns:
            The id given last, 0 before the first.

        Raises:
            HistoryError: the history can't be opened.
        """
        self._failed = failed
        self.history.open()
        self._newest_id = newest = self.history.newest_id
        self._pages.recent.newest_id = newest
        after = self.history.cursor_before_last(newest, self._limits.history_size)
        try:
            while after < newest and (messages := self.history.read(after, newest, LOADED_BYTES)):
                self._pages.append(messages)
                after = messages[-1].id or newest
        except Exception as error:
            logger.error("not all of the history can be read: %s", error)
        for thread in (self._writer, self._reader, self._thread):
            thread.start()
        return newest

    def end(self, seconds: float) -> bool:
        """Commit and fan out everything that was put, close the history, within so many seconds.

        Returns:
            Whether there was anything to end.
        """
        until = time.monotonic() + seconds
        if not self._writer.is_alive():
            return False
        self._queue.put(None)
        self._thread.join(seconds)
        self._reader.begin_end()
        self._writer.do(self._close)
        for thread in (self._writer, self._reader):
            thread.end(HUNG_SECONDS if self.failure else max(0.0, until - time.monotonic()))
        return True

    def put(self, item: Item) -> None:
        """Commit the messages of an item, then fan it out. Called inside the room's lock; never waits."""
        if isinstance(item, Batch):
            self._newest_id = item.newest_id or self._newest_id
        self._put_bytes += _size(item)
        self._queue.put(item)

    def can_replay_after(self, after: int) -> bool:
        """Tell whether everything after this id can be read again."""
        return after >= max(self._unkept_upto, self.history.pruned_upto)

    def read_older(self, request: PageRequest, deliver: Callable[[list[Message]], None]) -> None:
        """Call deliver(messages) in the reader's thread, with none if they can't be read."""
        self._reader.read(request, deliver)

    # In the writer's thread

    def _maintain(self, *, idle: bool) -> float:
        """This may fail while messages can still be kept, and the other way round."""
        try:
            seconds = self.history.maintain(idle=idle)
            self._maintenance_fails = False
        except Exception as error:
            if not self._maintenance_fails:
                logger.error("the history can't be looked after: %s", error)
            self._maintenance_fails = True
            return RETRY_SECONDS
        return seconds

    def _close(self) -> None:
        self.history.newest_id = max(self.history.newest_id, self._newest_id)  # also of messages that it lacks
        try:
            self.history.close()
        except Exception as error:
            logger.error("the history can't be closed in order: %s", error)

    # In the committer's thread

    def _run(self) -> None:
        try:
            while self._step(self._maintain_at - time.monotonic()):
                pass
        except BaseException as error:
            logger.critical("%s died", self._thread.name, exc_info=True)
            self._failed(error)

    def _step(self, patience: float) -> bool:
        """Commit and fan out everything queued, and maintain the history when that is due; False at the end."""
        items, is_open = self._take(patience)
        messages = [message for item in items if isinstance(item, Batch) for message in item.messages]
        kept = not messages or self._keep(messages)
        self._taken_bytes += sum(map(_size, items))
        for item in items:
            if self.required and not kept and isinstance(item, Batch) and item.messages:
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

    def _keep(self, messages: list[Message]) -> bool:
        """Whether the history has them now. In trouble it isn't asked: nobody should wait for it each time."""
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
            self._try_again()
            self._maintain_at = time.monotonic() + self._retry_seconds
        else:
            seconds = self._do(partial(self._maintain, idle=self._queue.empty()))
            self._maintain_at = time.monotonic() + (self._retry_seconds if self.failure else seconds)
            self._pages.forget(self.history.pruned_upto)

    def _do(self, call: Callable[[], Any], messages: int = 0) -> Any:
        """What the call gives; `failure` is set if it fails or takes too long."""
        self._doing = self._writer.do(call), messages
        try:
            return self._doing[0].result(min(self._limits.history_seconds, threading.TIMEOUT_MAX))
        except TimeoutError:
            self.failure = f"it takes longer than {self._limits.history_seconds:g} seconds"
        except Exception as error:
            self.failure = str(error) or repr(error)
        self._maintain_at = time.monotonic() + self._next_retry()
        self._unstored_before = self.unstored
        goes_on = "messages are refused" if self.required else "the chat goes on without it"
        logger.error("the history can't be kept, %s: %s", goes_on, self.failure)
        return None

    def _next_retry(self) -> float:
        """In how many seconds to try again: later each time, while trouble comes back as soon as it is over."""
        comes_back = time.monotonic() - self._well_since < CALM_SECONDS
        self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS) if comes_back else RETRY_SECONDS
        return self._retry_seconds

    def _try_again(self) -> None:
        """Without waiting: see whether what was tried last has been done."""
        future, messages = self._doing
        if not future.done():
            return
        if future.exception() or (messages and self.required):  # those were refused: the history is to forget them
            self._doing = self._writer.do(partial(self.history.append, ())), 0
            return
        self.failure = ""
        self._well_since = time.monotonic()
        self.unstored -= messages  # they are there, only late
        logger.warning("the history is kept again; it lacks %d messages", self.unstored - self._unstored_before)

    def _refuse(self, batch: Batch) -> None:
        """Tell the senders of these messages, and nobody else."""
        messages = batch.messages
        self._writer.do(partial(self.history.skip, messages[0].id or 0, messages[-1].id or 0))
        self._fan_out(batch.refused(NOT_KEPT))


def _size(item: Item) -> int:
    return ITEM_BYTES + (item.size if isinstance(item, Batch) else 0)


def committer_of(history: str | PathLike[str] | History, limits: Limits, *, required: bool) -> Committer:
    """A recorder for the history in a file, or for one that somebody made."""
    if not isinstance(history, History):
        from chatkit.history.sqlite.store import SqliteHistory  # sqlite3 is loaded when it is needed

        history = SqliteHistory(history)
    return Committer(history, limits, required=required)
