"""`AsyncClient`: a member of a room, for programs that use asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.client.aio_connection import AsyncConnection
from chatkit.client.aio_reconnect import AsyncReconnectingConnection
from chatkit.client.aio_verbs import AsyncVerbs
from chatkit.client.endpoint import EXIT_SECONDS, Endpoint, locate
from chatkit.client.opening import Opening
from chatkit.client.protocol import ClientProtocol
from chatkit.client.resume import ResumeState
from chatkit.client.verbs import Composer
from chatkit.errors import ConnectionClosed
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.net.sockets import Address

if TYPE_CHECKING:
    import ssl


class AsyncClient(AsyncVerbs):
    """A member of a room, for programs that use asyncio.

        async with AsyncClient(port=12345) as client:
            await client.say("Hi!")
            print(await client.receive(timeout=1))

    `connect`, also at the start of `async with`, connects. With `reconnect=True` the client comes back when the
    connection is lost: docs/reconnecting.md. The event loop finds a loss at once, whether or not a task receives.

    Resource handling: one transport, no thread, no task. `close`, also at the end of `async with`, frees it. With
    reconnect, during an absence, there is one task. `close` ends it at once.

    Error handling: as for `Client`; `connect` raises the errors of the first connection.

    Cancelling: a cancelled `receive` loses no event. A cancelled `send` has sent its line once, or not at all if it had
    not begun to run (in TLS: had not waited for one turn of the event loop).

    Threads: a client belongs to one event loop. Tasks of that loop may share it; each event goes to one of them.

    Forks: in a forked child `close`, also at the end of `async with`, does nothing: the parent's conversation goes on.
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
        echo: bool = False,
        after: int | None = None,
        epoch: str | None = None,
        reconnect: bool = False,
        queue: int = 0,
        max_line_bytes: int = Limits().max_line_bytes,
        silent_seconds: float = Limits().silent_seconds,
        unacknowledged_seconds: float = Limits().unacknowledged_seconds,
        exit_seconds: float = EXIT_SECONDS,
    ) -> None:
        """Prepare a client, without connecting.

        Args:
            host, port, timeout, ...: as for `Client`.

        Raises:
            ValueError: an argument breaks a rule, such as that for names.
        """
        if queue and not reconnect:
            raise ValueError("queue needs reconnect=True")
        events = events or reconnect
        asked = Opening(password=password, name=name, events=events, after=after, echo=echo, epoch=epoch)
        self._composer = Composer(max_line_bytes, timeout, not asked.lines(), events, echo)
        endpoint = Endpoint(*locate(host, port, tls), timeout, silent_seconds, unacknowledged_seconds, exit_seconds)
        self._begun_by: int | None = None  # the process in which `connect` was called
        self._connection: AsyncConnection | AsyncReconnectingConnection
        if reconnect:
            state = ResumeState(max_line_bytes, asked, queue)
            self._connection = AsyncReconnectingConnection(endpoint, state, max_line_bytes)
        else:
            self._connection = AsyncConnection(endpoint, ClientProtocol(max_line_bytes, asked))

    @property
    def address(self) -> Address:
        """Return (host, port) of this side. The port is the member's first name, unless a NAT changes it on the way.

        Raises:
            RuntimeError: not connected.
        """
        return self._connection.address

    @property
    def queued(self) -> list[str]:
        """Return the lines that wait for the return to the room; after the end, the lines that were never sent."""
        return self._connection.queued

    async def connect(self) -> None:
        """Connect, and join the room. When it returns, the client has its name, and receives events.

        Raises:
            RuntimeError: this isn't the first call.
            TimeoutError: no answer in time. It is an OSError.
            Others: as for `Client`.
        """
        if self._begun_by is not None:
            raise RuntimeError("a client connects once; make a new one")
        self._begun_by = os.getpid()
        await self._connection.connect()

    async def send(self, text: str) -> None:
        """Send one line as it is, also a command, or `exit`, which ends the conversation, and the stream of lines.

        Use `say` and the other verbs for text from elsewhere. It waits while the server reads nothing.

        Args:
            text: one line without its line end, at most `max_line_bytes` bytes in UTF-8.

        Raises:
            ValueError: `text` is no such line; nothing was sent.
            NotConnected: with reconnect: the connection is lost for now, and the queue is full or 0; nothing was sent.
            ConnectionClosed, ProtocolError: the conversation is over. With reconnect also the other errors that end it.
            RuntimeError: `connect` wasn't called.
        """
        await self._connection.send(text)

    async def receive(self, timeout: float | None = None) -> Event:
        """Wait for the next event.

        Args:
            timeout: seconds to wait; 0 doesn't wait, None waits for ever.

        Returns:
            A `Message`, a `Notice` or another of `chatkit.Event`.

        Raises:
            TimeoutError: nothing arrived in time.
            ConnectionClosed: the conversation is over.
            ProtocolError: the server sent anything but chat; the conversation is over.
            RuntimeError: `connect` wasn't called.
        """
        received = self._connection.received
        if not received:
            try:
                async with asyncio.timeout(timeout):
                    while not received:
                        await self._connection.wait_for_change()
            except TimeoutError:
                if not received:  # after a pause of the process both come in one turn of the event loop
                    raise TimeoutError("nothing arrived in time") from None
        return received.popleft()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events until the conversation ends.

        Raises:
            ConnectionClosed: it broke instead of ending in order, or didn't end within `exit_seconds`.
            ProtocolError: the server sent anything but chat.
        """
        while True:
            try:
                yield await self.receive()
            except ConnectionClosed as closed:
                if closed.clean:
                    return
                raise

    async def send_eof(self) -> None:
        """End the stream of lines. The events before the end of the conversation can still be received.

        Raises:
            RuntimeError: `connect` wasn't called.
        """
        self._connection.leave()

    async def close(self, grace: float = 2.0) -> None:
        """Leave the room. Events that weren't received yet are dropped.

        When it returns, the server has received every line, if it answered in time. Other tasks that wait in `send` or
        `receive` get ConnectionClosed.

        Args:
            grace: seconds to wait for the server's answer.
        """
        if self._begun_by == os.getpid():  # a forked child's copy goes with the child's event loop
            await self._connection.close(grace)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
