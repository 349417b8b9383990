"""The right to read from a connection, which one thread has at a time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from chatkit.net.sockets import SIGNAL_SECONDS


class Baton:
    """A lock whose waiters may have something else to wait for.

        with baton.hold() as hold:
            if hold.acquire(timeout=1):
                ...

    Operations: of a hold `acquire`, as of `threading.Lock`, and `acquire_unless` a condition becomes true first; and
    `notify` to have that looked at. Goal: a thread that waits for an answer either reads it, or is woken when another
    thread, which is reading, has read it. Plan: Ctrl-C may come between any two steps, also just after the right was
    taken. So `with` begins before that, and its end gives back no more than this hold has.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # `with` takes it in one step, but a condition in several
        self._changed = threading.Condition(self._lock)
        self._holder: Hold | None = None

    def hold(self) -> Hold:
        """Return a hold, which has no right yet."""
        return Hold(self)

    def notify(self) -> None:
        """Have every `acquire_unless` look at its condition."""
        with self._lock:
            self._changed.notify_all()

    def locked(self) -> bool:
        """Tell whether a hold has the right to read."""
        return self._holder is not None

    def take(self, hold: Hold, is_settled: Callable[[], bool], timeout: float) -> bool:
        """Give the right to a hold, as `Hold.acquire_unless`."""
        until = math.inf if timeout < 0 else time.monotonic() + timeout
        with self._lock:
            while self._holder and not is_settled():
                if (left := until - time.monotonic()) <= 0:
                    return False
                self._changed.wait(min(left, SIGNAL_SECONDS))
            if is_settled():
                return False
            self._holder = hold
            return True

    def take_back(self, hold: Hold) -> None:
        """End a hold's right to read, if it has it."""
        with self._lock:
            if self._holder is hold:
                self._holder = None
                self._changed.notify_all()

    @property
    def is_mine(self) -> bool:
        """Tell whether a hold of this thread has the right: it is being interrupted, or was."""
        holder = self._holder
        return holder is not None and holder.thread == threading.get_ident()


class Hold:
    """The right to read, of one caller, until the end of `with`.

    Attributes:
        thread: the caller's thread.
    """

    __slots__ = ("_baton", "thread")

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self.thread = threading.get_ident()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the right to read. Arguments and result are those of `threading.Lock.acquire`."""
        return self.acquire_unless(lambda: False, timeout if blocking else 0)

    def acquire_unless(self, is_settled: Callable[[], bool], timeout: float = -1) -> bool:
        """Take the right to read, unless a condition is true before that is possible.

        Args:
            timeout: seconds to wait; -1 waits for ever.

        Returns:
            Whether this caller has the right now.
        """
        return self._baton.take(self, is_settled, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._baton.take_back(self)
