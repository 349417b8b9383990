"""A history that may be slow or fail: messages are kept by it first, and then handed out."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from os import PathLike
from queue import Empty, SimpleQueue
from typing import Any

from chatkit.events import Message
from chatkit.history.base import History
from chatkit.limits import Limits
from chatkit.protocol.replies import NOT_KEPT
from chatkit.room.batch import Batch, Subscribe
from chatkit.room.publisher import OnFailure, Page, PageRequest, Publisher

logger = logging.getLogger("chatkit")


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


# What can't be read is tried once more after a moment, so that passing trouble doesn't make a gap.
ATTEMPTS, RETRY_SECONDS = 2, 1.0


class HistoryReader:
    """One thread that reads `history`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._clerk = JobThread("chatkit-history-reader")
        self._ending = threading.Event()
        self._failures = 0  # in a row

    def start(self) -> None:
        self._clerk.start()

    def begin_end(self) -> None:
        """From now on nothing is tried twice, and nobody hears of what can't be read."""
        self._ending.set()

    def end(self, seconds: float) -> None:
        """After `begin_end`; returns after so long at the latest."""
        self._clerk.end(seconds)

    def read(self, request: PageRequest, deliver: Callable[[list[Message]], None]) -> None:
        """deliver(what the history has of that, or nothing if it can't be read), in this thread."""
        self._clerk.do(lambda: deliver(self._found(request)))

    def _found(self, request: PageRequest) -> list[Message]:
        while True:
            try:
                found = self._history.read(request.after, request.upto, request.max_bytes)
                self._failures = 0
                return found
            except Exception as error:
                self._failures += 1
                if self._failures == ATTEMPTS and not self._ending.is_set():
                    logger.error("the history can't be read: %s", error)
            if self._failures >= ATTEMPTS or self._ending.wait(RETRY_SECONDS):
                return []


# So much may wait to be kept before workers wait, too: what one of their turns reads.
MAX_WAITING_BYTES = 1024 * 1024
ITEM_BYTES = 500  # of memory, whatever is in it
# At the start the newest messages are read so much at a time.
LOADED_BYTES = 1024 * 1024
# The end waits no longer for a history that is in trouble already.
HUNG_SECONDS = 0.1
# Trouble may be over: how often to try. Less often where it comes back within a minute: a disk that is nearly full.
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0
CALM_SECONDS = 60.0
# What else there is to do begins when nothing was said for a moment, or goes on in between.
PAUSE_SECONDS = 0.1

Item = tuple[Batch | Subscribe, Sequence[Message]]


