"""`Server`: bind, accept, hand out, end."""

from __future__ import annotations

import logging
import socket
import threading
import time
from functools import partial
from types import TracebackType
from typing import Self

from chatkit.acceptor import Acceptor, listen
from chatkit.addresses import Address, two_tuple
from chatkit.batch import Member
from chatkit.connection import Connection
from chatkit.descriptors import room_for
from chatkit.errors import JoinRefused
from chatkit.limits import Limits
from chatkit.protocol import encode_notice
from chatkit.room import Room
from chatkit.stats import Stats
from chatkit.worker import Call, Worker

logger = logging.getLogger("chatkit")

# After a worker died, the others have so long to deliver what they have: a supervisor waits to start anew.
FAILED_GRACE_SECONDS = 1.0


class Server:
    """A chat room on a TCP port.

        with Server(port=0) as server:
            print(server.address)

    host: address or host name to listen on; a name that has both gives its IPv4 address, `::` takes both families.
    port: 0 takes a free one; `port` and `address` tell which.
    handler: an object with any of these methods. They are called one at a time, in the room's order; keep them
        quick, they hold up the room. They may use the server, but not start it or shut it down.
            on_listening(address)        once, before the first connection
            on_join(member)
            on_message(message)          return it, a changed one, or None to refuse it
            on_leave(member, reason)     `exit`, `end of stream`, `connection reset`, `slow consumer`, `shutdown` ...
    limits: every bound, see `Limits`.
    threads: workers. One is fastest under the GIL; more can pay on a free-threaded Python.

    Resource handling: `start` opens the listening socket and `threads` + 1 threads; `shutdown`, also at the end of
    `with`, ends every connection and thread and frees every descriptor. A server starts once.

    Error handling: OSError from `start` when it can't listen (`socket.gaierror` for an unknown host). What a hook
    raises is logged to the logger `chatkit` and ends that member's conversation. If a thread of the server dies, it
    stops; `serve_forever` and `shutdown` raise RuntimeError from that error: a server is never half alive.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 12345,
        *,
        handler: object = None,
        limits: Limits = Limits(),
        threads: int = 1,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._bind_to = host, port
        self._handler = handler
        self._room = Room(handler, limits)
        self._limits = limits
        self._threads = threads
        self._all_read = threading.Barrier(threads)
        self._workers: list[Worker] = []
        self._acceptor: Acceptor | None = None
        self._address: Address | None = None
        self._over = threading.Event()
        self._life = threading.Lock()  # held by `start` and `shutdown`
        self._posting = threading.Lock()  # held for a moment by `broadcast` and `kick`, and when they end
        self._running = False
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Listen and serve in threads; returns when the port is known.

        OSError: it can't listen there. RuntimeError: it was started before.
        """
        with self._life:
            if self._address:
                raise RuntimeError("a server starts once; make a new one")
            listener = listen(*self._bind_to)
            try:
                self._address = two_tuple(listener.getsockname())
                self._fit_descriptors()
                if on_listening := getattr(self._handler, "on_listening", None):
                    on_listening(self._address)
                self._start_threads(listener)
            except BaseException:
                self._end_threads(grace=0)
                listener.close()
                raise

    def serve_forever(self, grace: float = 5.0) -> None:
        """Serve until `shutdown` is called, or an exception (KeyboardInterrupt) arrives; then `shutdown(grace)`.

        Errors as `start` and `shutdown`.
        """
        if not self._running and not self._over.is_set():
            self.start()
        try:
            self._over.wait()
        finally:
            self.shutdown(grace)

    def shutdown(self, grace: float = 5.0) -> None:
        """Stop accepting, deliver what has arrived, end every connection and thread. Twice is as good as once.

        grace: seconds until it returns at the latest, even if members don't read; their rest is dropped then.
        RuntimeError: a thread of the server had died of an error.
        """
        self._over.set()
        with self._life:
            self._end_threads(min(grace, FAILED_GRACE_SECONDS) if self._failure else grace)
        if self._failure:
            raise RuntimeError(f"a thread of the server died: {self._failure!r}") from self._failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    @property
    def address(self) -> Address:
        """(host, port) it listens on. RuntimeError: not started."""
        if not self._address:
            raise RuntimeError("the server isn't started")
        return self._address

    @property
    def port(self) -> int:
        """The port of `address`."""
        return self.address[1]

    @property
    def members(self) -> list[Member]:
        """Who is in the room at this moment."""
        return self._room.members

    @property
    def stats(self) -> Stats:
        """Counters of this moment."""
        handed = sum(worker.deliveries for worker in self._workers) - self._room.newest_id  # not to the sender
        slow = sum(worker.slow_consumers for worker in self._workers)
        return Stats(len(self.members), self._room.newest_id, max(0, handed), slow, dict(self._room.refused))

    def broadcast(self, text: str) -> None:
        """Say something to every member, as a notice: `*** text`. Returns at once.

        ValueError: `text` isn't valid Unicode. RuntimeError: the server isn't running.
        """
        self._soon(partial(self._room.say, encode_notice(text)))

    def kick(self, name: str, reason: str) -> None:
        """End a member's conversation; it is told `*** reason`. Returns at once.

        ValueError: nobody has that name, or `reason` isn't valid Unicode. RuntimeError: the server isn't running.
        """
        line = encode_notice(reason)
        for member in self.members:
            if member.name == name:
                self._soon(partial(self._room.remove, member, line, f"removed: {reason}"))
                return
        raise ValueError(f"no member is named {name!r}")

    def _soon(self, call: Call) -> None:
        """Have a worker call it: the caller may be inside a hook, and so inside the room's lock."""
        acceptor = self._acceptor

        def accept_and_call() -> None:
            if acceptor:
                acceptor.accept_waiting()  # who was connected before hears it, as with lines
            call()

        with self._posting:
            if self._running and not self._failure:
                self._workers[0].post(accept_and_call)
            elif threading.current_thread() not in (
                *self._workers,
                acceptor,
            ):  # a hook needn't know that this is the end
                raise RuntimeError("the server isn't running")

    def _fit_descriptors(self) -> None:
        wanted = self._limits.max_clients
        self._room.max_clients = room_for(wanted)
        if self._room.max_clients < wanted:
            logger.warning("max_clients is %d, not %d: the descriptor limit", self._room.max_clients, wanted)

    def _hand_out(self, sock: socket.socket, address: Address) -> None:
        if self._failure:
            sock.close()
            return
        worker = min(self._workers, key=lambda worker: worker.load)
        connection = Connection(sock, self._limits)
        try:
            self._room.join(address, partial(worker.admit, connection))
        except JoinRefused as refusal:
            worker.refuse(connection, refusal.reason)

    def _fail(self, error: BaseException) -> None:
        """A thread died: take no more connections, end those there are, wake whoever serves or will shut down."""
        self._failure = error
        self._all_read.abort()  # the dead don't come to the meeting
        if self._acceptor:
            self._acceptor.stop()
        for worker in self._workers:
            worker.stop(time.monotonic() + FAILED_GRACE_SECONDS, self._all_read)
        self._over.set()

    def _start_threads(self, listener: socket.socket) -> None:
        self._acceptor = acceptor = Acceptor(listener, self._limits, self._hand_out, self._fail)
        for number in range(self._threads):
            name = f"chatkit-worker-{number}"
            self._workers.append(Worker(name, self._room, self._limits, acceptor.accept_waiting, self._fail))
        self._running = True  # hooks may use the server from the first connection on
        for thread in (*self._workers, acceptor):
            thread.start()

    def _end_threads(self, grace: float) -> None:
        if not (acceptor := self._acceptor):
            return
        deadline = time.monotonic() + 0.9 * grace  # the rest is for the hard way
        with self._posting:
            self._running = False
        acceptor.stop()
        if acceptor.is_alive():
            acceptor.join()
        for worker in self._workers:
            worker.stop(deadline, self._all_read)
        for worker in self._workers:
            if worker.is_alive():
                worker.join()
        acceptor.release()
        for worker in self._workers:
            worker.release()
        self._acceptor = None
