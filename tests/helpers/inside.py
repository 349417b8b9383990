"""The one module that knows private attributes of the library: if they change, only this file changes."""

from __future__ import annotations

import ctypes
import selectors
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from chatkit import AsyncClient, Client, Event, Server
from chatkit.client.aio_connection import AsyncConnection
from chatkit.client.aio_reconnect import AsyncReconnectingConnection
from chatkit.client.connection import ClientConnection
from chatkit.client.reconnect import ReconnectingConnection
from chatkit.client.resume import ResumeState
from chatkit.history import search
from chatkit.history.base import History
from chatkit.history.memory import MemoryHistory
from chatkit.history.sqlite.store import SqliteHistory
from chatkit.limits import Limits
from chatkit.net.sockets import Waker
from chatkit.net.tls_transport import TlsTransport
from chatkit.protocol.lines import LineDecoder
from chatkit.room.committer import Committer
from chatkit.room.listing import Listing
from chatkit.room.members import Roster
from chatkit.room.publisher import Publisher
from chatkit.room.room import Room
from chatkit.server.connection import Connection
from chatkit.server.connections import Connections
from chatkit.server.lifecycle import ServerState
from chatkit.server.login import PasswordAuth
from chatkit.server.replays import Replay, Replays
from chatkit.server.worker import Worker
from chatkit.testing import Guest
from tests.helpers.peers import DEADLINE

# protocol


def partial_line(decoder: LineDecoder) -> bytes:
    """Return the bytes of the line that hasn't ended."""
    return decoder._partial


# net


def waker_socket(waker: Waker) -> socket.socket:
    """Return the socket that a wake-up is read from."""
    return waker._reader


@contextmanager
def waker_reading(waker: Waker, reader: Any) -> Iterator[None]:
    """Have the waker read from another object."""
    before, waker._reader = waker._reader, reader
    yield
    waker._reader = before


def fill_outgoing(transport: TlsTransport, data: bytes) -> None:
    """Add bytes to those that TLS itself has to send."""
    transport._outgoing.write(data)


def asking_for_keys(client: TlsTransport) -> Callable[[], object] | None:
    """Return a function with which a client asks for new keys (RFC 8446, 4.6.3), or None if that is impossible."""
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "libssl" in line and sys.implementation.name == "cpython":
                library = ctypes.CDLL(line.split()[-1])
                library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
                library.SSL_do_handshake.argtypes = [ctypes.c_void_p]
                # In CPython's object the pointer to OpenSSL's comes after the header and a weak reference.
                inner = ctypes.c_void_p.from_address(id(client._tls._sslobj) + 24)  # type: ignore[attr-defined]
                return lambda: (library.SSL_key_update(inner, 1), library.SSL_do_handshake(inner))
    return None


# history


def containers_of(history: MemoryHistory) -> list[list[Any]]:
    """Return the lists that hold its messages."""
    return [history._blocks, *history._blocks]


def path_of(history: SqliteHistory) -> Path:
    """Return the path of the history's file."""
    return history._path


def crash(history: SqliteHistory) -> None:
    """Leave the file as `kill -9` would: without an orderly end."""
    history._is_open = False
    history._disconnect()
    history._lock._close()


def writer_of(history: SqliteHistory) -> sqlite3.Connection:
    """Return the connection that writes."""
    assert history._writer
    return history._writer


def unsaved_ranges(history: SqliteHistory) -> int:
    """Return how many ranges of unused ids the next append writes."""
    return len(history._unsaved_unused)


def reader_of(history: SqliteHistory) -> sqlite3.Connection:
    """Return the connection that reads."""
    assert history._reader
    return history._reader


def checkpoint(history: SqliteHistory) -> None:
    """Move all of the log into the file."""
    assert history._maintenance
    history._maintenance._checkpoint()


def drop_cached_pages(history: SqliteHistory) -> None:
    """Have both connections read the file anew."""
    for connection in (history._writer, history._reader):
        if connection:
            connection.execute("PRAGMA cache_size = 0")
            connection.execute("PRAGMA shrink_memory")


