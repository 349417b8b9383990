"""The threads of a server: one that accepts, workers that serve. Starts, feeds and ends them."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from chatkit.errors import JoinRefused
from chatkit.limits import Limits
from chatkit.net.sockets import Address
from chatkit.net.transport import PlainTransport
from chatkit.room.room import Room
from chatkit.server.acceptor import Acceptor
from chatkit.server.connection import Connection
from chatkit.server.lifecycle import Lifecycle, State
from chatkit.server.login import PasswordAuth
from chatkit.server.stats import Counters
from chatkit.server.worker import Call, Worker

if TYPE_CHECKING:
    import ssl

# After a worker died, the others have so long to deliver what they have: a supervisor waits to start anew.
FAILED_GRACE_SECONDS = 1.0


class WorkerPool:
    """The threads of a server, from `start` to `end`.

    Args:
        threads: how many workers.
        lifecycle: the state of the server; a thread that dies of an error makes it STOPPING.
        tls: for new connections.
        auth: knows the room's password, if it has one.

    Attributes:
        failure: the error that a thread died of, or None.
        starter: the thread that calls `on_listening` at the moment.
    """

    def __init__(
        self,
        room: Room,
        limits: Limits,
        threads: int,
        lifecycle: Lifecycle,
        tls: ssl.SSLContext | None = None,
        auth: PasswordAuth | None = None,
    ) -> None:
        self.tls = tls
        self.failure: BaseException | None = None
        self.starter: threading.Thread | None = None
        self._room = room
        self._limits = limits
        self._threads = threads
        self._lifecycle = lifecycle
        self._auth = auth
        self._all_read = threading.Barrier(threads)
        self._workers: list[Worker] = []
        self._acceptor: Acceptor | None = None
        self._posting = threading.Lock()  # held for a moment by `call_soon`, and by `end`

    @property
    def is_in_hook(self) -> bool:
        """Whether this thread may be calling a hook: it is one of the pool's, or `starter`."""
        return threading.current_thread() in (*self._workers, self._acceptor, self.starter)

    @property
    def counters(self) -> Counters:
        """The counters of all workers."""
        return Counters.total(worker.counters for worker in self._workers)

    def start(self, listener: socket.socket) -> None:
        """Accept at `listener`, and own it."""
        self._acceptor = acceptor = Acceptor(listener, self._limits, self._assign, self.fail)
        for number in range(self._threads):
            name = f"chatkit-worker-{number}"
            self._workers.append(Worker(name, self._room, self._limits, acceptor.accept_waiting, self.fail, self._auth))
        self._lifecycle.advance(State.RUNNING)  # hooks may use the server from the first connection on
        for thread in (*self._workers, acceptor):
            thread.start()

    def call_soon(self, call: Call) -> None:
        """Have a worker call something: the caller may be inside a hook, and so inside the room's lock.

        Raises:
            RuntimeError: the server isn't running. Calls from hooks during its start and end are ignored.
        """
        acceptor = self._acceptor

        def accept_and_call() -> None:
            if acceptor:
                acceptor.accept_waiting()  # who was connected before hears it, as with lines
            call()

        with self._posting:
            if self._lifecycle.state is State.RUNNING:
                self._workers[0].post(accept_and_call)
            elif not self.is_in_hook:
                raise RuntimeError("the server isn't running")

    def end(self, grace: float) -> None:
        """Deliver what has arrived, end every connection and thread, within `grace` seconds."""
        if not (acceptor := self._acceptor):
            return
        grace = min(grace, FAILED_GRACE_SECONDS) if self.failure else grace
        deadline = time.monotonic() + 0.9 * grace  # the rest is for the hard way
        with self._posting:
            self._lifecycle.advance(State.STOPPING)
        acceptor.stop()
        _join(acceptor)
        for worker in self._workers:
            worker.stop(deadline, self._all_read)
        for worker in self._workers:
            _join(worker)
        self._room.publisher.end(max(0.05 * grace, deadline + 0.1 * grace - time.monotonic()))
        acceptor.release()
        for worker in self._workers:
            worker.release()
        self._acceptor = None

    def _assign(self, sock: PlainTransport, address: Address) -> None:
        if self.failure:
            sock.close()
            return
        worker = min(self._workers, key=lambda worker: worker.load)
        connection = self._connection(sock)
        try:
            self._room.reserve(address)
            if self.tls or self._auth:
                worker.enter(connection, address)
            else:
                self._room.join(address, partial(worker.admit, connection))
        except JoinRefused as refusal:
            worker.refuse(connection, refusal.reason)

    def _connection(self, sock: PlainTransport) -> Connection:
        if not self.tls:
            return Connection(sock, self._limits)
        from chatkit.net.tls_transport import TlsTransport  # ssl takes longer to load than all of this

        return Connection(TlsTransport(sock, self.tls), self._limits)

    def fail(self, error: BaseException) -> None:
        """Take no more connections and end those there are: a thread died of this error."""
        self.failure = error
        self._all_read.abort()  # the dead don't come to the meeting
        if self._acceptor:
            self._acceptor.stop()
        for worker in self._workers:
            worker.stop(time.monotonic() + FAILED_GRACE_SECONDS, self._all_read)
        self._lifecycle.advance(State.STOPPING)


def _join(thread: threading.Thread) -> None:
    """Wait for the end of a thread, also if Ctrl-C interrupted its start: it runs then, but isn't alive yet."""
    until = time.monotonic() + FAILED_GRACE_SECONDS
    while not thread.is_alive() and thread in threading.enumerate() and time.monotonic() < until:
        time.sleep(0.001)
    if thread.is_alive():
        thread.join()
