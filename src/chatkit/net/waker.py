"""Wakes a thread that waits in a selector."""

from __future__ import annotations

import select
import selectors
import socket
from contextlib import suppress


class Waker:
    """A socket pair whose reading end is registered in `selector`, with `data` None.

    Close it only when nobody calls `wake` any more: a closed descriptor's number is soon somebody else's.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._awake = False
        selector.register(self._reader, selectors.EVENT_READ, None)

    def wake(self) -> None:
        """Safe from any thread; cheap when the thread is already being woken."""
        if not self._awake:
            self._awake = True
            with suppress(BlockingIOError):
                self._writer.send(b"\0")

    def wait(self, seconds: float) -> None:
        """Until it is woken, whatever else the selector has, and at most so long."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if poll.poll(1000 * seconds):
            self.clear()

    def clear(self) -> None:
        """For the woken thread, before it looks for its work.

        The order matters: with the flag cleared first, a byte sent in between would be swallowed, the flag stay
        set, and nobody wake the thread again.
        """
        with suppress(BlockingIOError):
            self._reader.recv(4096)
        self._awake = False

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
