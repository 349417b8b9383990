"""A connection that replaces itself when it is lost: for `Client(reconnect=True)`."""

from __future__ import annotations

import errno
import math
import threading
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import replace

from chatkit.client.backlog import Backlog
from chatkit.client.backoff import Backoff, is_final
from chatkit.client.baton import Baton
from chatkit.client.cancel import CancelToken, is_over, late_error, lock_timeout
from chatkit.client.connection import ClientConnection
from chatkit.client.endpoint import Endpoint
from chatkit.client.exchange import Exchange
from chatkit.client.protocol import closed_error
from chatkit.client.reconnector import Reconnector
from chatkit.client.resume import ResumeState, left_error
from chatkit.errors import ChatError, NotConnected
from chatkit.events import Event
from chatkit.net.sockets import SIGNAL_SECONDS
from chatkit.protocol.lines import encode_line, is_exit

# A sender reads no more than this before its line is sent: 1 MiB, however much the server has to say.
CATCH_UP_READS = 16


class ReconnectingConnection:
    """A sequence of `ClientConnection`s with the interface of one, and the state that leads from each to the next.

    Plan: only a reader finds a loss, since a failed write may leave events to read. The reader drops the connection and
    starts a `Reconnector`, which hands the next connection to `_resume`. A failed write, and a sender every hundred
    lines, read without waiting, so that a program that never receives comes back, too.

    Locks, in the order in which they are taken:

    - receiving: held by a reader;
    - sending: held by a writer. Lines are written in the order in which the state remembers them;
    - _lock: guards the state, the current connection and the end.

    Attributes:
        address: (host, port) of this side; of the last connection during an absence.
        ended: the reason why no more events follow, or None.
    """

    def __init__(
        self, endpoint: Endpoint, state: ResumeState, max_line_bytes: int, received: deque[Event] | None = None
    ) -> None:
        """Connect. Errors as for `Client`.

        Args:
            received: where the events go; the caller takes them.
        """
        self.ended: Exception | None = None
        self.received = deque[Event]() if received is None else received
        self._backlog = Backlog(self.received)
        self.receiving = Baton()
        self.sending = threading.Lock()
        self._lock = threading.RLock()
        self._changed = threading.Event()  # set by the thread: a reader that waits for nothing else looks again
        self._endpoint = replace(endpoint, answer_seconds=None)  # a room to which all come back at once may need longer
        self._state = state
        self._max_line_bytes = max_line_bytes
        self._closing = False
        self._reconnector: Reconnector | None = None
        self._backoff = Backoff()
        with ExitStack() as stack:
            connection = ClientConnection(endpoint, state.next_protocol())
            stack.callback(connection.discard)
            self._connection: ClientConnection | None = connection
            self.address = connection.address
            connection.backlog = self._backlog
            with self.receiving.hold() as reading:
                reading.acquire()
                self._process(connection)
            stack.pop_all()

    @property
    def queued(self) -> list[str]:
        """Return the lines to send after the return."""
        with self._lock:
            return list(self._state.queued)

    def send(self, text: str) -> None:
        """Send one line, or queue it during an absence.

        Raises:
            NotConnected: there is no queue, or it is full.
            Others: as for `Client.send`.
        """
        encode_line(text, self._max_line_bytes)
        if (connection := self._connection) and self._state.should_catch_up:
            self._catch_up(connection, CATCH_UP_READS)
        with self.sending:
            if not self._send_line(text):
                self._enqueue(text)
        self._send_request()

    def ask(self, exchange: Exchange) -> None:
        """Send the line of an exchange. Its answers go to it. Nothing is queued.

        Raises:
            NotConnected: the connection is lost for now.
            Others: as for `Client.send`.
        """
        with self.sending:
            if not self._send_line(exchange.line, exchange):
                raise NotConnected("the connection is lost")
        self._send_request()

    def read(self, deadline: float | None) -> None:
        """Wait for events, a loss, a return or the end.

        Raises:
            TimeoutError: the deadline came first.
        """
        assert self.receiving.locked()
        with self._lock:  # the thread may have brought a connection since the caller looked
            connection = None if self._changed.is_set() else self._connection
        if connection:
            connection.read(deadline)
            self._process(connection)
        elif self._changed.wait(min(SIGNAL_SECONDS, math.inf if deadline is None else lock_timeout(deadline))):
            self._changed.clear()
        elif is_over(deadline):
            raise late_error()

    def leave(self) -> None:
        """End the stream of lines, after the queued ones. During an absence, end the conversation."""
        with self.sending:
            with self._lock:
                data = self._state.leave()
                if not (connection := self._connection):
                    self._end(left_error())
                    return
            with suppress(ChatError):  # a reader finds the loss
                connection.leave(data)

    def begin_close(self, deadline: float | None) -> None:
        """Drop what arrives from now on, and end the stream of lines if that is possible before the deadline."""
        with self._lock:
            self._closing = True
            if not (connection := self._connection):
                self._end(closed_error())
        if connection:
            connection.begin_close(deadline)

    def shutdown(self) -> None:
        """Wake the threads that wait for the socket."""
        with self._lock:
            if self._connection:
                self._connection.shutdown()

    def close(self) -> None:
        """Close the connection or end the absence, after `begin_close` and `shutdown`."""
        assert self.receiving.locked()
        with self._lock:
            connection, self._connection = self._connection, None
            self._end(closed_error())
            self.ended = closed_error()
            self.received.clear()
        if connection:
            connection.close()
        if self._reconnector:
            self._reconnector.wait()

    def close_in_child(self) -> None:
        """Close a forked child's copy of the socket. The locks may be those of the parent's threads: make new ones."""
        self.receiving, self.sending, self._lock = Baton(), threading.Lock(), threading.RLock()
        connection, self._connection = self._connection, None
        self.ended = closed_error()
        self.received.clear()
        if connection:
            connection.close_in_child()
        if self._reconnector and self._reconnector.is_alive():  # the child's own
            self._reconnector.cancel()

    # Sending

    def _send_line(self, text: str, exchange: Exchange | None = None) -> bool:
        """Write a line. Return False if there is no connection, or it is lost before it took a part of the line."""
        assert self.sending.locked()
        connection, question = None, exchange if exchange and not exchange.is_message else None
        try:
            with self._lock:
                self._raise_if_ended()
                if not (connection := self._connection):
                    return False
                data = question.encoded if question else self._state.send(text)
                data = connection.frame(exchange, data) if exchange else data
            if is_exit(text):
                connection.leave(data)
            else:
                connection.write(data)
        except ChatError:
            if self._closing or not connection:
                raise
            with self._lock:
                if not question and not connection.failed_in_line:
                    self._state.retract(text)
                if connection is self._connection:
                    connection.shutdown()
            self._catch_up(connection, math.inf, to_the_end=True)  # read the events before the loss, and then the loss
            return connection.failed_in_line
        except BaseException:  # Ctrl-C: the state takes the line as sent
            if connection:
                connection.abort()
            raise
        return True

    def _raise_if_ended(self) -> None:
        if self.ended:
            raise self.ended.with_traceback(None)
        if self._closing or self._state.is_leaving:
            raise left_error()

    def _enqueue(self, text: str) -> None:
        with self._lock:
            if not is_exit(text):
                self._raise_if_ended()
                self._state.enqueue(text)
            elif not self._connection:  # else a reader finds the end
                self._end(left_error())
            self._state.is_leaving |= is_exit(text)

    def _send_queued(self) -> None:
        with suppress(ChatError):  # ended meanwhile
            while (queued := self._state.queued) and self._send_line(queued[0]):
                queued.popleft()

    def _send_request(self) -> None:
        """Send a pending `/sync` or `/nick` without blocking. If another thread is sending, it does it."""
        while (connection := self._connection) and self._state.has_request and self.sending.acquire(blocking=False):
            try:
                with self._lock:
                    data = self._state.take_request() if connection is self._connection else b""
                if data:
                    connection.write_nowait(data)
            except BaseException:  # Ctrl-C: the state takes the request as sent
                connection.abort()
                raise
            finally:
                self.sending.release()

    # Receiving

    def _process(self, connection: ClientConnection) -> None:
        """Apply what was read from a connection: events, and its loss."""
        assert self.receiving.locked()
        try:
            with self._lock:
                self._apply_events(connection)
        except BaseException:  # Ctrl-C: the next connection replays the events that were applied in part
            connection.abort()
            raise
        if connection.ended:
            self._connection_lost(connection, connection.ended)
        else:
            self._send_request()

    def _apply_events(self, connection: ClientConnection) -> None:
        while connection.received:
            self.received.extend(self._state.receive(connection.received.popleft()))

    def _catch_up(self, connection: ClientConnection, max_reads: float, *, to_the_end: bool = False) -> None:
        """Read without waiting, unless too much waits for the caller. If another thread is reading, it does it.

        Args:
            to_the_end: read however much waits: the connection is lost, and the kernel has only so much of it.
        """
        with self.receiving.hold() as reading:
            if not reading.acquire(blocking=False):
                return
            while self._connection is connection and max_reads > 0 and (to_the_end or not self._backlog.is_full):
                if not connection.read_nowait():
                    break
                self._process(connection)
                max_reads -= 1

    # Absence and return

    def _connection_lost(self, connection: ClientConnection, reason: ChatError) -> None:
        """Drop a connection. Start the thread that replaces it, unless the conversation is over."""
        assert self.receiving.locked()
        with self._lock:
            if connection is not self._connection:  # closed meanwhile
                return
            try:
                self._connection = None
                self._backoff.disconnected()
                self.received.extend([] if self._closing else self._state.connection_lost(reason))
                if self._closing or self._state.is_final_loss(reason):
                    self._end(reason)
                else:
                    self._reconnector = Reconnector(
                        self._connect, self._resume, self._attempt_failed, self._backoff, self._reconnector
                    )
                    self._reconnector.start()
            except BaseException as error:  # no thread available, or Ctrl-C: the caller must not wait for ever
                self._end(error if isinstance(error, Exception) else reason)
                raise
            finally:
                connection.discard()

    def _end(self, reason: Exception) -> None:
        """End the conversation for good. The first reason counts."""
        self.received.extend(self._state.report_unknown())
        self.ended = self.ended or reason
        if self._reconnector:
            self._reconnector.cancel()
        self._changed.set()

    # In the thread

    def _connect(self, cancel: CancelToken) -> ClientConnection:
        if self._backlog.is_overfull:
            raise OSError(errno.ENOBUFS, "the program has to receive first")
        return ClientConnection(self._endpoint, self._state.next_protocol(), cancel)

    def _attempt_failed(self, error: Exception) -> None:
        with self._lock:
            if is_final(error):
                self._end(error)
            self.received.extend(self._state.attempt_failed(error))
            self._changed.set()

    def _resume(self, connection: ClientConnection) -> None:
        """Continue with a new connection. If it is lost again, the next reader or writer finds that."""
        with self.sending:
            with self._lock:
                if self.ended:
                    connection.discard()
                    return
                self._connection, self.address = connection, connection.address
                connection.backlog = self._backlog
                self._backoff.connected()
                self._apply_events(connection)
                self._changed.set()
            self._send_queued()
        self._send_request()
