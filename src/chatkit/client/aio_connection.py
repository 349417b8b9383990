"""One connection of an `AsyncClient`."""

from __future__ import annotations

import asyncio
import errno
from collections import deque

from chatkit.client.connection import Place
from chatkit.client.protocol import Session
from chatkit.client.wire import Wire
from chatkit.errors import ChatError, ConnectionClosed
from chatkit.events import Event
from chatkit.net.addresses import Address, two_tuple


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
