"""A thread that does what may take long, for those who can't wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class Clerk(threading.Thread):
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
