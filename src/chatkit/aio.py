"""`AsyncClient`: the verbs of `Client`, for programs that use asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from chatkit.addresses import Address, two_tuple
from chatkit.errors import ConnectionClosed, ProtocolError
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.session import Session

# Who takes nothing for so long makes the server wait, and in the end be cut off, instead of filling the memory.
MAX_WAITING_EVENTS = 10_000


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
        name: str | None = None,
        events: bool = False,
        after: int | None = None,
        max_line_bytes: int = Limits().max_line_bytes,
    ) -> None:
        self._connect_to = host, port
        self._timeout = timeout
        self._session = Session(max_line_bytes, name=name, events=events, after=after)
        self._wire: _Wire | None = None

    @property
    def address(self) -> Address:
        """(host, port) of this side. RuntimeError: not connected."""
        return two_tuple(self._connected.transport.get_extra_info("sockname"))

    async def connect(self) -> None:
        """Join the room; at its end the name is settled, and events begin.

        RuntimeError: it was connected before. TimeoutError, an OSError: no answer in time. Others as for `Client`.
        """
        if self._wire:
            raise RuntimeError("a client connects once; make a new one")
        self._wire = wire = _Wire(self._session)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.get_running_loop().create_connection(lambda: wire, *self._connect_to)
                wire.transport.write(self._session.opening)
                while self._session.is_opening:
                    await wire.arrival()
        except BaseException:
            wire.abort()
            raise

    async def send(self, text: str) -> None:
        """Say one line. The line `exit` ends the conversation. Waits while the server reads nothing.

        ValueError: `text` holds a line end, or is longer than `max_line_bytes`; nothing was sent.
        ConnectionClosed: the conversation is over.
        """
        line, wire = self._session.line(text), self._connected
        self._raise_if_ended()
        if wire.has_sent_eof:
            raise ConnectionClosed("nothing can be sent after send_eof", clean=False)
        wire.transport.write(line)
        if not wire.writable.is_set():
            await wire.writable.wait()
            self._raise_if_ended()

    async def receive(self, timeout: float | None = None) -> Event:
        """The next event: a `Message`, a `Notice` ...

        timeout: seconds to wait; 0 only looks, None waits for ever.
        TimeoutError: nothing arrived in time. ConnectionClosed: the conversation is over.
        ProtocolError: the server sent what isn't chat; the conversation is over.
        """
        received = self._session.received
        if not received:
            wire = self._connected
            async with asyncio.timeout(timeout):
                while not received:
                    self._raise_if_ended()
                    wire.resume_reading()
                    await wire.arrival()
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
        wire = self._wire
        if not wire or not wire.is_open:
            return
        self._session.begin_close()
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
    def _connected(self) -> _Wire:
        if not self._wire or not self._wire.is_open:
            raise RuntimeError("the client isn't connected")
        return self._wire

    def _raise_if_ended(self) -> None:
        if self._session.ended:
            raise self._session.ended.with_traceback(None)


class _Wire(asyncio.Protocol):
    """Between the event loop and the session.

    writable: set while the server takes what is sent. lost: set when the connection is gone.
    """

    transport: asyncio.Transport

    def __init__(self, session: Session) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.lost = asyncio.Event()
        self.has_sent_eof = False
        self._session = session
        self._arrived = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether there has been a connection."""
        return hasattr(self, "transport")

    async def arrival(self) -> None:
        """Wait for something to arrive, or for the end."""
        self._arrived.clear()
        await self._arrived.wait()

    def resume_reading(self) -> None:
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def send_eof(self) -> None:
        self.has_sent_eof = True
        if not self.transport.is_closing():
            self.transport.write_eof()

    def abort(self) -> None:
        """The end at once, if there was a beginning."""
        if self.is_open:
            self.transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._session.receive_data(data)
        if isinstance(self._session.ended, ProtocolError):
            self.transport.abort()
        elif len(self._session.received) > MAX_WAITING_EVENTS:
            self.transport.pause_reading()
        self._arrived.set()

    def eof_received(self) -> None:
        self._session.receive_data(b"")
        self._arrived.set()

    def connection_lost(self, error: Exception | None) -> None:
        lost = error if isinstance(error, OSError) else OSError("the connection was lost")
        self._session.end(self._session.lose(lost))
        for event in (self.lost, self.writable, self._arrived):
            event.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()
