"""`Client`: a member of a room, for programs that block."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.client.cancel import deadline_of, is_over, late_error, lock_timeout
from chatkit.client.connection import ClientConnection
from chatkit.client.endpoint import EXIT_SECONDS, Endpoint, locate
from chatkit.client.opening import Opening
from chatkit.client.protocol import ClientProtocol
from chatkit.client.verbs import Composer, Verbs
from chatkit.errors import ChatError, ConnectionClosed
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.net.sockets import Address

if TYPE_CHECKING:
    import ssl

    from chatkit.client.reconnect import ReconnectingConnection


class Client(Verbs):
    """A member of a room, for programs that block.

        with Client(port=12345) as client:
            client.say("Hi!")
            print(client.receive(timeout=1))

    With `reconnect=True` it comes back when the connection is lost: docs/reconnecting.md.

    Resource handling: one socket, no thread. `close`, also at the end of `with`, frees it. With reconnect, during an
    absence, there are one daemon thread and two more sockets. `close` ends these at once, or within a second if the
    host's name is being looked up.

    Error handling: the first connection raises the errors listed at `__init__`, with reconnect, too. Later `receive`,
    iteration and `send` raise ConnectionClosed once the conversation has ended, or ProtocolError if the server sent
    anything but chat: all of them for the first reason. With reconnect a loss is no error, but a `Disconnected` event.
    Failed attempts to come back are repeated, except after PasswordRefused, ProtocolError and
    `ssl.SSLCertVerificationError`: these end the conversation, and `receive` and `send` raise them.

    Threads: all methods may be called by several threads at the same time. Each event goes to one caller of `receive`.

    Forks: in a forked child `close`, also at the end of `with`, closes the child's descriptor alone: the parent's
    conversation goes on.
    """

    _answer_seconds: float | None = None  # see `Endpoint`
    _quiet_seconds = math.inf

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
        """Connect, and join the room.

        Args:
            host, port: the server's address. Each address of a host name is tried. In place of both, a URL as
                chat-server prints it: `chat://HOST:PORT`, `chats://HOST:PORT#FINGERPRINT`.
            timeout: seconds for connecting to one address, and for each answer to a question; None: no limit.
            tls: True to trust the authorities of this system, or a context of `chatkit.tls.client_context`.
            password: the room's password.
            name: the name to take. By default a member's name is its TCP port.
            events: receive JSON: first a `Welcome`, then messages with id and time, `Joined`, `Left` and so on.
            echo: with events, own messages come back, too, in their place in the order.
            after: with events, a message's id. All messages after it come first; 0 for all that the room keeps.
            epoch: that of the `Welcome` before `after`. In another epoch all that the room keeps comes first.
            reconnect: come back when the connection is lost; implies events.
            queue: with reconnect, the number of lines that `send` keeps during an absence and sends after the return.
            max_line_bytes: the longest line that `send` accepts, in bytes; the server's limit of that name.
            silent_seconds, unacknowledged_seconds: the bounds of a server that the network can't reach, see `Limits`.
            exit_seconds: the time that the server has to end the conversation after `exit`, `leave` or `send_eof`.

        Raises:
            OSError: it can't connect. `ssl.SSLError`: TLS fails; `ssl.SSLCertVerificationError`: no trust.
            PasswordRefused: the room needs a password, and got none or a wrong one.
            NameTaken, Refused: another member has the name, or the room's program doesn't let it pass.
            ConnectionClosed, ProtocolError: the room is full, or the other side is no chat server.
            ValueError: an argument breaks a rule, such as that for names.
        """
        if queue and not reconnect:
            raise ValueError("queue needs reconnect=True")
        events = events or reconnect
        asked = Opening(password=password, name=name, events=events, after=after, echo=echo, epoch=epoch)
        self._composer = Composer(max_line_bytes, timeout, not asked.lines(), events, echo)
        endpoint = Endpoint(
            *locate(host, port, tls),
            timeout,
            silent_seconds,
            unacknowledged_seconds,
            exit_seconds,
            answer_seconds=None if password else self._answer_seconds,  # a guess may have to wait
            quiet_seconds=self._quiet_seconds,
        )
        self._pid = os.getpid()
        self._connection: ClientConnection | ReconnectingConnection
        if reconnect:
            from chatkit.client.reconnect import ReconnectingConnection  # loaded only when it is needed
            from chatkit.client.resume import ResumeState

            state = ResumeState(max_line_bytes, asked, queue)
            received = deque[Event]()
            self._connection = ReconnectingConnection(endpoint, state, max_line_bytes, received)
            self._received = received
        else:
            protocol = ClientProtocol(max_line_bytes, asked, any_server=self._quiet_seconds < math.inf)
            self._connection = ClientConnection(endpoint, protocol)
            self._received = protocol.received
        self._receiving = self._connection.receiving

    @property
    def address(self) -> Address:
        """Return (host, port) of this side. The port is the member's first name, unless a NAT changes it on the way."""
        return self._connection.address

    @property
    def queued(self) -> list[str]:
        """Return the lines that wait for the return to the room; after the end, the lines that were never sent."""
        return self._connection.queued

    def send(self, text: str) -> None:
        """Send one line as it is, also a command, or `exit`, which ends the conversation, and the stream of lines.

        Use `say` and the other verbs for text from elsewhere. It waits while the server reads nothing; `close` in
        another thread ends the wait.

        Args:
            text: one line without its line end, at most `max_line_bytes` bytes in UTF-8.

        Raises:
            ValueError: `text` is no such line; nothing was sent.
            NotConnected: with reconnect: the connection is lost for now, and the queue is full or 0; nothing was sent.
            ConnectionClosed: the conversation is over. With reconnect also the other errors that end it.
        """
        self._connection.send(text)

    def receive(self, timeout: float | None = None) -> Event:
        """Wait for the next event.

        Args:
            timeout: seconds to wait; 0 doesn't wait, None waits for ever.

        Returns:
            A `Message`, a `Notice` or another of `chatkit.Event`.

        Raises:
            TimeoutError: nothing arrived in time.
            ConnectionClosed: the conversation is over.
            ProtocolError: the server sent anything but chat; the conversation is over.
        """
        with suppress(IndexError):
            return self._received.popleft()  # one atomic step, so it needs no lock
        deadline = deadline_of(timeout)
        with self._receiving.hold() as reading:
            if not reading.acquire(timeout=lock_timeout(deadline)):
                raise late_error()
            is_late = False  # only after one look: a timeout of 0 is one
            while True:
                with suppress(IndexError):
                    return self._received.popleft()
                if self._connection.ended:
                    raise self._connection.ended.with_traceback(None)
                if is_late:
                    raise late_error()
                self._connection.read(deadline)
                is_late = is_over(deadline)

    def __iter__(self) -> Iterator[Event]:
        """Iterate over the events until the conversation ends.

        Raises:
            ConnectionClosed: it broke instead of ending in order, or didn't end within `exit_seconds`.
            ProtocolError: the server sent anything but chat.
        """
        while True:
            try:
                yield self.receive(None)
            except ConnectionClosed as closed:
                if closed.clean:
                    return
                raise

    def send_eof(self) -> None:
        """End the stream of lines. The events before the end of the conversation can still be received."""
        with suppress(ChatError):  # it has ended already
            self._connection.leave()

    def close(self, grace: float = 2.0) -> None:
        """Leave the room. Events that weren't received yet are dropped.

        When it returns, the server has received every line, if it answered in time. Other threads that wait in `send`
        or `receive` get ConnectionClosed.

        Args:
            grace: seconds to wait for the server's answer.
        """
        if self._pid != os.getpid():
            self._connection.close_in_child()
            self._receiving = self._connection.receiving
            return
        deadline = deadline_of(grace)
        self._connection.begin_close(deadline)
        with suppress(TimeoutError):
            self._drain(deadline)
        self._connection.shutdown()  # wakes other threads
        with self._receiving.hold() as reading:
            if not self._receiving.is_mine:
                reading.acquire()
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drain(self, deadline: float | None) -> None:
        """Read until the server's end.

        Raises:
            TimeoutError: the deadline came first.
        """
        with self._receiving.hold() as reading:
            if reading.acquire(timeout=lock_timeout(deadline)):
                while not self._connection.ended and not is_over(deadline):
                    self._connection.read(deadline)
