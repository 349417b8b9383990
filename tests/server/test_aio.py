"""A server in an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from chatkit import AsyncClient, Notice, Server
from tests.helpers.aio import in_loop
from tests.helpers.peers import DEADLINE, Peer

pytestmark = pytest.mark.usefixtures("each_loop")


@in_loop
async def test_a_server_in_a_loop() -> None:
    """`async with Server` serves; while its end waits for a member's own end, the loop goes on."""
    async with Server(port=0) as server:
        async with AsyncClient(port=server.port) as client:
            server.broadcast("Hi!")
            assert await client.receive(DEADLINE) == Notice("Hi!")
        peer = Peer(server.port)
        peer.sock.setblocking(False)

        async def leave_when_it_ends() -> None:
            assert await asyncio.get_running_loop().sock_recv(peer.sock, 1) == b""
            assert [thread for thread in threading.enumerate() if thread.name.startswith("chatkit-")]
            peer.close()

        leaving = asyncio.create_task(leave_when_it_ends())
    assert leaving.done()
    await leaving


@pytest.mark.parametrize("held", ["before it begins", "while it listens"])
@in_loop
async def test_a_server_cancelled_in_its_start(held: str) -> None:
    """Wherever its start is when `async with Server` is cancelled, no thread and no listening socket is left."""
    loop, reached, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def hold(*where: object) -> None:
        loop.call_soon_threadsafe(reached.set)
        assert go_on.wait(DEADLINE)

    class Late(Server):
        def start(self) -> None:
            if held == "before it begins":
                hold()
            super().start()

    handler = type("Handler", (), {"on_listening": staticmethod(hold)})() if held == "while it listens" else None
    server = Late(port=0, handler=handler)
    starting = asyncio.create_task(server.__aenter__())
    await reached.wait()
    starting.cancel()
    await asyncio.wait([starting], timeout=0.1)  # its end may come first, or wait for the start: both are fine
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await loop.shutdown_default_executor()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("chatkit-")]
    server.shutdown()
    assert left == []
