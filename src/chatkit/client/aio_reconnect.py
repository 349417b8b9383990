"""A connection that is taken up again when it is lost: for `AsyncClient(reconnect=True)`."""

from __future__ import annotations

import asyncio
from collections import deque

from chatkit.client.aio_connection import AsyncConnection
from chatkit.client.backoff import Backoff, is_final
from chatkit.client.connection import Endpoint
from chatkit.client.protocol import closed_error
from chatkit.client.resume import ResumeState, left_error
from chatkit.errors import ChatError
from chatkit.events import Event
from chatkit.net.sockets import Address
from chatkit.protocol.lines import encode_line, is_exit


class AsyncReconnectingConnection:
    """One `AsyncConnection` after the other, with the verbs of one, and the state that leads from each to the next.

    received, ended: as of an `AsyncConnection`. While there is no connection a task waits and connects.
    """

    def __init__(self, endpoint: Endpoint, state: ResumeState, max_line_bytes: int) -> None:
        self.received = deque[Event]()
        self.ended: Exception | None = None
        self._endpoint = endpoint
        self._state = state
        self._max_line_bytes = max_line_bytes
        self._backoff = Backoff()
        self._changed = asyncio.Event()
        self._closing = False
        self._reconnector: asyncio.Task[None] | None = None
        self._address: Address | None = None
        self._connection: AsyncConnection | None = AsyncConnection(endpoint, state.next_protocol())
        self._lost = self._connection  # the last one; its socket closes a moment later

    @property
    def address(self) -> Address:
        if not self._address:
            raise RuntimeError("the client isn't connected")
        return self._address

    @property
    def queued(self) -> list[str]:
        """The lines that are kept for the return."""
        return list(self._state.queued)

    async def connect(self) -> None:
        assert self._connection
        await self._connection.connect()
        if self._closing:
            raise closed_error()
        self._take_up(self._connection)

    async def send(self, text: str) -> None:
        """Say one line; while away keep it for the return. NotConnected: that isn't wanted, or it is one too many."""
        encode_line(text, self._max_line_bytes)
        if self._connection and self._address:
            await self._connection.stream.before_write()
        self._raise_if_ended()
        if self._closing or self._state.is_leaving:
            raise left_error()
        if (connection := self._connection) and not connection.stream.transport.is_closing():
            connection.stream.transport.write(self._state.send(text))
            await (
                connection.stream.writable.wait()
            )  # the state knows what becomes of the line if the connection is lost meanwhile
            self._raise_if_ended()
        elif is_exit(text):
            self._leave()
        else:
            self._state.enqueue(text)

    async def arrival(self) -> None:
        """Wait until something has changed."""
        self._raise_if_ended()
        if self._connection:
            self._connection.stream.resume_reading()
        self._changed.clear()
        await self._changed.wait()

    def send_eof(self) -> None:
        self._raise_if_unconnected()
        self._leave()
        if self._connection:
            if (data := self._state.leave()) and not self._connection.stream.transport.is_closing():
                self._connection.stream.transport.write(data)
            self._connection.send_eof()

    async def close(self, grace: float | None) -> None:
        self._closing = True
        try:
            if self._reconnector and not self._reconnector.done():
                self._reconnector.cancel()
                await asyncio.wait([self._reconnector])
            await (self._connection.close(grace) if self._connection else self._lost.discard())
        finally:
            self._finish(closed_error())
            self.ended = closed_error()
            self.received.clear()

    def _raise_if_unconnected(self) -> None:
        if not self._address:
            raise RuntimeError("the client isn't connected")

    def _raise_if_ended(self) -> None:
        self._raise_if_unconnected()
        if self.ended:
            raise self.ended.with_traceback(None)

    def _leave(self) -> None:
        self._state.is_leaving = True
        if not self._connection:
            self._finish(left_error())

    def _finish(self, reason: Exception) -> None:
        """There is no return any more; the first reason counts."""
        self.received.extend(self._state.report_unknown())
        self.ended = self.ended or reason
        if self._reconnector:
            self._reconnector.cancel()
        self._changed.set()

    def _take_up(self, connection: AsyncConnection) -> None:
        """Go on with a new connection."""
        self._connection, self._address = connection, connection.address
        self._backoff.connected()
        connection.stream.on_change = self._receive
        self._receive()
        while self._state.queued and self._connection is connection and not connection.stream.transport.is_closing():
            connection.stream.transport.write(self._state.send(self._state.queued.popleft()))

    def _receive(self) -> None:
        if not (connection := self._connection):
            return
        while connection.received:
            self.received.extend(self._state.receive(connection.received.popleft()))
        if connection.ended:
            self._part(connection, connection.ended)
        else:
            if self._state.has_request:
                connection.stream.transport.write(self._state.take_request())
            connection.stream.pause_if_many(len(self.received))
        self._changed.set()

    def _part(self, connection: AsyncConnection, reason: ChatError) -> None:
        self._backoff.disconnected()
        if self._closing:
            self._finish(reason)  # `close` has the connection
            return
        self._connection, self._lost = None, connection
        self.received.extend(self._state.connection_lost(reason))
        if self._state.is_final_loss(reason):
            self._finish(reason)
        self._reconnector = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        """The task while away."""
        try:
            await self._attempt()
        except Exception as error:  # whatever it is: else who receives would wait for ever
            self._finish(error)

    async def _attempt(self) -> None:
        await self._lost.discard()
        while not self.ended:
            await asyncio.sleep(self._backoff.delay())
            connection = AsyncConnection(self._endpoint, self._state.next_protocol())
            try:
                await connection.connect()
            except (OSError, ChatError) as error:
                await connection.discard()
                if is_final(error):
                    self._finish(error)
                self.received.extend(self._state.attempt_failed(error))
                self._changed.set()
            except asyncio.CancelledError:
                await connection.discard()
                raise
            else:
                self._take_up(connection)
                return
