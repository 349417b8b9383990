"""One connection of an `AsyncClient`, and what asyncio's event loop calls."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable

from chatkit.client.connection import Place
from chatkit.client.protocol import Session
from chatkit.client.resume import MAX_WAITING_EVENTS
from chatkit.errors import ChatError, ConnectionClosed, ProtocolError
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.net.sockets import Address, keep_alive, reset_on_close, two_tuple


class Wire(asyncio.Protocol):
    """Between the event loop and the session.

    connected: the transport, from the beginning on, also after its end. writable: set while the server takes what is
    sent. lost: set when the connection is gone. heard: called when something has arrived, or the end has.
    """

    def __init__(self, session: Session) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.lost = asyncio.Event()
        self.connected: asyncio.Transport | None = None
        self.has_sent_eof = False
        self.heard: Callable[[], None] | None = None
        self._session = session
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
        self._session.receive_data(data)
        if isinstance(self._session.ended, ProtocolError):
            self.transport.abort()
        self.pause_if_many(len(self._session.received))
        self._tell()

    def eof_received(self) -> None:
        if not self._was_cut():
            self._session.receive_data(b"")
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
        self._session.end(self._session.lose(lost))
        self.lost.set()
        self.writable.set()
        self._tell()

    def _tell(self) -> None:
        self._arrived.set()
        if self.heard:
            self.heard()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


class AsyncLink:
    """A wire and the session on it. `connect`, once, opens it."""

    def __init__(self, place: Place, session: Session) -> None:
        self.wire = Wire(session)
        self._place = place
        self._session = session

    @property
    def address(self) -> Address:
        return two_tuple(self._connected.transport.get_extra_info("sockname"))

    @property
    def received(self) -> deque[Event]:
        return self._session.received

    @property
    def ended(self) -> ChatError | None:
        return self._session.ended

    @property
    def queued(self) -> list[str]:
        """None: what can't be sent is refused."""
        return []

    async def connect(self) -> None:
        """Errors as for `AsyncClient.connect`."""
        try:
            async with asyncio.timeout(self._place.timeout):
                await self._reach()
                if self._session.is_closing:
                    raise ConnectionClosed("this client is closed", clean=True)
                self.wire.transport.write(self._session.opening)
                while self._session.is_opening:
                    await self.wire.arrival()
        except BaseException:
            self.wire.abort()
            raise

    async def send(self, text: str) -> None:
        line, wire = self._session.line(text), self._connected
        await wire.before_write()
        self.raise_if_ended()
        if wire.has_sent_eof:
            raise self._session.lose(BrokenPipeError(errno.EPIPE, "nothing can be sent after send_eof"))
        wire.transport.write(line)
        if not wire.writable.is_set():
            await wire.writable.wait()
            self.raise_if_ended()

    async def arrival(self) -> None:
        """Wait for something to arrive, or for the end."""
        wire = self._connected
        self.raise_if_ended()
        wire.resume_reading()
        await wire.arrival()

    def send_eof(self) -> None:
        self._connected.send_eof()

    async def close(self, grace: float | None) -> None:
        """As `AsyncClient.close`."""
        wire = self.wire
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

    async def abandon(self) -> None:
        """A lost connection's end; returns when nothing is left of it."""
        self.wire.abort()
        if self.wire.connected:
            await self.wire.lost.wait()

    def raise_if_ended(self) -> None:
        if self._session.ended:
            raise self._session.ended.with_traceback(None)

    @property
    def _connected(self) -> Wire:
        if not self.wire.connected:
            raise RuntimeError("the client isn't connected")
        return self.wire

    async def _reach(self) -> None:
        loop, place, wire = asyncio.get_running_loop(), self._place, self.wire
        if not place.tls:
            await loop.create_connection(lambda: wire, place.host, place.port)
            return
        from chatkit.tls import client_context

        context = client_context() if isinstance(place.tls, bool) else place.tls
        await loop.create_connection(lambda: wire, place.host, place.port, ssl=context, server_hostname=place.host)
