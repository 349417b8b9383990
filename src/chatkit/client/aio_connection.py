"""One connection of an `AsyncClient`, and what asyncio's event loop calls."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable

from chatkit.client.connection import Endpoint
from chatkit.client.protocol import ClientProtocol, closed_error
from chatkit.client.resume import MAX_WAITING_EVENTS
from chatkit.errors import ChatError, ProtocolError
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.net.sockets import Address, keep_alive, reset_on_close, two_tuple


class StreamProtocol(asyncio.Protocol):
    """Between the event loop and the protocol.

    connected: the transport, from the beginning on, also after its end. writable: set while the server takes what is
    sent. lost: set when the connection is gone. on_change: called when something has arrived, or the end has.
    """

    def __init__(self, protocol: ClientProtocol) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.lost = asyncio.Event()
        self.connected: asyncio.Transport | None = None
        self.has_sent_eof = False
        self.on_change: Callable[[], None] | None = None
        self._protocol = protocol
        self._arrived = asyncio.Event()

    @property
    def transport(self) -> asyncio.Transport:
        assert self.connected
        return self.connected

    async def arrival(self) -> None:
        """Wait for something to arrive, or for the end."""
        self._arrived.clear()
        await self._arrived.wait()

    async def before_write(self) -> None:
        """Let the loop find a loss: asyncio's transport in TLS takes whatever is written until it has closed itself."""
        if self.transport.get_extra_info("ssl_object"):
            await asyncio.sleep(0)

    def pause_if_many(self, waiting: int) -> None:
        """Read no more while so many events wait for the caller, if that is too many."""
        if waiting > MAX_WAITING_EVENTS and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def send_eof(self) -> None:
        self.has_sent_eof = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # asyncio's TLS has no half of an end; the room's own word for it does as well
            self.transport.write(b"exit\n")

    def abort(self) -> None:
        """The end at once, if there was a beginning; with a reset if something is unsent: half a line is no line."""
        if not self.connected:
            return
        if self.transport.get_write_buffer_size():
            reset_on_close(self.transport.get_extra_info("socket"))
        self.transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.connected = transport
        sock, limits = transport.get_extra_info("socket"), Limits()
        keep_alive(sock, limits.silent_seconds, limits.unacknowledged_seconds)

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        if isinstance(self._protocol.ended, ProtocolError):
            self.transport.abort()
        self.pause_if_many(len(self._protocol.received))
        self._tell()

    def eof_received(self) -> None:
        if not self._was_cut():
            self._protocol.receive_data(b"")
        self._tell()

    def _was_cut(self) -> bool:
        """asyncio calls it an end, too, when TLS stops without saying so (`close_notify`)."""
        if not (tls := self.transport.get_extra_info("ssl_object")):
            return False
        try:
            return bool(tls.read(1))
        except OSError as error:
            return type(error).__name__ != "SSLZeroReturnError"  # without loading ssl for those who don't use it

    def connection_lost(self, error: Exception | None) -> None:
        lost = error if isinstance(error, OSError) else OSError("the connection was lost")
        self._protocol.end(self._protocol.closed_by(lost))
        self.lost.set()
        self.writable.set()
        self._tell()

    def _tell(self) -> None:
        self._arrived.set()
        if self.on_change:
            self.on_change()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


class AsyncConnection:
    """A stream and the protocol on it. `connect`, once, opens it."""

    def __init__(self, endpoint: Endpoint, protocol: ClientProtocol) -> None:
        self.stream = StreamProtocol(protocol)
        self._endpoint = endpoint
        self._protocol = protocol

    @property
    def address(self) -> Address:
        return two_tuple(self._connected.transport.get_extra_info("sockname"))

    @property
    def received(self) -> deque[Event]:
        return self._protocol.received

    @property
    def ended(self) -> ChatError | None:
        return self._protocol.ended

    @property
    def queued(self) -> list[str]:
        """None: what can't be sent is refused."""
        return []

    async def connect(self) -> None:
        """Errors as for `AsyncClient.connect`."""
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                await self._reach()
                if self._protocol.is_closing:
                    raise closed_error()
                self.stream.transport.write(self._protocol.opening)
                while self._protocol.is_opening:
                    await self.stream.arrival()
        except BaseException:
            self.stream.abort()
            raise

    async def send(self, text: str) -> None:
        line, stream = self._protocol.encode(text), self._connected
        await stream.before_write()
        self.raise_if_ended()
        if stream.has_sent_eof:
            raise self._protocol.closed_by(BrokenPipeError(errno.EPIPE, "nothing can be sent after send_eof"))
        stream.transport.write(line)
        if not stream.writable.is_set():
            await stream.writable.wait()
            self.raise_if_ended()

    async def arrival(self) -> None:
        """Wait for something to arrive, or for the end."""
        stream = self._connected
        self.raise_if_ended()
        stream.resume_reading()
        await stream.arrival()

    def send_eof(self) -> None:
        self._connected.send_eof()

    async def close(self, grace: float | None) -> None:
        """As `AsyncClient.close`."""
        stream = self.stream
        self._protocol.begin_close()
        if not stream.connected:
            return  # a `connect` that is under way finds it closed
        try:
            stream.send_eof()
            stream.resume_reading()
            async with asyncio.timeout(grace):
                await stream.lost.wait()
        except TimeoutError:
            pass
        finally:
            self._protocol.close()
            stream.abort()
        await stream.lost.wait()

    async def discard(self) -> None:
        """A lost connection's end; returns when nothing is left of it."""
        self.stream.abort()
        if self.stream.connected:
            await self.stream.lost.wait()

    def raise_if_ended(self) -> None:
        if self._protocol.ended:
            raise self._protocol.ended.with_traceback(None)

    @property
    def _connected(self) -> StreamProtocol:
        if not self.stream.connected:
            raise RuntimeError("the client isn't connected")
        return self.stream

    async def _reach(self) -> None:
        loop, endpoint, stream = asyncio.get_running_loop(), self._endpoint, self.stream
        if not endpoint.tls:
            await loop.create_connection(lambda: stream, endpoint.host, endpoint.port)
            return
        from chatkit.tls import client_context

        context = client_context() if isinstance(endpoint.tls, bool) else endpoint.tls
        await loop.create_connection(
            lambda: stream, endpoint.host, endpoint.port, ssl=context, server_hostname=endpoint.host
        )