def after_each_query(monkeypatch: pytest.MonkeyPatch, called: Callable[[bool], None]) -> None:
    """Call called(whether the file was read as immutable) after each query of a search."""
    read = search._Reader._read_once

    def read_and_call(self: Any, *arguments: Any, **options: Any) -> Any:
        result = read(self, *arguments, **options)
        called(options["immutable"])
        return result

    monkeypatch.setattr(search._Reader, "_read_once", read_and_call)


# room


def places(roster: Roster) -> tuple[int, dict[str, int]]:
    """Return how many places are reserved, and how many each address has."""
    assert roster._hosts.keys() == roster._from_address.keys()
    return roster._reserved, dict(roster._from_address)


def known_tokens(room: Room) -> int:
    """Return how many tokens the room knows."""
    resumes = room._turn._resumes
    places = {*resumes._places.values(), *resumes._lost}
    assert len(resumes._by_digest) == sum(len(place.digests) for place in places)
    return len(resumes._by_digest)


def before_waiting_for_room(room: Room, waits: Callable[[], None]) -> None:
    """Call waits() each time that a thread has to wait for the room's lock."""

    class Telling:
        lock = room._lock

        def __enter__(self) -> None:
            if not self.lock.acquire(blocking=False):
                waits()
                self.lock.acquire()

        def __exit__(self, *error: object) -> None:
            self.lock.release()

    room._lock = Telling()  # type: ignore[assignment]


def waiting_bytes(committer: Committer) -> int:
    """Return how much waits to be committed."""
    return committer._put_bytes - committer._taken_bytes


def threads_of(committer: Committer) -> tuple[threading.Thread, ...]:
    """Return the threads that publish, write and read."""
    return committer._thread, committer._writer, committer._reader._thread


def break_committer(committer: Committer) -> None:
    """Have it raise TypeError when it fans out the next time."""
    committer._fan_out = None  # type: ignore[assignment]


def next_retry(committer: Committer) -> float:
    """Fail once more, and return in how many seconds the history is tried again."""
    return committer._next_retry()


def recover(committer: Committer, now: float) -> None:
    """Take the history for healthy since `now`."""
    committer._healthy_since = now


def after_forgetting(publisher: Publisher, forgotten: Callable[[int], None]) -> None:
    """Call forgotten(upto) each time that pruned messages were dropped from memory."""
    forget = publisher.pages.forget

    def forget_and_tell(upto: int) -> None:
        forget(upto)
        forgotten(upto)

    publisher.pages.forget = forget_and_tell  # type: ignore[method-assign]


class Executor(Protocol):
    """Anything that does the jobs of a committer's thread."""

    def do(self, call: Callable[[], Any]) -> Future[Any]: ...


class SteppedCommitter(Committer):
    """A committer without threads: `step` stands for its own thread, `writer` and `reader` for the other two."""

    def __init__(self, history: History, limits: Limits, writer: Executor, reader: Executor, *, required: bool) -> None:
        super().__init__(history, limits, required=required)
        self._writer, self._reader._thread = writer, reader  # type: ignore[assignment]

    @property
    def waiting_bytes(self) -> int:
        return self._put_bytes - self._taken_bytes

    @property
    def has_queued(self) -> bool:
        return bool(self._queue.qsize())

    def step(self) -> None:
        self._step(0)


# server


def room_of(server: Server) -> Room:
    """Return the server's room."""
    return server._room


def publisher_of(server: Server) -> Publisher:
    """Return the room's publisher."""
    return server._room.publisher


def committer_of(server: Server) -> Committer:
    """Return the committer of a server with a history."""
    assert server._room.publisher._committer
    return server._room.publisher._committer


def workers_of(server: Server) -> list[Worker]:
    """Return the threads that serve."""
    return server._pool._workers


def connections_of(server: Server) -> Connections:
    """Return the connections of the first worker."""
    return server._pool._workers[0]._connections


def call_soon(server: Server, call: Callable[[], None]) -> None:
    """Have a worker call it."""
    server._pool.call_soon(call)


