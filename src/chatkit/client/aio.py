"""`AsyncClient`: the verbs of `Client`, for programs that use asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.client.aio_connection import AsyncConnection
from chatkit.client.aio_reconnect import AsyncReconnectingConnection
from chatkit.client.connection import Endpoint
from chatkit.client.protocol import ClientProtocol
from chatkit.client.resume import ResumeState
from chatkit.errors import ConnectionClosed
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.net.sockets import Address

if TYPE_CHECKING:
    import ssl


class AsyncClient:
    """A member of a room.

        async with AsyncClient(port=12345) as client:
            await client.send("Hi!")
            print(await client.receive(timeout=1))

    All arguments as for `Client`; `connect`, also at the start of `async with`, connects.

    Coming back (`reconnect`): as `Client`; a loss is found at once, whoever receives, and so is what confirms the lines
    that were sent, until 1000 events wait.

    Resource handling: one transport, no thread, no task. `close`, also at the end of `async with`, frees it. With
    reconnect, while away, one task waits and connects, and `close` ends it at once.

    Error handling: `connect` raises what `Client` raises, `receive` and `async for` too.

    Cancelling: what was received stays for the next `receive`. A cancelled `send` has sent its line, once, or nothing
    if it hadn't begun to run (in TLS: or hadn't waited for a turn of the loop). Tasks of one event loop may share a client; each event goes to one of them.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 12345,
        *,
        timeout: float | None = 10.0,
        tls: bool | ssl.SSLContext = False,
        password: str | None = None,
        name: str | None = None,
        events: bool = False,
        after: int | None = None,
        reconnect: bool = False,
        queue: int = 0,
        max_line_bytes: int = Limits().max_line_bytes,
    ) -> None:
        if queue and not reconnect:
            raise ValueError("queue needs reconnect=True")
        endpoint = Endpoint(host, port, timeout, tls)
        self._begun = False
        self._connection: AsyncConnection | AsyncReconnectingConnection
        if reconnect:
            state = ResumeState(max_line_bytes, password=password, name=name, after=after, queue=queue)
            self._connection = AsyncReconnectingConnection(endpoint, state, max_line_bytes)
        else:
            protocol = ClientProtocol(max_line_bytes, password=password, name=name, events=events, after=after)
            self._connection = AsyncConnection(endpoint, protocol)

    @property
    def address(self) -> Address:
        """(host, port) of this side. RuntimeError: not connected."""
        return self._connection.address

    @property
    def queued(self) -> list[str]:
        """The lines that wait for the return; after the end those that were never sent."""
        return self._connection.queued

    async def connect(self) -> None:
        """Join the room; at its end the name is settled, and events begin.

        RuntimeError: it was connected, or failed to, before. TimeoutError, an OSError: no answer in time.
        Others as for `Client`.
        """
        if self._begun:
            raise RuntimeError("a client connects once; make a new one")
        self._begun = True
        await self._connection.connect()

    async def send(self, text: str) -> None:
        """Say one line. The line `exit` ends the conversation. Waits while the server reads nothing.

        ValueError: `text` holds a line end, or is longer than `max_line_bytes`; nothing was sent.
        NotConnected: the connection is lost for now, and `queue` is full or 0; nothing was sent.
        ConnectionClosed, ProtocolError: the conversation is over. RuntimeError: not connected.
        """
        await self._connection.send(text)

    async def receive(self, timeout: float | None = None) -> Event:
        """The next event: a `Message`, a `Notice` ...

        timeout: seconds to wait; 0 only looks, None waits for ever.
        TimeoutError: nothing arrived in time. ConnectionClosed: the conversation is over.
        ProtocolError: the server sent what isn't chat; the conversation is over. RuntimeError: not connected.
        """
        received = self._connection.received
        if not received:
            try:
                async with asyncio.timeout(timeout):
                    while not received:
                        await self._connection.wait_for_change()
            except TimeoutError:
                raise TimeoutError("nothing arrived in time") from None
        return received.popleft()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Everything until the conversation ends. ConnectionClosed: it broke instead of ending in order."""
        while True:
            try:
                yield await self.receive()
            except ConnectionClosed as closed:
                if closed.clean:
                    return
                raise

    async def send_eof(self) -> None:
        """Say that no more lines will come. What the server still has for us can be received, then it ends."""
        self._connection.send_eof()

    async def close(self, grace: float = 2.0) -> None:
        """Leave. When it returns the server has heard all that was sent, if it answered within `grace` seconds.

        What wasn't received yet is dropped. Whoever waits in `send` or `receive` gets ConnectionClosed.
        """
        if self._begun:
            await self._connection.close(grace)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