class Committer(Publisher):
    """Hands out what `history` has; one thread passes it on, one writes, one reads.

    required: a message that can't be kept is refused. Else it is handed out all the same, and counted in `unstored`.
    """

    def __init__(self, history: History, limits: Limits, *, required: bool) -> None:
        super().__init__(limits.history_size, history)
        self.required = required
        self._limits = limits
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._put_bytes = self._taken_bytes = 0  # each has one writer: who is inside the room's lock, and the thread
        self._thread = threading.Thread(target=self._run, name="chatkit-recorder", daemon=True)
        self._writer, self._reader = JobThread("chatkit-history-writer"), HistoryReader(history)
        self._doing: tuple[Future[Any], int]  # what the writer was given last, and how many messages it is about
        self._look_at = 0.0
        self._unstored_before = 0
        self._retry_seconds, self._well_since = RETRY_SECONDS, -math.inf
        self._upkeep_fails = False
        self._unkept_upto = 0

    @property
    def is_backlogged(self) -> bool:  # type: ignore[override]
        return self._put_bytes - self._taken_bytes >= MAX_WAITING_BYTES

    def start(self, failed: OnFailure) -> None:
        """HistoryError: there is no such history."""
        self._history.open()
        self.newest_id = self._recent.newest_id = newest = self._history.newest_id
        after = self._history.cursor_before_last(newest, self._limits.history_size)
        try:
            while after < newest and (messages := self._history.read(after, newest, LOADED_BYTES)):
                self._recent.append(messages)
                after = messages[-1].id or newest
        except Exception as error:
            logger.error("not all of the history can be read: %s", error)
        self._failed = failed
        for thread in (self._writer, self._reader, self._thread):
            thread.start()

    def end(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if not self._writer.is_alive():
            return
        self._queue.put(None)
        self._thread.join(seconds)
        self._reader.begin_end()
        self._writer.do(self._close)
        for thread in (self._writer, self._reader):
            thread.end(HUNG_SECONDS if self.failure else max(0.0, until - time.monotonic()))
        self.subscribers.clear()  # who hangs may wake up later

    def publish(self, item: Batch | Subscribe, messages: Sequence[Message] = ()) -> None:
        self._put_bytes += _size(item)
        self._queue.put((item, messages))

    def can_replay_after(self, after: int) -> bool:
        return after >= max(self._unkept_upto, self._history.pruned_upto)

    def _read(self, request: PageRequest, deliver: Page) -> None:
        kept = self._recent.read(request.after, request.upto, request.max_bytes)
        oldest = self._recent.oldest_id  # looked at afterwards: what was read is whole if it is still there
        if request.after + 1 >= oldest:
            deliver(*self._page(kept, request))
        else:
            older = replace(request, upto=min(request.upto, oldest - 1))
            self._reader.read(older, lambda found: deliver(*self._page(found, older)))

    # In the writer's thread

    def _maintain(self, *, idle: bool) -> float:
        """This may fail while messages can still be kept, and the other way round."""
        try:
            seconds = self._history.maintain(idle=idle)
            self._upkeep_fails = False
        except Exception as error:
            if not self._upkeep_fails:
                logger.error("the history can't be looked after: %s", error)
            self._upkeep_fails = True
            return RETRY_SECONDS
        return seconds

    def _close(self) -> None:
        self._history.newest_id = max(self._history.newest_id, self.newest_id)  # also of what it doesn't have
        try:
            self._history.close()
        except Exception as error:
            logger.error("the history can't be closed in order: %s", error)

    # In the thread

    def _run(self) -> None:
        try:
            while self._step(self._look_at - time.monotonic()):
                pass
        except BaseException as error:
            logger.critical("%s died", self._thread.name, exc_info=True)
            self._failed(error)

    def _step(self, patience: float) -> bool:
        """Keep and hand out what has come, and look after the history when that is due; False at the end."""
        items, goes_on = self._take(patience)
        messages = [message for _, said in items for message in said]
        kept = not messages or self._keep(messages)
        self._taken_bytes += sum(_size(item) for item, _ in items)
        for item, said in items:
            if said and self.required and not kept:
                self._refuse(item, said)
            else:
                self._fan_out(item, said)
        if self._look_at <= time.monotonic():
            self._maintain_when_due()
        return goes_on

    def _take(self, patience: float) -> tuple[list[Item], bool]:
        """What waits, all of it, so that one commit keeps it; and whether there may be more."""
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
            self._do(partial(self._history.append, messages), len(messages))
        if self.failure:
            self.unstored += len(messages)
            self._unkept_upto = messages[-1].id or 0
        else:
            self._look_at = min(self._look_at, time.monotonic() + PAUSE_SECONDS)
        return not self.failure

    def _maintain_when_due(self) -> None:
        if self.failure:
            self._try_again()
            self._look_at = time.monotonic() + self._retry_seconds
        else:
            seconds = self._do(partial(self._maintain, idle=self._queue.empty()))
            self._look_at = time.monotonic() + (self._retry_seconds if self.failure else seconds)
            self._forget(self._history.pruned_upto)

    def _do(self, call: Callable[[], Any], messages: int = 0) -> Any:
        """What the call gives; `failure` is set if it fails or takes too long."""
        self._doing = self._writer.do(call), messages
        try:
            return self._doing[0].result(min(self._limits.history_seconds, threading.TIMEOUT_MAX))
        except TimeoutError:
            self.failure = f"it takes longer than {self._limits.history_seconds:g} seconds"
        except Exception as error:
            self.failure = str(error) or repr(error)
        self._look_at = time.monotonic() + self._next_retry()
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
            self._doing = self._writer.do(partial(self._history.append, ())), 0
            return
        self.failure = ""
        self._well_since = time.monotonic()
        self.unstored -= messages  # they are there, only late
        logger.warning("the history is kept again; it lacks %d messages", self.unstored - self._unstored_before)

    def _refuse(self, batch: Batch | Subscribe, messages: Sequence[Message]) -> None:
        """Nobody gets these messages; their senders are told."""
        assert isinstance(batch, Batch)
        self._writer.do(partial(self._history.skip, messages[0].id or 0, messages[-1].id or 0))
        self._fan_out(batch.refused(NOT_KEPT), ())


def _size(item: Batch | Subscribe) -> int:
    return ITEM_BYTES + (item.size if isinstance(item, Batch) else 0)


def committer_of(history: str | PathLike[str] | History, limits: Limits, *, required: bool) -> Committer:
    """A recorder for the history in a file, or for one that somebody made."""
    if not isinstance(history, History):
        from chatkit.history.sqlite.store import SqliteHistory  # sqlite3 is loaded when it is needed

        history = SqliteHistory(history)
    return Committer(history, limits, required=required)
