"""A connection that replaces itself when it is lost: for `AsyncClient(reconnect=True)`."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from contextlib import ExitStack

from chatkit.client.aio_connection import AsyncConnection
from chatkit.client.backlog import Backlog
from chatkit.client.backoff import Backoff, is_final
from chatkit.client.endpoint import Endpoint
from chatkit.client.exchange import Exchange
from chatkit.client.protocol import closed_error
from chatkit.client.resume import ResumeState, left_error
from chatkit.errors import ChatError, NotConnected
from chatkit.events import Event
from chatkit.net.sockets import Address
from chatkit.protocol.lines import encode_line, is_exit


class AsyncReconnectingConnection:
    """A sequence of `AsyncConnection`s with the interface of one, and the state that leads from each to the next.

    Plan: the event loop calls `_on_change` after each read and at the end. A loss starts a task, which connects and
    hands the next connection to `_resume`.

    Attributes:
        received: events that the caller hasn't taken yet.
        ended: the reason why no more events follow, or None.
    """

    def __init__(self, endpoint: Endpoint, state: ResumeState, max_line_bytes: int) -> None:
        self.received = deque[Event]()
        self.ended: Exception | None = None
        self._backlog = Backlog(self.received)
        self._endpoint = endpoint
        self._state = state
        self._max_line_bytes = max_line_bytes
        self._backoff = Backoff()
        self._changed = asyncio.Event()
        self._closing = False
        self._reconnector: asyncio.Task[None] | None = None
        self._address: Address | None = None
        self._connection: AsyncConnection | None = AsyncConnection(endpoint, state.next_protocol())
        self._last_connection = self._connection  # its socket closes a moment after the loss

    @property
    def address(self) -> Address:
        """Return (host, port) of this side; of the last connection during an absence.

        Raises:
            RuntimeError: not connected.
        """
        if not self._address:
            raise RuntimeError("the client isn't connected")
        return self._address

    @property
    def queued(self) -> list[str]:
        """Return the lines to send after the return."""
        return list(self._state.queued)

    async def connect(self) -> None:
        """Connect for the first time. Errors as for `AsyncClient.connect`."""
        assert self._connection
        with ExitStack() as stack:
            stack.callback(self._connection.stream.abort)
            await self._connection.connect()
            if self._closing:
                raise closed_error()
            self._resume(self._connection)
            stack.pop_all()

    async def send(self, text: str) -> None:
        """Send one line, or queue it during an absence.

        Raises:
            NotConnected: there is no queue, or it is full.
            Others: as for `AsyncClient.send`.
        """
        encode_line(text, self._max_line_bytes)
        if connection := await self._usable_connection():
            await self._write(connection, self._state.send(text), is_last=is_exit(text))
        elif is_exit(text):
            self._leave()
        else:
            self._state.enqueue(text)

    async def ask(self, exchange: Exchange) -> None:
        """Send the line of an exchange. Its answers go to it. Nothing is queued.

        Raises:
            NotConnected: the connection is lost for now.
            Others: as for `AsyncClient.send`.
        """
        if not (connection := await self._usable_connection()):
            raise NotConnected("the connection is lost")
        data = self._state.send(exchange.line) if exchange.is_message else exchange.encoded
        await self._write(connection, connection.frame(exchange, data))

    async def _usable_connection(self) -> AsyncConnection | None:
        """Return the connection, or None during an absence.

        Raises:
            RuntimeError: not connected.
            ConnectionClosed, ProtocolError: the conversation is over.
        """
        if self._connection and self._address:
            await self._connection.stream.let_loop_find_loss()
        self._raise_if_ended()
        if self._closing or self._state.is_leaving:
            raise left_error()
        connection = self._connection
        return connection if connection and not connection.stream.transport.is_closing() else None

    async def _write(self, connection: AsyncConnection, data: bytes, *, is_last: bool = False) -> None:
        (connection.stream.leave if is_last else connection.stream.write)(data)
        await connection.stream.writable.wait()  # if the connection is lost meanwhile, the state has the line
        self._raise_if_ended()

    async def wait_for_change(self) -> None:
        """Wait for events, a loss, a return or the end.

        Raises:
            RuntimeError: not connected.
            ConnectionClosed, ProtocolError: the conversation is over.
        """
        self._raise_if_ended()
        if self._connection:
            self._connection.stream.resume_reading()
        self._changed.clear()
        await self._changed.wait()

    def leave(self) -> None:
        """End the stream of lines, after the queued ones. During an absence, end the conversation."""
        self._raise_if_unconnected()
        self._leave()
        if self._connection:
            if (data := self._state.leave()) and not self._connection.stream.transport.is_closing():
                self._connection.stream.write(data)
            self._connection.leave()

    async def close(self, grace: float | None) -> None:
        """Leave, as `AsyncClient.close`. End an absence at once."""
        self._closing = True
        try:
            if self._reconnector and not self._reconnector.done():
                self._reconnector.cancel()
                await asyncio.wait([self._reconnector])
            await (self._connection.close(grace) if self._connection else self._last_connection.discard())
        finally:
            self._end(closed_error())
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
            self._end(left_error())

    def _end(self, reason: Exception) -> None:
        """End the conversation for good. The first reason counts."""
        self.received.extend(self._state.report_unknown())
        self.ended = self.ended or reason
        if self._reconnector:
            self._reconnector.cancel()
        self._changed.set()

    def _resume(self, connection: AsyncConnection) -> None:
        """Continue with a new connection, beginning with the queued lines."""
        self._connection, self._address = connection, connection.address
        self._backoff.connected()
        connection.stream.on_change, connection.stream.backlog = self._on_change, self._backlog
        self._on_change()
        while self._state.queued and self._connection is connection and not connection.stream.transport.is_closing():
            connection.stream.write(self._state.send(self._state.queued.popleft()))

    def _on_change(self) -> None:
        """Apply what was read: events, and the loss of the connection."""
        if not (connection := self._connection):
            return
        while connection.received:
            self.received.extend(self._state.receive(connection.received.popleft()))
        if connection.ended:
            self._connection_lost(connection, connection.ended)
        else:
            if self._state.has_request and not connection.stream.has_sent_eof:
                connection.stream.write(self._state.take_request())
            connection.stream.pause_if_full()
        self._changed.set()

    def _connection_lost(self, connection: AsyncConnection, reason: ChatError) -> None:
        """Drop a connection. Start the task that replaces it."""
        self._backoff.disconnected()
        if self._closing:
            self._end(reason)  # `close` has the connection
            return
        self._connection, self._last_connection = None, connection
        self.received.extend(self._state.connection_lost(reason))
        if self._state.is_final_loss(reason):
            self._end(reason)
        self._reconnector = asyncio.get_running_loop().create_task(self._reconnect())

    # The task of an absence

    async def _reconnect(self) -> None:
        """Try until an attempt succeeds, or the conversation has ended."""
        try:
            await self._last_connection.discard()
            while not self.ended:
                await asyncio.sleep(self._backoff.delay())
                if await self._attempt():
                    return
        except Exception as error:  # an unexpected one must not leave the caller waiting
            self._end(error)

    async def _attempt(self) -> bool:
        """Try once. Return whether it succeeded."""
        connection = AsyncConnection(self._endpoint, self._state.next_protocol())
        try:
            if self._backlog.is_overfull:
                raise OSError(errno.ENOBUFS, "the program has to receive first")
            await connection.connect()
        except (OSError, ChatError) as error:
            await connection.discard()
            if is_final(error):
                self._end(error)
            self.received.extend(self._state.attempt_failed(error))
            self._changed.set()
            return False
        except asyncio.CancelledError:
            await connection.discard()
            raise
        self._resume(connection)
        return True
