"""Waiting for a socket, and ending what another thread waits for."""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.net.sockets import LONGEST_WAIT_SECONDS

if TYPE_CHECKING:
    from chatkit.net.transport import Transport


class Cancelled(Exception):
    """The wait was ended."""


class CancelToken:
    """Once set, every wait that looks at it ends at once, now and later.

    `set` may come from any thread, at any time, more than once. In a `with` of the thread that waits a selector can look
    at it, too; that takes two sockets. OSError: there are none to be had.
    """

    def __init__(self) -> None:
        self._is_set = threading.Event()
        self._lock = threading.Lock()
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def fileno(self) -> int:
        """For a selector: ready to be read when it is set."""
        assert self._pair
        return self._pair[0].fileno()

    def set(self) -> None:
        with self._lock:
            self._is_set.set()
            self._show()

    def wait(self, seconds: float) -> bool:
        """Whether it is set, within so many seconds."""
        return self._is_set.wait(seconds)

    def __enter__(self) -> Self:
        with self._lock:
            self._pair = socket.socketpair()
            self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for sock in self._pair or ():
                sock.close()
            self._pair = None

    def _show(self) -> None:
        if self._pair and self._is_set.is_set():
            self._pair[1].close()  # an end of stream never goes away


def wait(
    sock: socket.socket | Transport, event: int, deadline: float | None, cancel: CancelToken | None = None
) -> None:
    """Until the socket is ready for `event`. TimeoutError: the deadline came first. Cancelled: `cancel` did."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, event)
        if cancel:
            selector.register(cancel, selectors.EVENT_READ)
        left = math.inf if deadline is None else deadline - time.monotonic()
        ready = selector.select(min(max(0, left), LONGEST_WAIT_SECONDS))
    if not ready and left <= LONGEST_WAIT_SECONDS:
        raise TimeoutError("nothing arrived in time")
    if cancel and any(key.fileobj is cancel for key, _ in ready):
        raise Cancelled


def deadline_of(timeout: float | None) -> float | None:
    """`time.monotonic()` when so many seconds are over."""
    return None if timeout is None else time.monotonic() + timeout


def lock_timeout(deadline: float | None) -> float:
    """What `Lock.acquire` calls that time."""
    return -1 if deadline is None else min(max(0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
