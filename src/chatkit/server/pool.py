"""The threads of a server: one that accepts, workers that serve. Starts, feeds and ends them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from chatkit.errors import JoinRefused
from chatkit.limits import Limits
from chatkit.net.sockets import Address
from chatkit.net.transport import PlainTransport
from chatkit.room.room import Room
from chatkit.server.acceptor import Acceptor
from chatkit.server.connection import Connection
from chatkit.server.login import PasswordAuth
from chatkit.server.stats import Counters
from chatkit.server.worker import Call, Worker

if TYPE_CHECKING:
    import ssl

# After a worker died, the others have so long to deliver what they have: a supervisor waits to start anew.
FAILED_GRACE_SECONDS = 1.0


class WorkerPool:
    """Works from `start` to `end`.

    tls: for new connections. auth: what asks for the room's password, if it has one.
    failed(): called when a thread died of an error, which is `failure` then; the others are ending.
    """

    def __init__(
        self,
        room: Room,
        limits: Limits,
        threads: int,
        failed: Callable[[], None],
        tls: ssl.SSLContext | None = None,
        auth: PasswordAuth | None = None,
    ) -> None:
        self.tls = tls
        self.failure: BaseException | None = None
        self.running = False
        self.starter: threading.Thread | None = None
        self._room = room
        self._limits = limits
        self._threads = threads
        self._failed = failed
        self._auth = auth
        self._all_read = threading.Barrier(threads)
        self._workers: list[Worker] = []
        self._acceptor: Acceptor | None = None
        self._posting = threading.Lock()  # held for a moment by `soon`, and by `end`

    @property
    def here(self) -> bool:
        """Whether this thread is calling a hook: it is one of the pool's, or `starter`."""
        return threading.current_thread() in (*self._workers, self._acceptor, self.starter)

    @property
    def counters(self) -> Counters:
        """The counters of all workers."""
        return Counters.total(worker.counters for worker in self._workers)

    def start(self, listener: socket.socket) -> None:
        """Accept at `listener`, which is the pool's from now on."""
        self._acceptor = acceptor = Acceptor(listener, self._limits, self._assign, self.fail)
        for number in range(self._threads):
            name = f"chatkit-worker-{number}"
            self._workers.append(Worker(name, self._room, self._limits, acceptor.accept_waiting, self.fail, self._auth))
        self.running = True  # hooks may use the server from the first connection on
        for thread in (*self._workers, acceptor):
            thread.start()

    def soon(self, call: Call) -> None:
        """Have a worker call it: the caller may be inside a hook, and so inside the room's lock.

        RuntimeError: nobody works, and this isn't a hook, which needn't know that this is the end.
        """
        acceptor = self._acceptor

        def accept_and_call() -> None:
            if acceptor:
                acceptor.accept_waiting()  # who was connected before hears it, as with lines
            call()

        with self._posting:
            if self.running and not self.failure:
                self._workers[0].post(accept_and_call)
            elif not self.here:
                raise RuntimeError("the server isn't running")

    def end(self, grace: float) -> None:
        """Deliver what has arrived, end every connection and thread, within `grace` seconds."""
        if not (acceptor := self._acceptor):
            return
        grace = min(grace, FAILED_GRACE_SECONDS) if self.failure else grace
        deadline = time.monotonic() + 0.9 * grace  # the rest is for the hard way
        with self._posting:
            self.running = False
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
        """A thread died: take no more connections, end those there are, wake whoever serves or will shut down."""
        self.failure = error
        self._all_read.abort()  # the dead don't come to the meeting
        if self._acceptor:
            self._acceptor.stop()
        for worker in self._workers:
            worker.stop(time.monotonic() + FAILED_GRACE_SECONDS, self._all_read)
        self._failed()


def _join(thread: threading.Thread) -> None:
    """Wait for its end, if it began; also if Ctrl-C interrupted its start: it runs then, but doesn't count as alive yet."""
    until = time.monotonic() + FAILED_GRACE_SECONDS
    while not thread.is_alive() and thread in threading.enumerate() and time.monotonic() < until:
        time.sleep(0.001)
    if thread.is_alive():
        thread.join()
