"""Tests in an event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from logging.handlers import QueueHandler
from typing import Any, TypeVar

from chatkit import AsyncClient
from tests.helpers.peers import DEADLINE

T = TypeVar("T")

BLOCK = "x" * 8000

# Makes the event loop of a test; the fixture `each_loop` replaces it.
new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop


def run_in_loop(coroutine: Coroutine[Any, Any, T], *, debug: bool = False) -> T:
    """Run a coroutine in an event loop of its own, as `asyncio.run`."""
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(coroutine)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test in an event loop that looks for mistakes; no task is left, and asyncio has nothing to complain of."""

    async def watched(**fixtures: Any) -> None:
        asyncio.get_running_loop().slow_callback_duration = DEADLINE
        async with asyncio.timeout(DEADLINE):
            await test(**fixtures)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        records = queue.SimpleQueue[logging.LogRecord]()
        handler = QueueHandler(records)
        handler.setLevel(logging.WARNING)
        logging.getLogger("asyncio").addHandler(handler)
        try:
            run_in_loop(watched(**fixtures), debug=True)
        finally:
            logging.getLogger("asyncio").removeHandler(handler)
        assert records.empty(), records.get().getMessage()

    return run


@asynccontextmanager
async def raw_server(**options: Any) -> AsyncIterator[tuple[AsyncClient, socket.socket]]:
    """A client that is connected, and the server's end of its conversation."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        async with AsyncClient(port=listener.getsockname()[1], **options) as client:
            sock, _ = listener.accept()
            with sock:
                sock.setblocking(False)
                yield client, sock


async def waiting_send(client: AsyncClient, text: str = BLOCK) -> tuple[int, asyncio.Task[None]]:
    """Send until the server's deafness makes a send wait: how many were sent before it, and that one."""
    for number in range(100_000):
        task = asyncio.create_task(client.send(text))
        await asyncio.sleep(0)
        if not task.done():
            return number, task
    raise AssertionError("send never waits")
