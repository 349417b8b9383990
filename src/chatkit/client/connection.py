"""One connection of a `Client`."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from errno import EINPROGRESS
from typing import TYPE_CHECKING

from chatkit.client.cancel import CancelToken, deadline_of, lock_timeout, wait
from chatkit.client.protocol import ClientProtocol
from chatkit.errors import ChatError, ConnectionClosed, ProtocolError
from chatkit.events import Event
from chatkit.limits import Limits
from chatkit.net.sockets import keep_alive, reset_on_close, two_tuple

if TYPE_CHECKING:
    import ssl

    from chatkit.net.tls_transport import TlsTransport

READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is and how to reach it: as the arguments of `Client`."""

    host: str
    port: int
    timeout: float | None
    tls: bool | ssl.SSLContext


class ClientConnection:
    """A socket, in TLS if that is wanted, and the protocol on it, which is open when the connection is made.

    cancel: ends the waiting for that; then Cancelled is raised. Other errors as for `Client`.
    receiving: to be held by who calls `read`. sending: held while something is written.
    in_line: whether the last `write` failed when it had begun: nobody knows what the server makes of it.
    """

    def __init__(self, endpoint: Endpoint, protocol: ClientProtocol, cancel: CancelToken | None = None) -> None:
        self.receiving = threading.Lock()
        self.in_line = False
        self.sending = threading.Lock()
        self._unsent = b""
        self._broken = False  # half a line was sent, and the rest won't be
        self._protocol = protocol
        sock = connect(endpoint, cancel)
        try:
            self.address = two_tuple(sock.getsockname())
            with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._tls = self._in_tls(sock, endpoint, cancel) if endpoint.tls else None
            self._socket = self._tls or sock
            self._open(deadline_of(endpoint.timeout), cancel)
        except BaseException:
            sock.close()
            raise

    @property
    def received(self) -> deque[Event]:
        """What nobody has taken yet; who wants to hear it otherwise sets a deque of its own."""
        return self._protocol.received

    @received.setter
    def received(self, received: deque[Event]) -> None:
        self._protocol.received = received

    @property
    def ended(self) -> ChatError | None:
        """Why nothing more will come, or None."""
        return self._protocol.ended

    @property
    def queued(self) -> list[str]:
        """None: what can't be sent is refused."""
        return []

    def send(self, text: str) -> None:
        """Say one line, as `Client.send`."""
        self.write(self._protocol.line(text))

    def write(self, data: bytes, cancel: CancelToken | None = None) -> None:
        """Send it all. ConnectionClosed: the conversation is over."""
        with self.sending:
            if self._broken:
                raise broken_off()
            left = memoryview(self._unsent + data)
            self._unsent = b""
            try:
                while left:
                    try:
                        left = left[self._socket.send(left) :]
                    except BlockingIOError:
                        wait(self._socket, selectors.EVENT_WRITE, None, cancel)
            except OSError as error:
                self.in_line = self._broken = self._has_begun(len(data), len(left))
                raise self._protocol.lose(error) from None
            except BaseException:  # Ctrl-C: what is sent next must not be glued to half a line
                if self._has_begun(len(data), len(left)):
                    self.break_off()
                raise

    def push(self, data: bytes) -> None:
        """Send something without waiting; what isn't taken goes out before whatever is sent next."""
        with self.sending:
            self._unsent += data
            with suppress(OSError):  # full, or lost: reading tells
                self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def read(self, deadline: float | None, cancel: CancelToken | None = None) -> None:
        """One read's worth of events, or the reason why there will be none. TimeoutError: nothing arrived in time."""
        if not self.take():
            wait(self._socket, selectors.EVENT_READ, deadline, cancel)

    def take(self) -> bool:
        """The same of what has arrived; whether there was anything."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self._protocol.end(self._protocol.lose(error))
        else:
            self._protocol.receive_data(data)
            if isinstance(self._protocol.ended, ProtocolError):
                self.shutdown()
        return True

    def send_eof(self) -> None:
        """Say that no more lines will come."""
        with self.sending:
            self._end_sending(None)

    def begin_close(self, deadline: float | None) -> None:
        """From now on nothing is kept that arrives; the server is told, if it takes that in time."""
        self._protocol.begin_close()
        if self.sending.acquire(timeout=lock_timeout(deadline)):
            try:
                self._end_sending(deadline)
            finally:
                self.sending.release()
        else:  # another thread is in the middle of a line: only a reset keeps half of it from looking whole
            reset_on_close(self._socket)

    def shutdown(self) -> None:
        """The end of both directions: wakes whoever waits."""
        if self._broken:
            reset_on_close(self._socket)
        self._shutdown(socket.SHUT_RD if self._broken else socket.SHUT_RDWR)

    def break_off(self) -> None:
        """The end, without an end of stream, which would make a line of what was sent."""
        self._broken = True
        self._protocol.end(broken_off())
        self.shutdown()

    def close(self) -> None:
        """After `begin_close` and `shutdown`, for who holds `receiving`."""
        with self.sending:
            self._protocol.close()
            self._socket.close()

    def abandon(self) -> None:
        """A lost connection's end, for who holds `receiving`; by a reset, so that half a line never looks whole."""
        reset_on_close(self._socket)
        self.shutdown()
        with self.sending:
            self._socket.close()

    def _in_tls(self, sock: socket.socket, endpoint: Endpoint, cancel: CancelToken | None) -> TlsTransport:
        """The socket inside TLS, after the handshake."""
        from chatkit.net.tls_transport import TlsTransport  # ssl takes longer to load than all of this
        from chatkit.tls import client_context

        deadline = deadline_of(endpoint.timeout)
        inside = TlsTransport(sock, client_context() if isinstance(endpoint.tls, bool) else endpoint.tls, endpoint.host)
        while not inside.is_ready:
            try:
                self._protocol.receive_data(inside.recv(READ_BYTES))
            except BlockingIOError:
                if not inside.is_ready:
                    wait(sock, selectors.EVENT_READ, deadline, cancel)
        return inside

    def _open(self, deadline: float | None, cancel: CancelToken | None) -> None:
        """Ask for the name and the events that the protocol wants, and wait for them."""
        self.write(self._protocol.opening, cancel)
        while self._protocol.is_opening:
            self.read(deadline, cancel)

    def _end_sending(self, deadline: float | None) -> None:
        """Our end; in TLS it may have to wait until the kernel takes it."""
        if self._broken:
            return
        self._shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while self._tls and self._tls.has_unsent and self._tls.fileno() >= 0:
                wait(self._socket, selectors.EVENT_WRITE, deadline)
                self._tls.flush()

    def _has_begun(self, size: int, left: int) -> bool:
        """Whether the server may get some of the last `size` bytes, of which the socket hasn't taken `left`."""
        return left < size or bool(self._tls and self._tls.sealed)

    def _shutdown(self, how: int) -> None:
        with suppress(OSError):  # the server is gone, or this client closed
            self._socket.shutdown(how)


def connect(endpoint: Endpoint, cancel: CancelToken | None) -> socket.socket:
    """A connected, non-blocking socket; each address of the host is tried. OSError: why the last one failed."""
    failed = OSError("the host has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            code = sock.connect_ex(address)
            if code == EINPROGRESS:
                wait(sock, selectors.EVENT_WRITE, deadline_of(endpoint.timeout), cancel)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            keep_alive(sock, Limits().silent_seconds, Limits().unacknowledged_seconds)
            return sock
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
    raise failed


def broken_off() -> ConnectionClosed:
    """What to raise when a line was begun and can't be ended."""
    return ConnectionClosed("a line was broken off", clean=False)
