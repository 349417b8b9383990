"""The right to read from a connection, which one thread has at a time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType

from chatkit.net.sockets import SIGNAL_SECONDS


class Baton:
    """A lock whose waiters may have something else to wait for.

    Operations: `acquire` and `release`, as of `threading.Lock`; `acquire_unless` a condition becomes true first, and
    `notify` to have that looked at. Goal: a thread that waits for an answer either reads it, or is woken when another
    thread, which is reading, has read it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._is_held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the right to read. Arguments and result are those of `threading.Lock.acquire`."""
        return self.acquire_unless(lambda: False, timeout if blocking else 0)

    def acquire_unless(self, is_settled: Callable[[], bool], timeout: float = -1) -> bool:
        """Take the right to read, unless a condition is true before that is possible.

        Args:
            timeout: seconds to wait; -1 waits for ever.

        Returns:
            Whether this thread has the right now.
        """
        until = math.inf if timeout < 0 else time.monotonic() + timeout
        with self._changed:
            while self._is_held and not is_settled():
                if (left := until - time.monotonic()) <= 0:
                    return False
                self._changed.wait(min(left, SIGNAL_SECONDS))
            if is_settled():
                return False
            self._is_held = True
            return True

    def release(self) -> None:
        """Give the right to read back."""
        with self._changed:
            self._is_held = False
            self._changed.notify_all()

    def notify(self) -> None:
        """Have every `acquire_unless` look at its condition."""
        with self._changed:
            self._changed.notify_all()

    def locked(self) -> bool:
        """Tell whether a thread has the right to read."""
        return self._is_held

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
