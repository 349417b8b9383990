"""`Client`: a member in a few lines, for programs that block."""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.addresses import two_tuple
from chatkit.errors import ConnectionClosed, ProtocolError
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.session import Session
from chatkit.sockets import LONGEST_WAIT_SECONDS, reset_on_close

if TYPE_CHECKING:
    import ssl

    from chatkit.tls_socket import TlsSocket

READ_BYTES = 64 * 1024


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
    max_line_bytes: the server's limit of that name; `send` refuses longer lines.
    address: (host, port) of this side; the port is the member's name, unless something on the way translates it.

    Resource handling: one socket, no thread. `close`, also at the end of `with`, frees it.

    Error handling: OSError when it can't connect (`ssl.SSLError` when TLS fails, `ssl.SSLCertVerificationError` when the
    certificate can't be trusted), PasswordRefused for the room's password, NameTaken when another member has the
    name, ValueError when it breaks the rule for names. `receive` and iteration raise ConnectionClosed when the conversation has ended,
    ProtocolError (and the conversation is over) when the server sent what isn't chat.

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
        max_line_bytes: int = Limits().max_line_bytes,
    ) -> None:
        self._session = Session(max_line_bytes, password=password, name=name, events=events, after=after)
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        sock = socket.create_connection((host, port), timeout)
        try:
            sock.setblocking(False)
            self.address = two_tuple(sock.getsockname())
            with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._tls = self._in_tls(sock, tls, host, _deadline(timeout)) if tls else None
            self._socket = self._tls or sock
            self._open(_deadline(timeout))
        except BaseException:
            sock.close()
            raise

    def send(self, text: str) -> None:
        """Say one line. The line `exit` ends the conversation.

        ValueError: `text` holds a line end, or is longer than `max_line_bytes`; nothing was sent.
        ConnectionClosed: the conversation is over.

        Waits while the server reads nothing; `close` in another thread ends the wait.
        """
        self._write(self._session.line(text))

    def receive(self, timeout: float | None = None) -> Event:
        """The next event: a `Message`, a `Notice` ...

        timeout: seconds to wait; 0 only looks, None waits for ever.
        TimeoutError: nothing arrived in time. ConnectionClosed: the conversation is over.
        ProtocolError: the server sent what isn't chat; the conversation is over.
        """
        with suppress(IndexError):
            return self._session.received.popleft()  # in one step: safe without the lock
        deadline = _deadline(timeout)
        if not self._receiving.acquire(timeout=_lock_timeout(timeout)):
            raise TimeoutError("nothing arrived in time")
        try:
            while True:
                with suppress(IndexError):
                    return self._session.received.popleft()
                if self._session.ended:
                    raise self._session.ended.with_traceback(None)
                self._read(deadline)
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
        with self._sending:
            self._shutdown(socket.SHUT_WR)
            self._flush_tls(None)

    def close(self, grace: float = 2.0) -> None:
        """Leave. When it returns the server has heard all that was sent, if it answered within `grace` seconds.

        What wasn't received yet is dropped. Whoever waits in `send` or `receive` gets ConnectionClosed.
        """
        self._session.begin_close()
        deadline = _deadline(grace)
        if self._sending.acquire(timeout=_lock_timeout(grace)):
            self._shutdown(socket.SHUT_WR)
            self._flush_tls(deadline)
            self._sending.release()
        else:  # another thread is in the middle of a line: only a reset keeps half of it from looking whole
            reset_on_close(self._socket)
        with suppress(TimeoutError):
            self._drain(deadline)
        self._shutdown(socket.SHUT_RDWR)  # wakes those who still wait
        with self._sending, self._receiving:
            self._session.close()
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_tls(self, sock: socket.socket, tls: bool | ssl.SSLContext, host: str, deadline: float | None) -> TlsSocket:
        """The socket inside TLS, after the handshake."""
        from chatkit.tls import client_context
        from chatkit.tls_socket import TlsSocket  # ssl takes longer to load than all of this

        inside = TlsSocket(sock, client_context() if isinstance(tls, bool) else tls, host)
        while not inside.ready:
            try:
                self._session.receive_data(inside.recv(READ_BYTES))
            except BlockingIOError:
                if not inside.ready:
                    _wait(sock, selectors.EVENT_READ, deadline)
        return inside

    def _open(self, deadline: float | None) -> None:
        """Ask for the name and the events that this client wants, and wait for them."""
        self._write(self._session.opening)
        while self._session.is_opening:
            self._read(deadline)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        with self._sending:
            try:
                while left:
                    try:
                        left = left[self._socket.send(left) :]
                    except BlockingIOError:
                        _wait(self._socket, selectors.EVENT_WRITE, None)
            except OSError as error:
                raise self._session.lose(error) from None

    def _drain(self, deadline: float | None) -> None:
        """Read until the server's end, or TimeoutError."""
        if self._receiving.acquire(timeout=_lock_timeout(None if deadline is None else deadline - time.monotonic())):
            try:
                while not self._session.ended and (deadline is None or time.monotonic() < deadline):
                    self._read(deadline)
            finally:
                self._receiving.release()

    def _read(self, deadline: float | None) -> None:
        """One read's worth of events, or the reason why there will be none."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            _wait(self._socket, selectors.EVENT_READ, deadline)
        except OSError as error:
            self._session.end(self._session.lose(error))
        else:
            self._session.receive_data(data)
            if isinstance(self._session.ended, ProtocolError):
                self._shutdown(socket.SHUT_RDWR)

    def _flush_tls(self, deadline: float | None) -> None:
        """Our end, in TLS, may have to wait until the kernel takes it."""
        with suppress(OSError):
            while self._tls and self._tls.unsent:
                _wait(self._socket, selectors.EVENT_WRITE, deadline)
                self._tls.flush()

    def _shutdown(self, how: int) -> None:
        with suppress(OSError):  # the server is gone, or this client closed
            self._socket.shutdown(how)


def _wait(sock: socket.socket | TlsSocket, event: int, deadline: float | None) -> None:
    """Until the socket is ready for `event`. TimeoutError: the deadline came first."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, event)
        left = math.inf if deadline is None else deadline - time.monotonic()
        if not selector.select(min(max(0, left), LONGEST_WAIT_SECONDS)) and left <= LONGEST_WAIT_SECONDS:
            raise TimeoutError("nothing arrived in time")


def _lock_timeout(timeout: float | None) -> float:
    return -1 if timeout is None else min(max(0, timeout), threading.TIMEOUT_MAX)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