def hold_up(worker: Worker, free: threading.Event) -> None:
    """Have a worker wait until `free` is set; return when it does."""
    held = threading.Event()

    def wait() -> None:
        held.set()
        assert free.wait(DEADLINE)

    worker.post(wait)
    assert held.wait(DEADLINE)


def wait_for_end(server: Server) -> bool:
    """Wait until a shutdown or a failure has begun. Return whether it has in time."""
    return server._lifecycle.wait_for(ServerState.STOPPING, DEADLINE)


@contextmanager
def nobody_accepted(server: Server) -> Iterator[None]:
    """Hold the lock around accepting: a peer that connects waits."""
    acceptor = server._pool._acceptor
    assert acceptor
    with acceptor._accepting:
        yield


def is_acceptor_idle(server: Server) -> bool:
    """Tell whether nothing wakes the thread that accepts."""
    acceptor = server._pool._acceptor
    assert acceptor
    with acceptor._accepting:
        return not acceptor._selector.select(0)


def pauses_of(server: Server) -> list[float]:
    """Return a list that grows by each pause of the acceptor, in seconds."""
    acceptor = server._pool._acceptor
    assert acceptor
    pauses, wait = list[float](), acceptor._stopping.wait

    def note_and_wait(seconds: float) -> bool:
        pauses.append(seconds)
        return wait(seconds)

    acceptor._stopping.wait = note_and_wait  # type: ignore[method-assign, assignment]
    return pauses


def replace_listener(server: Server, replacement: Callable[[socket.socket], Any]) -> None:
    """Have the server accept from replacement(its listener)."""
    acceptor = server._pool._acceptor
    assert acceptor
    acceptor._listener = replacement(acceptor._listener)


def before_waiting_for_publisher(monkeypatch: pytest.MonkeyPatch, waits: Callable[[], None]) -> None:
    """Call waits() each time that a worker reads no more because the publisher is backlogged."""
    wait = Worker._wait_for_publisher

    def tell_and_wait(worker: Worker) -> bool:
        waits()
        return wait(worker)

    monkeypatch.setattr(Worker, "_wait_for_publisher", tell_and_wait)


def before_release(monkeypatch: pytest.MonkeyPatch, look: Callable[[Replay], None]) -> None:
    """Call look(replay) before each replay that ends."""
    release = Replays._release

    def look_and_release(replays: Replays, connection: Connection, replay: Replay) -> None:
        look(replay)
        release(replays, connection, replay)

    monkeypatch.setattr(Replays, "_release", look_and_release)


def interrupt_starts(monkeypatch: pytest.MonkeyPatch, held: threading.Event) -> None:
    """Raise KeyboardInterrupt in the start of a worker whose thread waits for `held` before it runs."""
    begin, start = Worker._set_ident, Worker.start  # type: ignore[attr-defined]

    def wait_and_begin(worker: Worker) -> None:
        held.wait(DEADLINE)
        begin(worker)

    def start_and_raise(worker: Worker) -> None:
        threading.Thread(target=start, args=(worker,)).start()
        while worker not in threading.enumerate():
            pass
        threading.Timer(0.05, held.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "_set_ident", wait_and_begin)
    monkeypatch.setattr(Worker, "start", start_and_raise)


def pending_pieces(connection: Connection) -> list[bytes | bytearray | memoryview | Listing]:
    """Return the pieces that wait for the kernel."""
    return connection._pending.pieces if connection._pending else []


def throttled_lines(server: Server, name: str) -> int:
    """Return how many lines of a member its rate holds back."""
    subscribers = connections_of(server).subscribers
    connection = subscribers.find(next(member for member in subscribers.members if member.name == name))
    assert connection
    assert connection.input._throttle
    return len(connection.input._throttle._held)


def failed_addresses(auth: PasswordAuth) -> int:
    """Return how many addresses are remembered for a wrong password."""
    return len(auth._guesses._failures)


