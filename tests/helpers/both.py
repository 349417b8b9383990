"""Clients of either kind behind one interface, for tests of what they share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from chatkit import AsyncClient, Client
from tests.helpers.peers import DEADLINE


class Both:
    """A client of either kind, whose verbs are called in the same way; in a loop of its own, if it has one."""

    def __init__(self, kind: str, port: int, **options: Any) -> None:
        self.client: Any
        self._loop: asyncio.AbstractEventLoop | None = None
        if kind == "asyncio":
            self.client = AsyncClient(port=port, **options)
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever)
            self._thread.start()
            try:
                self.call("connect")
            except BaseException:
                self.end()
                raise
        else:
            self.client = Client(port=port, **options)

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Call a verb and return its result."""
        if self._loop:
            call = getattr(self.client, verb)(*arguments, **options)
            return asyncio.run_coroutine_threadsafe(call, self._loop).result(DEADLINE)
        return getattr(self.client, verb)(*arguments, **options)

    def begin(self, verb: str, *arguments: Any, **options: Any) -> Future[Any]:
        """Call a verb in a thread or a task of its own."""
        if self._loop:
            call = getattr(self.client, verb)(*arguments, **options)
            return asyncio.run_coroutine_threadsafe(call, self._loop)
        future = Future[Any]()

        def run() -> None:
            try:
                future.set_result(self.call(verb, *arguments, **options))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def receive(self, kind: type[Any]) -> Any:
        """Return the next event of this kind; others before it are passed over."""
        while not isinstance(event := self.call("receive", timeout=DEADLINE), kind):
            pass
        return event

    def end(self) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(DEADLINE)
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


Connect = Callable[..., Both]


class Absence:
    """How long a client waits before it comes back, in seconds."""

    seconds = 0.0
