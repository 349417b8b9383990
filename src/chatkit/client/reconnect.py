"""A connection that is taken up again when it is lost: for `Client(reconnect=True)`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from chatkit.client.backoff import Backoff, is_final
from chatkit.client.cancel import Cancelled, CancelToken, lock_timeout
from chatkit.client.connection import ClientConnection, Endpoint
from chatkit.client.protocol import closed_error
from chatkit.client.resume import MAX_WAITING_EVENTS, ResumeState, left_error
from chatkit.errors import ChatError, ConnectionClosed
from chatkit.events import Event
from chatkit.protocol.lines import encode_line, is_exit

# All that the thread does can be halted, but not the look-up of a host's name.
LOOK_UP_SECONDS = 1.0


class Reconnector(threading.Thread):
    """Waits and connects until a connection can be handed to `take_up`, or until `cancel`.

    fail(error): called after each attempt that failed; calls `cancel` if it was the last.
    before: the one of an earlier absence, which may be on its way out.
    """

    def __init__(
        self,
        connect: Callable[[CancelToken], ClientConnection],
        take_up: Callable[[ClientConnection], None],
        fail: Callable[[Exception], None],
        backoff: Backoff,
        before: Reconnector | None,
    ) -> None:
        super().__init__(name="chatkit-reconnector", daemon=True)
        self._connect = connect
        self._take_up = take_up
        self._fail = fail
        self._backoff = backoff
        self._before = before
        self._cancel = CancelToken()

    def run(self) -> None:
        try:
            if self._before:
                self._before.finish(None)
                self._before = None
            while not self._cancel.wait(self._backoff.delay()) and not self._succeeds():
                pass
        except Exception as error:  # whatever it is, it is told
            self._fail(error)

    def _succeeds(self) -> bool:
        """One attempt."""
        try:
            with self._cancel:
                connection = self._connect(self._cancel)
        except Cancelled:
            return False
        except (OSError, ChatError) as error:
            self._fail(error)
            return False
        self._take_up(connection)
        return True

    def cancel(self) -> None:
        """The end at once."""
        self._cancel.set()

    def finish(self, seconds: float | None = LOOK_UP_SECONDS) -> None:
        """Wait for the end, after `cancel`; not for a look-up that hangs."""
        if self.is_alive():  # else it may never have begun
            self.join(seconds)


class ReconnectingConnection:
    """One `ClientConnection` after the other, with the verbs of one, and the state that leads from each to the next.

    received, ended, receiving, sending: as of a `ClientConnection`. While there is no connection a thread waits and connects.
    The locks, in the order in which they are taken: receiving, sending, lock. Whoever holds `receiving` reads, and
    it alone finds out that a connection is lost.
    """

    def __init__(self, endpoint: Endpoint, state: ResumeState, max_line_bytes: int) -> None:
        self.received = deque[Event]()
        self.ended: Exception | None = None
        self.receiving = threading.Lock()
        self.sending = threading.Lock()  # lines are written in the order in which the state knows them
        self._changed = threading.Event()  # by the thread: who waits looks again
        self._lock = threading.RLock()  # around the state and what follows
        self._endpoint = endpoint
        self._state = state
        self._max_line_bytes = max_line_bytes
        self._closing = False
        self._reconnector: Reconnector | None = None
        self._connection: ClientConnection | None = ClientConnection(endpoint, state.next_protocol())
        self.address = self._connection.address
        self._backoff = Backoff()
        self._take_in(self._connection)

    @property
    def queued(self) -> list[str]:
        """The lines that are kept for the return."""
        with self._lock:
            return list(self._state.queued)

    def send(self, text: str) -> None:
        """Say one line; while away keep it for the return. NotConnected: that isn't wanted, or it is one too many."""
        encode_line(text, self._max_line_bytes)
        if (connection := self._connection) and self._state.should_catch_up:
            self._catch_up(connection, MAX_WAITING_EVENTS)
        with self.sending:
            if not self._say(text):
                self._keep(text)
        self._pay()

    def read(self, deadline: float | None) -> None:
        """Wait until something has changed. TimeoutError: nothing has."""
        with self._lock:  # the thread may have taken up a connection since the caller looked
            connection = None if self._changed.is_set() else self._connection
        if connection:
            connection.read(deadline)
            self._take_in(connection)
        elif self._changed.wait(None if deadline is None else lock_timeout(deadline)):
            self._changed.clear()
        else:
            raise TimeoutError("nothing arrived in time")

    def send_eof(self) -> None:
        with self.sending:  # after what was kept
            with self._lock:
                data = self._state.leave()
                if not (connection := self._connection):
                    self._finish(left_error())
                    return
            with suppress(ConnectionClosed):  # whoever reads finds out
                connection.write(data)
            connection.send_eof()

    def begin_close(self, deadline: float | None) -> None:
        with self._lock:
            self._closing = True
            if not (connection := self._connection):
                self._finish(closed_error())
        if connection:
            connection.begin_close(deadline)

    def shutdown(self) -> None:
        with self._lock:
            if self._connection:
                self._connection.shutdown()

    def close(self) -> None:
        """After `begin_close` and `shutdown`, for who holds `receiving`."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._finish(closed_error())
            self.ended = closed_error()
            self.received.clear()
        if connection:
            connection.close()
        if self._reconnector:
            self._reconnector.finish()

    # What is said

    def _say(self, text: str) -> bool:
        """Write a line; False when there is no connection, or it is lost before it took anything of the line."""
        connection = None
        try:
            with self._lock:
                self._raise_if_over()
                if not (connection := self._connection):
                    return False
                data = self._state.send(text)
            connection.write(data)
        except ConnectionClosed:
            if self._closing or not connection:
                raise
            with self._lock:
                if not connection.failed_in_line:
                    self._state.retract(text)
                if connection is self._connection:
                    connection.shutdown()
            self._catch_up(connection, float("inf"))  # what had arrived before counts; then comes the end
            return connection.failed_in_line
        except BaseException:  # Ctrl-C: the state thinks that all of it was sent
            if connection:
                connection.abort()
            raise
        return True

    def _raise_if_over(self) -> None:
        if self.ended:
            raise self.ended.with_traceback(None)
        if self._closing or self._state.is_leaving:
            raise left_error()

    def _keep(self, text: str) -> None:
        with self._lock:
            if not is_exit(text):
                self._raise_if_over()
                self._state.enqueue(text)
            elif not self._connection:  # else whoever reads finds the end
                self._finish(left_error())
            self._state.is_leaving |= is_exit(text)

    def _say_queued(self) -> None:
        """For who holds `sending`."""
        with suppress(ChatError):  # over meanwhile
            while (queued := self._state.queued) and self._say(queued[0]):
                queued.popleft()

    def _pay(self) -> None:
        """Ask the room what there is to ask it, unless somebody is sending, who asks then; nobody waits for it here."""
        while (connection := self._connection) and self._state.has_request and self.sending.acquire(blocking=False):
            try:
                with self._lock:
                    owed = self._state.take_request() if connection is self._connection else b""
                if owed:
                    connection.write_nowait(owed)
            except BaseException:  # Ctrl-C, as above
                connection.abort()
                raise
            finally:
                self.sending.release()

    # What is heard

    def _take_in(self, connection: ClientConnection) -> None:
        """For who holds `receiving`."""
        try:
            with self._lock:
                self._receive(connection)
        except BaseException:  # Ctrl-C: what was heard in part is told again
            connection.abort()
            raise
        if connection.ended:
            self._lose(connection, connection.ended)
        else:
            self._pay()

    def _receive(self, connection: ClientConnection) -> None:
        while connection.received:
            self.received.extend(self._state.receive(connection.received.popleft()))

    def _catch_up(self, connection: ClientConnection, most: float) -> None:
        """Take in what has arrived, unless somebody receives, until so many events wait; never wait for more."""
        if self.receiving.acquire(blocking=False):
            try:
                while self._connection is connection and len(self.received) < most and connection.read_nowait():
                    self._take_in(connection)
            finally:
                self.receiving.release()

    # Away and back (`_fail` and `_take_up` in the thread)

    def _lose(self, connection: ClientConnection, reason: ChatError) -> None:
        """For who holds `receiving`."""
        with self._lock:
            if connection is not self._connection:  # closed meanwhile
                return
            try:
                self._connection = None
                self._backoff.lost()
                self.received.extend([] if self._closing else self._state.connection_lost(reason))
                if self._closing or self._state.is_final_loss(reason):
                    self._finish(reason)
                else:
                    before, connect = (
                        self._reconnector,
                        lambda cancel: ClientConnection(self._endpoint, self._state.next_protocol(), cancel),
                    )
                    self._reconnector = Reconnector(connect, self._take_up, self._fail, self._backoff, before)
                    self._reconnector.start()
            except BaseException as error:  # no thread to be had, or Ctrl-C: else who receives would wait for ever
                self._finish(error if isinstance(error, Exception) else reason)
                raise
            finally:
                connection.discard()

    def _finish(self, reason: Exception) -> None:
        """There is no return any more; the first reason counts."""
        self.received.extend(self._state.report_unknown())
        self.ended = self.ended or reason
        if self._reconnector:
            self._reconnector.cancel()
        self._changed.set()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            if is_final(error):
                self._finish(error)
            self.received.extend(self._state.attempt_failed(error))
            self._changed.set()

    def _take_up(self, connection: ClientConnection) -> None:
        """Go on with a new connection. If it is lost already, whoever reads or sends next finds out."""
        with self.sending:
            with self._lock:
                if self.ended:
                    connection.discard()
                    return
                self._connection, self.address = connection, connection.address
                self._backoff.connected()
                self._receive(connection)
                self._changed.set()
            self._say_queued()
        self._pay()