def read_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each turn of each worker tell that there was something to read."""
    turn = Worker._turn

    def turn_and_tell(worker: Worker, patience: float | None) -> bool:
        turn(worker, patience)
        return True

    monkeypatch.setattr(Worker, "_turn", turn_and_tell)


def drive(worker: Worker, selector: Any) -> None:
    """Give a worker that runs by hand a selector, which is its waker, too."""
    worker.release()
    worker._selector = worker._waker = worker._connections._selector = selector


def turn(worker: Worker) -> float | None:
    """Run one turn, and return how long the worker may sleep then."""
    worker._turn(0)
    return worker._patience()


def read_once(worker: Worker, readable: Iterable[Connection]) -> None:
    """Have a worker read from these connections, as far as the budget of one turn goes."""
    worker._pace.begin()
    worker._receive_all(dict.fromkeys(readable))


def on_disconnect(worker: Worker, disconnected: Callable[[Connection], None]) -> None:
    """Call disconnected(connection) before the worker disconnects one that exceeds a limit."""
    disconnect = worker._connections.disconnect

    def tell_and_disconnect(connection: Connection, *arguments: Any) -> None:
        disconnected(connection)
        disconnect(connection, *arguments)

    worker._connections.disconnect = tell_and_disconnect  # type: ignore[method-assign, assignment]


def selector_of(worker: Worker) -> selectors.BaseSelector:
    """Return the selector that a worker waits in."""
    return worker._selector


def known_connections(worker: Worker) -> list[Mapping[Any, Any] | set[Any] | list[Any]]:
    """Return everything that holds a connection: all of it is empty when none is left."""
    connections = worker._connections
    return [
        connections._all,
        connections.subscribers.members,
        connections._behind,
        connections.received,
        worker._selector.get_map(),
        connections._deadlines._times,
        connections._acknowledgements._queue,
    ]


# client


def is_receiving(client: Client) -> bool:
    """Say whether a thread waits in `receive`."""
    return client._receiving.locked()


def is_sending(client: Client) -> bool:
    """Say whether a thread is inside of `send`."""
    return client._connection.sending.locked()


def received_events(client: Client) -> list[Event]:
    """Return the events that wait for `receive`."""
    return list(client._received)


def connection_under(client: Client) -> ClientConnection:
    """Return the connection that stands now, under one that reconnects, too."""
    if isinstance(client._connection, ReconnectingConnection):
        assert client._connection._connection
        return client._connection._connection
    return client._connection


def socket_of(connection: ClientConnection) -> socket.socket:
    """Return the socket of a connection, under TLS too."""
    sock = connection._socket
    return sock._sock if isinstance(sock, TlsTransport) else sock


def replace_socket(connection: ClientConnection, replacement: Callable[[socket.socket], Any]) -> None:
    """Have a connection read and write through replacement(its socket)."""
    connection._socket = replacement(socket_of(connection))


def after_resuming(monkeypatch: pytest.MonkeyPatch, resumed: Callable[[], None]) -> None:
    """Call resumed() each time that a new connection replaces a lost one."""
    resume = ReconnectingConnection._resume

    def resume_and_tell(connection: ReconnectingConnection, new: ClientConnection) -> None:
        resume(connection, new)
        resumed()

    monkeypatch.setattr(ReconnectingConnection, "_resume", resume_and_tell)


def aio_connection_of(client: AsyncClient) -> AsyncConnection | AsyncReconnectingConnection:
    """Return what an asyncio client sends and receives over."""
    assert client._connection
    return client._connection


def transport_of(client: AsyncClient) -> Any:
    """Return the asyncio transport that stands now."""
    connection = client._connection
    stands = connection._connection if isinstance(connection, AsyncReconnectingConnection) else connection
    assert stands
    return stands.stream.transport


def current_name(state: ResumeState) -> str:
    """Return the name that the client has now."""
    return state._name


def retract(state: ResumeState) -> None:
    """Forget the line that was sent last, as if it could not be sent."""
    state._in_flight.retract()


def pending_syncs(state: ResumeState) -> int:
    """Return how many `/sync` have no answer yet."""
    return len(state._in_flight._syncs)


# testing


def inbox_of(guest: Guest) -> Any:
    """Return the events that wait for a guest's `receive`."""
    return guest._received
