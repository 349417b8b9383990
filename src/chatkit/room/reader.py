"""Reads a history that may be slow or fail, for those who are told what was said before."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from chatkit.events import Message
from chatkit.history.base import History
from chatkit.room.clerk import Clerk
from chatkit.room.publisher import Wanted

logger = logging.getLogger("chatkit")

# What can't be read is tried once more after a moment, so that passing trouble doesn't make a gap.
ATTEMPTS, RETRY_SECONDS = 2, 1.0


class Reader:
    """One thread that reads `history`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._clerk = Clerk("chatkit-history-reader")
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

    def read(self, wanted: Wanted, then: Callable[[list[Message]], None]) -> None:
        """then(what the history has of that, or nothing if it can't be read), in this thread."""
        self._clerk.do(lambda: then(self._found(wanted)))

    def _found(self, wanted: Wanted) -> list[Message]:
        while True:
            try:
                found = self._history.read(wanted.after, wanted.upto, wanted.max_bytes)
                self._failures = 0
                return found
            except Exception as error:
                self._failures += 1
                if self._failures == ATTEMPTS and not self._ending.is_set():
                    logger.error("the history can't be read: %s", error)
            if self._failures >= ATTEMPTS or self._ending.wait(RETRY_SECONDS):
                return []
