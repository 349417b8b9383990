"""Waits for a socket: with a deadline, and with a token by which another thread ends them.

A peer that never stops sending lets no read wait. So each loop around a read calls `check`, or asks `is_over`.
"""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.net.sockets import SIGNAL_SECONDS, Selector

if TYPE_CHECKING:
    from chatkit.net.transport import Transport


class Cancelled(Exception):
    """The end of a wait by its token."""


class CancelToken:
    """A flag that ends every wait that is given it, now and later.

    Any thread may call `set`, at any time and more than once. Inside `with`, a selector can wait for the token, too.

    Resource handling: two sockets inside `with`. Entering raises OSError if there are none available.
    """

    def __init__(self) -> None:
        self._is_set = threading.Event()
        self._lock = threading.Lock()
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def fileno(self) -> int:
        """Return a descriptor that is readable once the token is set."""
        assert self._pair
        return self._pair[0].fileno()

    def set(self) -> None:
        """End the waits."""
        with self._lock:
            self._is_set.set()
            self._make_readable()

    @property
    def is_set(self) -> bool:
        """Tell whether `set` was called."""
        return self._is_set.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait. Return whether the token is set."""
        return self._is_set.wait(seconds)

    def __enter__(self) -> Self:
        with self._lock, ExitStack() as stack:
            self._pair = socket.socketpair()
            stack.callback(self._close_pair)
            self._make_readable()
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._close_pair()

    def _close_pair(self) -> None:
        assert self._lock.locked()
        for sock in self._pair or ():
            sock.close()
        self._pair = None

    def _make_readable(self) -> None:
        assert self._lock.locked()
        if self._pair and self._is_set.is_set():
            self._pair[1].close()  # the other side stays readable: an end of stream never goes away


def wait(
    sock: socket.socket | Transport, event: int, deadline: float | None, cancel: CancelToken | None = None
) -> None:
    """Wait until a socket is ready.

    Args:
        event: `selectors.EVENT_READ` or `EVENT_WRITE`.
        deadline: of `time.monotonic()`, or None.

    Raises:
        TimeoutError: the deadline came first.
        Cancelled: by `cancel`.
    """
    with Selector() as selector:
        selector.register(sock, event)
        if cancel:
            selector.register(cancel, selectors.EVENT_READ)
        ready: list[tuple[selectors.SelectorKey, int]] = []
        while not ready:
            left = math.inf if deadline is None else deadline - time.monotonic()
            ready = selector.select(min(max(0, left), SIGNAL_SECONDS))
            if not ready and left <= SIGNAL_SECONDS:
                raise late_error()
    if cancel and any(key.fileobj is cancel for key, _ in ready):
        raise Cancelled


def check(deadline: float | None, cancel: CancelToken | None = None) -> None:
    """Raise the reason to give up, if there is one.

    Raises:
        TimeoutError: the deadline is over.
        Cancelled: the token is set.
    """
    if cancel and cancel.is_set:
        raise Cancelled
    if is_over(deadline):
        raise late_error()


def is_over(deadline: float | None) -> bool:
    """Tell whether a deadline has passed."""
    return deadline is not None and time.monotonic() >= deadline


def late_error() -> TimeoutError:
    """Return the error for a deadline that has passed."""
    return TimeoutError("nothing arrived in time")


def deadline_of(timeout: float | None) -> float | None:
    """Return the `time.monotonic()` at which a timeout in seconds ends."""
    return None if timeout is None else time.monotonic() + timeout


def lock_timeout(deadline: float | None) -> float:
    """Return the seconds until a deadline, as `Lock.acquire` takes them."""
    return -1 if deadline is None else min(max(0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
