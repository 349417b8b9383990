"""`Client`: a member in a few lines, for programs that block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.client.cancel import deadline_of, lock_timeout
from chatkit.client.connection import ClientConnection, Endpoint
from chatkit.client.protocol import ClientProtocol
from chatkit.errors import ConnectionClosed
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.net.sockets import Address

if TYPE_CHECKING:
    import ssl

    from chatkit.client.reconnect import ReconnectingConnection


class Client:
    """A member of a room.

        with Client(port=12345) as client:
            client.send("Hi!")
            print(client.receive(timeout=1))

    host, port: where the server is; each address of a host name is tried.
    tls: True checks the server's certificate against the system's store; or a context (`chatkit.tls.client_context`).
    password: what the room asks for.
    timeout: seconds for connecting to one address, and for the answer to `name` and `events`; None waits for ever.
    name: what to be called instead of the port.
    events: receive JSON: first a `Welcome`, then messages with id and time, `Joined`, `Left` and so on.
    after: with events, receive first what was said after the message with this id; 0 for all that is kept.
    reconnect: come back when the connection is lost; implies events. See below.
    queue: with reconnect, keep up to so many lines that are sent while away, and send them after the return.
    max_line_bytes: the server's limit of that name; `send` refuses longer lines.
    address: (host, port) of this side; the port is the member's name, unless something on the way translates it.

    Coming back: `Disconnected` is received, then, when the client is in the room again under the name it had or chose last,
    `Reconnected`, and what was said meanwhile: each message once, in order, or a `Gap`; `Private` lines, notices, `Joined` and `Left` of
    that time are lost. While somebody else has the name, the client is there under its port, and takes the name when it is free.
    Between attempts it waits a random time below 0.2 s, then 0.4, 0.8 and so on up to 30 s. A line that was sent before
    the loss and may not have been heard is received as `Unconfirmed`; nothing is sent twice. Own lines are known by name and words: the same
    from a member who took our name, while ours are in doubt, are taken for them, and a handler that changes words hides them. What was sent is remembered until the room
    has confirmed it, at most 8 MiB of it; of older lines one `Unconfirmed` tells the number, with an empty `line`. Who never receives
    gets the confirmations by `send`, until 1000 events wait; then nothing is read, and a busy room cuts it off as too slow.
    An end is no loss after `exit`, `send_eof` and `close`, or when the operator removed this member (`Error`, code `removed`).
    A loss is found by who receives, and by `send`; a silent one by the kernel, within a minute.

    Resource handling: one socket, no thread. `close`, also at the end of `with`, frees it. With reconnect, while away: one
    daemon thread and two more sockets. `close` ends these at once (a look-up of the host's name after a second).

    Error handling: OSError when it can't connect (`ssl.SSLError` when TLS fails, `ssl.SSLCertVerificationError` when the
    certificate can't be trusted), PasswordRefused for the room's password, NameTaken when another member has the
    name, ValueError when it breaks the rule for names. `receive` and iteration raise ConnectionClosed when the conversation has ended,
    ProtocolError (and the conversation is over) when the server sent what isn't chat. The first connection raises with
    reconnect as without. Later PasswordRefused, ProtocolError and `ssl.SSLCertVerificationError` end the conversation, and are
    raised by `receive` and `send`; whatever else goes wrong is tried again.

    Threads: `send`, `receive` and `close` may be called at the same time from several threads; each message goes
    to one caller of `receive`.
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
        self._connection: ClientConnection | ReconnectingConnection
        if reconnect:
            from chatkit.client.reconnect import ReconnectingConnection  # only who comes back pays for it
            from chatkit.client.resume import ResumeState

            state = ResumeState(max_line_bytes, password=password, name=name, after=after, queue=queue)
            self._connection = ReconnectingConnection(endpoint, state, max_line_bytes)
        else:
            protocol = ClientProtocol(max_line_bytes, password=password, name=name, events=events, after=after)
            self._connection = ClientConnection(endpoint, protocol)
        self._received = self._connection.received
        self._receiving = self._connection.receiving

    @property
    def address(self) -> Address:
        """(host, port) of this side."""
        return self._connection.address

    @property
    def queued(self) -> list[str]:
        """The lines that wait for the return; after the end those that were never sent."""
        return self._connection.queued

    def send(self, text: str) -> None:
        """Say one line. The line `exit` ends the conversation.

        ValueError: `text` holds a line end, or is longer than `max_line_bytes`; nothing was sent.
        NotConnected: the connection is lost for now, and `queue` is full or 0; nothing was sent.
        ConnectionClosed: the conversation is over.

        Waits while the server reads nothing; `close` in another thread ends the wait.
        """
        self._connection.send(text)

    def receive(self, timeout: float | None = None) -> Event:
        """The next event: a `Message`, a `Notice` ...

        timeout: seconds to wait; 0 only looks, None waits for ever.
        TimeoutError: nothing arrived in time. ConnectionClosed: the conversation is over.
        ProtocolError: the server sent what isn't chat; the conversation is over.
        """
        with suppress(IndexError):
            return self._received.popleft()  # in one step: safe without the lock
        deadline = deadline_of(timeout)
        if not self._receiving.acquire(timeout=lock_timeout(deadline)):
            raise TimeoutError("nothing arrived in time")
        try:
            while True:
                with suppress(IndexError):
                    return self._received.popleft()
                if self._connection.ended:
                    raise self._connection.ended.with_traceback(None)
                self._connection.read(deadline)
        finally:
            self._receiving.release()

    def __iter__(self) -> Iterator[Event]:
        """Everything until the conversation ends. ConnectionClosed: it broke instead of ending in order."""
        while True:
            try:
                yield self.receive(None)
            except ConnectionClosed as closed:
                if closed.clean:
                    return
                raise

    def send_eof(self) -> None:
        """Say that no more lines will come. What the server still has for us can be received, then it ends."""
        self._connection.send_eof()

    def close(self, grace: float = 2.0) -> None:
        """Leave. When it returns the server has heard all that was sent, if it answered within `grace` seconds.

        What wasn't received yet is dropped. Whoever waits in `send` or `receive` gets ConnectionClosed.
        """
        deadline = deadline_of(grace)
        self._connection.begin_close(deadline)
        with suppress(TimeoutError):
            self._drain(deadline)
        self._connection.shutdown()  # wakes those who still wait
        with self._receiving:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drain(self, deadline: float | None) -> None:
        """Read until the server's end, or TimeoutError."""
        if self._receiving.acquire(timeout=lock_timeout(deadline)):
            try:
                while not self._connection.ended and (deadline is None or time.monotonic() < deadline):
                    self._connection.read(deadline)
            finally:
                self._receiving.release()
