"""The threads of a server, one acceptor and some workers: their start, their connections and their end."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from chatkit.errors import JoinRefused
from chatkit.limits import Limits
from chatkit.net.descriptors import ending_places
from chatkit.net.forks import close_in_child
from chatkit.net.sockets import WATCHED_SOCKETS, Address
from chatkit.net.transport import PlainTransport
from chatkit.protocol.replies import ROOM_FULL
from chatkit.room.room import Room
from chatkit.server.acceptor import Acceptor, turn_away
from chatkit.server.budget import Budget, Share
from chatkit.server.connection import Connection
from chatkit.server.lifecycle import Lifecycle, ServerState
from chatkit.server.login import PasswordAuth
from chatkit.server.stats import Counters
from chatkit.server.worker import Call, Worker

if TYPE_CHECKING:
    import ssl

# After a thread has died, the workers have this long to deliver: a supervisor waits to restart the process.
FAILED_GRACE_SECONDS = 1.0
# A thread that is asked to end has at least so long, whatever the grace; it takes milliseconds.
HARD_SECONDS = 0.5

# The connections that a worker's selector can watch, beside its waker; and the members among them: connections that are
# about to end need places, too.
WORKER_CONNECTIONS = WATCHED_SOCKETS - 1
WORKER_MEMBERS = WORKER_CONNECTIONS // 4 * 3

logger = logging.getLogger("chatkit")


class WorkerPool:
    """The threads of a server, from `start` to `end`.

    Args:
        room: the room that the workers serve.
        limits: the limits of connections.
        threads: the number of workers.
        lifecycle: the state of the server; an exception that ends a thread makes it STOPPING.
        tls: the TLS context of new connections, or None.
        auth: the room's password, or None.

    Attributes:
        tls: the TLS context of new connections, or None; it may be replaced.
        failure: the exception that ended a thread, or None.
        starter: the thread that is calling `on_listening`, or None.
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
        self._budget = Budget(limits)
        self._all_read = threading.Barrier(threads)
        self._workers: list[Worker] = []
        self._acceptor: Acceptor | None = None
        self._posting = threading.Lock()  # so that `end` stops no worker between the check and the post of `call_soon`

    @property
    def is_in_hook(self) -> bool:
        """Whether the current thread may be inside a hook: it is one of the pool's, or `starter`."""
        return threading.current_thread() in (*self._workers, self._acceptor, self.starter)

    @property
    def counters(self) -> Counters:
        """The sum of all workers' counters."""
        return Counters.total(worker.counters for worker in self._workers)

    def fit(self, clients: int) -> int:
        """Return how many of `clients` members the workers can watch. Log a warning if someone has asked for more."""
        fit = min(clients, self._threads * WORKER_MEMBERS)
        if fit < clients != Limits().max_clients:
            words = "max_clients is %d, not %d: each worker watches %d (--threads)"
            logger.warning(words, fit, clients, WORKER_MEMBERS)
        return fit

    def start(self, listener: socket.socket) -> None:
        """Start the threads; the acceptor owns `listener`. If one can't be started, `end` ends the others."""
        threads = self._make_threads(listener)
        close_in_child(self, WorkerPool.close_in_child)
        self._lifecycle.advance(ServerState.RUNNING)  # hooks may use the server from the first connection on
        for thread in threads:
            thread.start()

    def _make_threads(self, listener: socket.socket) -> list[threading.Thread]:
        """Make the workers and the acceptor: all of them, or none."""
        with ExitStack() as stack:
            acceptor = Acceptor(listener, self._limits, self._assign, self.fail)
            stack.callback(acceptor.release)
            workers = list[Worker]()
            for number in range(self._threads):
                name, share = f"chatkit-worker-{number}", self._budget.share()
                accept_waiting = acceptor.accept_waiting
                worker = Worker(name, self._room, self._limits, accept_waiting, self.fail, self._auth, share)
                stack.callback(worker.release)
                worker.max_ending = max(1, min(ending_places() // self._threads, WORKER_CONNECTIONS // 4))
                workers.append(worker)
            self._acceptor, self._workers = acceptor, workers
            stack.pop_all()
            return [*workers, acceptor]

    def call_soon(self, call: Call) -> bool:
        """Have a worker make a call: the caller may be inside a hook, where the room's lock is held.

        Returns:
            Whether it will: calls from hooks during the server's start and end are ignored.

        Raises:
            RuntimeError: the server isn't running, and this isn't a hook; or it runs in this process's parent.
        """
        if self._lifecycle.state is ServerState.COPIED:  # before `_posting`, which a thread of the parent may hold
            raise RuntimeError("the server runs in the process that this one was forked from: use it there")
        acceptor = self._acceptor

        def accept_and_call() -> None:
            if acceptor:
                acceptor.accept_waiting()  # peers that connected before the call receive it, as with lines
            call()

        with self._posting:
            if self._lifecycle.state is ServerState.RUNNING:
                self._workers[0].post(accept_and_call)
                return True
            if not self.is_in_hook:
                raise RuntimeError("the server isn't running")
        return False

    def end(self, grace: float) -> None:
        """Deliver everything received, then end every connection and thread, within `grace` seconds."""
        if not (acceptor := self._acceptor):
            return
        grace = min(grace, FAILED_GRACE_SECONDS) if self.failure else grace
        deadline = time.monotonic() + 0.9 * grace  # the rest is for closing by force
        with self._posting:
            self._lifecycle.advance(ServerState.STOPPING)
        acceptor.stop()
        _join(acceptor, max(deadline, time.monotonic() + HARD_SECONDS))
        for worker in self._workers:
            worker.stop(deadline, self._all_read)
        hard = max(deadline + 0.05 * grace, time.monotonic() + HARD_SECONDS)
        for worker in self._workers:
            _join(worker, hard)
        self._room.publisher.end(max(HARD_SECONDS, deadline + 0.1 * grace - time.monotonic()))
        threads: list[Acceptor | Worker] = [acceptor, *self._workers]
        for thread in threads:
            if thread.is_alive():  # it may use its selector still
                logger.critical("%s hangs; it is left behind", thread.name)
            else:
                thread.release()
        self._acceptor = None

    def close_in_child(self) -> None:
        """Close a forked child's copies of all descriptors: the parent's threads aren't in the child."""
        self._lifecycle.enter_copied()
        threads: list[Acceptor | Worker] = [*([self._acceptor] if self._acceptor else []), *self._workers]
        for thread in threads:
            thread.close_in_child()

    def _assign(self, sock: PlainTransport, address: Address) -> None:
        """Give an accepted connection to the worker with the fewest, or refuse it."""
        if self.failure:
            sock.close()
            return
        worker = min(self._workers, key=lambda worker: worker.load)
        if worker.load >= WORKER_CONNECTIONS:
            turn_away(sock, ROOM_FULL)
            return
        connection = self._connection(sock, worker.share)
        try:
            self._room.reserve(address)
            if self.tls or self._auth:
                worker.enter(connection, address)
            else:
                self._room.join(address, partial(worker.admit, connection))
        except JoinRefused as refusal:
            if worker.ending < worker.max_ending:
                worker.refuse(connection, refusal.reason)
            else:
                turn_away(sock, refusal.reason)

    def _connection(self, sock: PlainTransport, share: Share) -> Connection:
        if not self.tls:
            return Connection(sock, share)
        from chatkit.net.tls_transport import TlsTransport  # loading ssl takes longer than everything else here

        return Connection(TlsTransport(sock, self.tls), share)

    def fail(self, error: BaseException) -> None:
        """Stop accepting and end all connections, after an exception has ended a thread."""
        self.failure = error
        self._all_read.abort()  # the dead thread may be one that the others would wait for
        if self._acceptor:
            self._acceptor.stop()
        for worker in self._workers:
            worker.stop(time.monotonic() + FAILED_GRACE_SECONDS, self._all_read)
        self._lifecycle.advance(ServerState.STOPPING)


def _join(thread: threading.Thread, deadline: float) -> None:
    """Wait for the end of a thread until `deadline` (`time.monotonic`).

    If Ctrl-C interrupted its start, the thread runs, but `is_alive` is False for a moment.
    """
    until = time.monotonic() + FAILED_GRACE_SECONDS
    while not thread.is_alive() and thread in threading.enumerate() and time.monotonic() < until:
        time.sleep(0.001)
    if thread.is_alive():
        thread.join(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
