"""Ends what another thread waits for."""

from __future__ import annotations

import selectors
import socket


class Halted(Exception):
    """The wait was ended."""


class Halt:
    """Once set, every wait that looks at it ends at once, now and later.

    Close it in the thread that waits: `set` may come from any other, at any time, more than once.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()

    def fileno(self) -> int:
        """For a selector: ready to be read when it is set."""
        return self._reader.fileno()

    def set(self) -> None:
        self._writer.close()  # an end of stream never goes away

    def wait(self, seconds: float) -> bool:
        """Whether it is set, within so many seconds."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def close(self) -> None:
        self._writer.close()
        self._reader.close()
