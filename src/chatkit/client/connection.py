"""One connection of a `Client`."""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import ExitStack, nullcontext, suppress
from typing import TYPE_CHECKING

from chatkit.client.backlog import Backlog
from chatkit.client.baton import Baton
from chatkit.client.cancel import CancelToken, check, deadline_of, is_over, lock_timeout, wait
from chatkit.client.endpoint import Endpoint, NoAnswer, connect
from chatkit.client.exchange import Exchange
from chatkit.client.protocol import ClientProtocol, unanswered_error
from chatkit.errors import ChatError, ConnectionClosed, ProtocolError
from chatkit.events import Event
from chatkit.net.acknowledgements import gone_error
from chatkit.net.sockets import SIGNAL_SECONDS, break_off, reset_on_close, two_tuple
from chatkit.protocol.lines import is_exit

if TYPE_CHECKING:
    from chatkit.net.tls_transport import TlsTransport

READ_BYTES = 64 * 1024


class ClientConnection:
    """A socket, in TLS if the endpoint says so, and the protocol on it.

    The constructor connects and returns when the server has answered the protocol's opening.

    Half a line must never look like a whole one. So when a write fails inside a line, nothing more is written, and the
    socket is closed by a reset: an end of stream would end the line.

    Attributes:
        address: (host, port) of this side.
        receiving: held by the caller of `read` and `read_nowait`, where several threads may call these.
        sending: held while something is written.
        backlog: counts what is read.
        failed_in_line: whether the last `write` failed after a part of its bytes was sent.
    """

    def __init__(self, endpoint: Endpoint, protocol: ClientProtocol, cancel: CancelToken | None = None) -> None:
        """Connect.

        Args:
            cancel: ends the wait.

        Raises:
            Cancelled: by `cancel`. Other errors as for `Client`.
        """
        self.receiving = Baton()
        self.sending = threading.Lock()
        self._writing = threading.Lock()  # around one call that never waits, and the note of its error
        self.failed_in_line = False
        self._unsent = b""
        self._has_broken_line = False
        self._protocol = protocol
        self._exit_seconds = endpoint.exit_seconds
        self._give_up_at = math.inf  # once this side has left: the server's time to end the conversation is over
        self._quiet_seconds = endpoint.quiet_seconds
        self.backlog = Backlog(protocol.received)
        self._socket: socket.socket | TlsTransport
        with ExitStack() as stack:
            self._socket = sock = stack.enter_context(connect(endpoint, cancel))
            self._acks = endpoint.ack_watch(sock)
            self.address = two_tuple(sock.getsockname())
            self._tls = self._start_tls(sock, endpoint, cancel) if endpoint.tls else None
            self._socket = self._tls or sock
            self._quiet_at = self._quiet_end()  # text without a line end counts as a line then
            self._open(deadline_of(endpoint.answer_seconds or endpoint.timeout), cancel)
            stack.pop_all()

    @property
    def received(self) -> deque[Event]:
        """Return the events that the caller hasn't taken yet."""
        return self._protocol.received

    @property
    def ended(self) -> ChatError | None:
        """Return the reason why no more events follow, or None."""
        return self._protocol.ended

    @property
    def queued(self) -> list[str]:
        """Return no lines: nothing is kept for later."""
        return []

    def send(self, text: str) -> None:
        """Send one line, as `Client.send`."""
        data = self._protocol.encode(text)
        if is_exit(text):
            self.leave(data)
        else:
            self.write(data)

    def ask(self, exchange: Exchange) -> None:
        """Send the line of an exchange. Its answers go to it.

        Raises:
            ConnectionClosed: the conversation is over.
        """
        self.write(self.frame(exchange, exchange.encoded))

    def frame(self, exchange: Exchange, data: bytes) -> bytes:
        """Begin an exchange. Return the bytes to send for its line, which is encoded as `data`."""
        return self._protocol.frame(exchange, data)

    def write(self, data: bytes, deadline: float | None = None, cancel: CancelToken | None = None) -> None:
        """Send all of it, and wait as long as that takes.

        Raises:
            ConnectionClosed, ProtocolError: the conversation is over.
            TimeoutError: the deadline came first.
            Cancelled: by `cancel`.
        """
        with self.sending:
            if self._has_broken_line:
                raise self._protocol.first_error or broken_line_error()
            left = memoryview(self._unsent + data)
            self._unsent = b""
            try:
                self._raise_if_gone()
                while left:
                    try:
                        left = left[self._send(left) :]
                    except BlockingIOError:
                        self._wait(selectors.EVENT_WRITE, deadline, cancel)
                self._acks.sent()
            except BaseException as error:
                is_partly_sent = self._is_partly_sent(len(data), len(left))
                if isinstance(error, OSError) and not isinstance(error, TimeoutError):  # no descriptor for the wait
                    error = self._protocol.closed_by(error)
                if isinstance(error, ChatError):
                    self.failed_in_line = self._has_broken_line = is_partly_sent
                elif is_partly_sent:  # Ctrl-C, or too late: the next line must not follow half of this one
                    self.abort()
                raise error from None

    def write_nowait(self, data: bytes) -> None:
        """Send without waiting. The next write begins with the bytes that the kernel didn't take."""
        with self.sending:
            self._unsent += data
            with suppress(BlockingIOError, ChatError):  # full, or lost: the next read finds the loss
                self._unsent = self._unsent[self._send(self._unsent) :]
                self._acks.sent()

    def leave(self, last: bytes = b"") -> None:
        """Send the last bytes, and end the stream of lines. The server's lines can still be received.

        The server has `exit_seconds` from now on to end the conversation.

        Raises:
            ConnectionClosed, ProtocolError: the conversation is over.
        """
        if math.isinf(self._give_up_at):
            self._give_up_at = time.monotonic() + self._exit_seconds
        try:
            self.write(last, self._give_up_at)
        except TimeoutError:
            raise self._give_up() from None
        with self.sending:
            self._end_sending(self._give_up_at)

    def read(self, deadline: float | None, cancel: CancelToken | None = None) -> None:
        """Wait until there is something to read, and read once.

        Raises:
            TimeoutError: the deadline came first.
            Cancelled: by `cancel`.
        """
        if is_over(self._give_up_at):  # however much the server has to say
            self._give_up()
        elif not self.read_nowait():
            first = self._quiet_at if deadline is None else min(self._quiet_at, deadline)
            try:
                with suppress(ChatError):  # the read finds it
                    self._wait(selectors.EVENT_READ, first, cancel)
            except TimeoutError:
                if is_over(deadline):
                    raise
            self.read_nowait()  # before the caller looks at its deadline

    def read_nowait(self) -> bool:
        """Read once without waiting: events, or the reason for the end. Return whether there was something."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            if not is_over(self._quiet_at):
                return False
            self._quiet_at = math.inf
            self._protocol.end_line()
        except OSError as error:
            self._protocol.end(self._protocol.closed_by(error))
        else:
            self.backlog.count(len(data))
            with self._writing if not data else nullcontext():  # a write that is failing has the reason for the end
                self._protocol.receive_data(data)
            self._quiet_at = self._quiet_end()
            if isinstance(self._protocol.ended, ProtocolError):
                self.shutdown()
        return True

    def _quiet_end(self) -> float:
        """Return the time at which a line that has begun has been quiet for long enough."""
        return time.monotonic() + self._quiet_seconds if self._protocol.has_quiet_text else math.inf

    def begin_close(self, deadline: float | None) -> None:
        """Drop what arrives from now on, and end the stream of lines if that is possible before the deadline."""
        self._protocol.begin_close()
        if self.sending.acquire(timeout=lock_timeout(deadline)):
            try:
                self._end_sending(deadline)
            finally:
                self.sending.release()
        else:  # another thread is inside a line
            reset_on_close(self._socket)

    def shutdown(self) -> None:
        """End both directions. This wakes the threads that wait for the socket."""
        if self._has_broken_line:
            reset_on_close(self._socket)
        self._shutdown(socket.SHUT_RD if self._has_broken_line else socket.SHUT_RDWR)

    def abort(self) -> None:
        """End the conversation because of half a line."""
        self._has_broken_line = True
        self._protocol.end(broken_line_error())
        self.shutdown()

    def close(self) -> None:
        """Close the socket, after `begin_close` and `shutdown`. No other thread may be reading."""
        with self.sending:
            self._protocol.close()
            self._socket.close()

    def close_in_child(self) -> None:
        """Close a forked child's copy of the socket. The locks may be those of the parent's threads: make new ones."""
        self.receiving, self.sending, self._writing = Baton(), threading.Lock(), threading.Lock()
        self._protocol.close()
        self._socket.close()

    def discard(self) -> None:
        """Close the socket of a lost connection by a reset."""
        reset_on_close(self._socket)
        self.shutdown()
        with self.sending:
            self._socket.close()

    def _start_tls(self, sock: socket.socket, endpoint: Endpoint, cancel: CancelToken | None) -> TlsTransport:
        """Return the socket inside TLS, after the handshake."""
        from chatkit.net.tls_transport import TlsTransport  # ssl takes longer to load than all of this
        from chatkit.tls import client_context

        deadline = deadline_of(endpoint.timeout)
        context = client_context() if isinstance(endpoint.tls, bool) else endpoint.tls
        inside = TlsTransport(sock, context, endpoint.tls_name)
        while True:
            with suppress(BlockingIOError):
                self._protocol.receive_data(inside.recv(READ_BYTES))
            if inside.is_ready:
                return inside
            check(deadline, cancel)
            self._acks.sent()
            self._wait(selectors.EVENT_READ, deadline, cancel)

    def _open(self, deadline: float | None, cancel: CancelToken | None) -> None:
        """Send the protocol's opening, and wait for the answers.

        Raises:
            NoAnswer: the deadline came first.
        """
        try:
            self.write(self._protocol.opening, deadline, cancel)
            while self._protocol.is_opening:
                self.read(deadline, cancel)
                if self._protocol.is_opening:
                    check(deadline, cancel)
        except TimeoutError as error:
            raise NoAnswer(*error.args) from None

    def _send(self, data: bytes | memoryview) -> int:
        """Return how many bytes the socket takes.

        Raises:
            BlockingIOError: none.
            ConnectionClosed, ProtocolError: the conversation is over.
        """
        with self._writing:
            try:
                return self._socket.send(data)
            except BlockingIOError:
                raise
            except OSError as error:
                raise self._protocol.closed_by(error) from None

    def _end_sending(self, deadline: float | None) -> None:
        """Send the end of the stream. In TLS that may have to wait for the kernel."""
        if self._has_broken_line:
            return
        self._shutdown(socket.SHUT_WR)
        with suppress(OSError, ChatError):
            while self._tls and self._tls.has_unsent and self._tls.fileno() >= 0:
                self._wait(selectors.EVENT_WRITE, deadline)
                self._tls.flush()

    def _wait(self, event: int, deadline: float | None, cancel: CancelToken | None = None) -> None:
        """Wait until the socket is ready, and look now and then whether the server is gone.

        Raises:
            TimeoutError: the deadline came first.
            Cancelled: by `cancel`.
            ConnectionClosed, ProtocolError: the server is gone, or another error came before that.
        """
        while True:
            # always: another thread may send or leave during this wait
            look_at = min(time.monotonic() + min(self._acks.interval, SIGNAL_SECONDS), self._give_up_at)
            is_last = deadline is not None and deadline <= look_at
            try:
                wait(self._socket, event, deadline if is_last else look_at, cancel)
                return
            except TimeoutError:
                if is_last:
                    raise
            self._raise_if_gone()

    def _raise_if_gone(self) -> None:
        """Look whether the server is gone, if it is time to, or has had its time to end the conversation."""
        if is_over(self._give_up_at):
            raise self._give_up()
        if self._acks.is_gone():
            error = self._protocol.closed_by(gone_error())
            break_off(self._socket)  # a thread that waits to read finds it, too
            raise error

    def _give_up(self) -> ChatError:
        """End the conversation in place of the server. Return the reason for the end."""
        self._protocol.end(unanswered_error(self._exit_seconds))
        self.shutdown()
        assert self._protocol.ended
        return self._protocol.ended

    def _is_partly_sent(self, size: int, left: int) -> bool:
        """Tell whether the server may receive some of the last `size` bytes.

        Args:
            left: the number of bytes that the socket hasn't taken.
        """
        return left < size or bool(self._tls and self._tls.sealed)

    def _shutdown(self, how: int) -> None:
        with suppress(OSError):  # the server is gone, or this client is closed
            self._socket.shutdown(how)


def broken_line_error() -> ConnectionClosed:
    """Return the error for calls after a line was sent in part."""
    return ConnectionClosed("a line was broken off", clean=False)
