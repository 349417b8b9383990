"""`AsyncClient`: the verbs of `Client`, for programs that use asyncio."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.addresses import Address, two_tuple
from chatkit.errors import ConnectionClosed
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.session import Session
from chatkit.wire import Wire

if TYPE_CHECKING:
    import ssl


class AsyncClient:
    """A member of a room.

        async with AsyncClient(port=12345) as client:
            await client.send("Hi!")
            print(await client.receive(timeout=1))

    All arguments as for `Client`; `connect`, also at the start of `async with`, connects.

    Resource handling: one transport, no thread, no task. `close`, also at the end of `async with`, frees it.

    Error handling: `connect` raises what `Client` raises, `receive` and `async for` too.

    Cancelling: what was received stays for the next `receive`. A cancelled `send` has sent its line, once, or nothing
    if it hadn't begun to run. Tasks of one event loop may share a client; each event goes to one of them.
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
        max_line_bytes: int = Limits().max_line_bytes,
    ) -> None:
        self._connect_to = host, port
        self._timeout = timeout
        self._tls = tls
        self._session = Session(max_line_bytes, password=password, name=name, events=events, after=after)
        self._wire: Wire | None = None

    @property
    def address(self) -> Address:
        """(host, port) of this side. RuntimeError: not connected."""
        return two_tuple(self._connected.transport.get_extra_info("sockname"))

    async def connect(self) -> None:
        """Join the room; at its end the name is settled, and events begin.

        RuntimeError: it was connected, or failed to, before. TimeoutError, an OSError: no answer in time.
        Others as for `Client`.
        """
        if self._wire:
            raise RuntimeError("a client connects once; make a new one")
        self._wire = wire = Wire(self._session)
        try:
            async with asyncio.timeout(self._timeout):
                await self._reach(wire)
                if self._session.is_closing:
                    raise ConnectionClosed("this client is closed", clean=True)
                wire.transport.write(self._session.opening)
                while self._session.is_opening:
                    await wire.arrival()
        except BaseException:
            wire.abort()
            raise

    async def send(self, text: str) -> None:
        """Say one line. The line `exit` ends the conversation. Waits while the server reads nothing.

        ValueError: `text` holds a line end, or is longer than `max_line_bytes`; nothing was sent.
        ConnectionClosed, ProtocolError: the conversation is over. RuntimeError: not connected.
        """
        line, wire = self._session.line(text), self._connected
        self._raise_if_ended()
        if wire.has_sent_eof:
            raise self._session.lose(BrokenPipeError(errno.EPIPE, "nothing can be sent after send_eof"))
        wire.transport.write(line)
        if not wire.writable.is_set():
            await wire.writable.wait()
            self._raise_if_ended()

    async def receive(self, timeout: float | None = None) -> Event:
        """The next event: a `Message`, a `Notice` ...

        timeout: seconds to wait; 0 only looks, None waits for ever.
        TimeoutError: nothing arrived in time. ConnectionClosed: the conversation is over.
        ProtocolError: the server sent what isn't chat; the conversation is over. RuntimeError: not connected.
        """
        received = self._session.received
        if not received:
            try:
                async with asyncio.timeout(timeout):
                    await self._arrival()
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
        self._connected.send_eof()

    async def close(self, grace: float = 2.0) -> None:
        """Leave. When it returns the server has heard all that was sent, if it answered within `grace` seconds.

        What wasn't received yet is dropped. Whoever waits in `send` or `receive` gets ConnectionClosed.
        """
        if not (wire := self._wire):
            return
        self._session.begin_close()
        if not wire.connected:
            return  # a `connect` that is under way finds it closed
        try:
            wire.send_eof()
            wire.resume_reading()
            async with asyncio.timeout(grace):
                await wire.lost.wait()
        except TimeoutError:
            pass
        finally:
            self._session.close()
            wire.abort()
        await wire.lost.wait()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _connected(self) -> Wire:
        if not self._wire or not self._wire.connected:
            raise RuntimeError("the client isn't connected")
        return self._wire

    async def _reach(self, wire: Wire) -> None:
        loop, (host, port) = asyncio.get_running_loop(), self._connect_to
        if not self._tls:
            await loop.create_connection(lambda: wire, host, port)
            return
        from chatkit.tls import client_context

        context = client_context() if isinstance(self._tls, bool) else self._tls
        await loop.create_connection(lambda: wire, host, port, ssl=context, server_hostname=host)

    async def _arrival(self) -> None:
        wire = self._connected
        while not self._session.received:
            self._raise_if_ended()
            wire.resume_reading()
            await wire.arrival()

    def _raise_if_ended(self) -> None:
        if self._session.ended:
            raise self._session.ended.with_traceback(None)
