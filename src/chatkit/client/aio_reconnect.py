"""A connection that is taken up again when it is lost: for `AsyncClient(reconnect=True)`."""

from __future__ import annotations

import asyncio
from collections import deque

from chatkit.client.aio_connection import AsyncLink
from chatkit.client.backoff import Backoff, is_final
from chatkit.client.connection import Place
from chatkit.client.resume import Trail, closed, left
from chatkit.errors import ChatError
from chatkit.events import Event
from chatkit.net.sockets import Address
from chatkit.protocol.lines import encode_line, is_exit


class AsyncChain:
    """One `AsyncLink` after the other, with the verbs of one, and the trail that leads from each to the next.

    received, ended: as of an `AsyncLink`. While there is no link a task waits and connects.
    """

    def __init__(self, place: Place, trail: Trail, max_line_bytes: int) -> None:
        self.received = deque[Event]()
        self.ended: Exception | None = None
        self._place = place
        self._trail = trail
        self._max_line_bytes = max_line_bytes
        self._backoff = Backoff()
        self._changed = asyncio.Event()
        self._closing = False
        self._comeback: asyncio.Task[None] | None = None
        self._address: Address | None = None
        self._link: AsyncLink | None = AsyncLink(place, trail.session())
        self._lost = self._link  # the last one; its socket closes a moment later

    @property
    def address(self) -> Address:
        if not self._address:
            raise RuntimeError("the client isn't connected")
        return self._address

    @property
    def queued(self) -> list[str]:
        """The lines that are kept for the return."""
        return list(self._trail.queued)

    async def connect(self) -> None:
        assert self._link
        await self._link.connect()
        if self._closing:
            raise closed()
        self._take_up(self._link)

    async def send(self, text: str) -> None:
        """Say one line; while away keep it for the return. NotConnected: that isn't wanted, or it is one too many."""
        encode_line(text, self._max_line_bytes)
        if self._link and self._address:
            await self._link.wire.before_write()
        self._raise_if_ended()
        if self._closing or self._trail.is_leaving:
            raise left()
        if (link := self._link) and not link.wire.transport.is_closing():
            link.wire.transport.write(self._trail.send(text))
            await link.wire.writable.wait()  # the trail knows what becomes of the line if the link is lost meanwhile
            self._raise_if_ended()
        elif is_exit(text):
            self._leave()
        else:
            self._trail.keep(text)

    async def arrival(self) -> None:
        """Wait until something has changed."""
        self._raise_if_ended()
        if self._link:
            self._link.wire.resume_reading()
        self._changed.clear()
        await self._changed.wait()

    def send_eof(self) -> None:
        self._raise_if_unconnected()
        self._leave()
        if self._link:
            if (data := self._trail.leave()) and not self._link.wire.transport.is_closing():
                self._link.wire.transport.write(data)
            self._link.send_eof()

    async def close(self, grace: float | None) -> None:
        self._closing = True
        try:
            if self._comeback and not self._comeback.done():
                self._comeback.cancel()
                await asyncio.wait([self._comeback])
            await (self._link.close(grace) if self._link else self._lost.abandon())
        finally:
            self._finish(closed())
            self.ended = closed()
            self.received.clear()

    def _raise_if_unconnected(self) -> None:
        if not self._address:
            raise RuntimeError("the client isn't connected")

    def _raise_if_ended(self) -> None:
        self._raise_if_unconnected()
        if self.ended:
            raise self.ended.with_traceback(None)

    def _leave(self) -> None:
        self._trail.is_leaving = True
        if not self._link:
            self._finish(left())

    def _finish(self, reason: Exception) -> None:
        """There is no return any more; the first reason counts."""
        self.received.extend(self._trail.give_up())
        self.ended = self.ended or reason
        if self._comeback:
            self._comeback.cancel()
        self._changed.set()

    def _take_up(self, link: AsyncLink) -> None:
        """Go on with a new link."""
        self._link, self._address = link, link.address
        self._backoff.connected()
        link.wire.heard = self._hear
        self._hear()
        while self._trail.queued and self._link is link and not link.wire.transport.is_closing():
            link.wire.transport.write(self._trail.send(self._trail.queued.popleft()))

    def _hear(self) -> None:
        if not (link := self._link):
            return
        while link.received:
            self.received.extend(self._trail.hear(link.received.popleft()))
        if link.ended:
            self._part(link, link.ended)
        else:
            if self._trail.owes:
                link.wire.transport.write(self._trail.owed())
            link.wire.pause_if_many(len(self.received))
        self._changed.set()

    def _part(self, link: AsyncLink, reason: ChatError) -> None:
        self._backoff.lost()
        if self._closing:
            self._finish(reason)  # `close` has the link
            return
        self._link, self._lost = None, link
        self.received.extend(self._trail.lose(reason))
        if self._trail.is_over(reason):
            self._finish(reason)
        self._comeback = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        """The task while away."""
        try:
            await self._attempt()
        except Exception as error:  # whatever it is: else who receives would wait for ever
            self._finish(error)

    async def _attempt(self) -> None:
        await self._lost.abandon()
        while not self.ended:
            await asyncio.sleep(self._backoff.delay())
            link = AsyncLink(self._place, self._trail.session())
            try:
                await link.connect()
            except (OSError, ChatError) as error:
                await link.abandon()
                if is_final(error):
                    self._finish(error)
                self.received.extend(self._trail.fail(error))
                self._changed.set()
            except asyncio.CancelledError:
                await link.abandon()
                raise
            else:
                self._take_up(link)
                return
