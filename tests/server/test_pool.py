"""Threads that die, or begin late."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack, closing, suppress

import pytest

from chatkit import Limits, Server
from chatkit.net.sockets import WATCHED_SOCKETS
from chatkit.room.room import Room
from chatkit.server import pool
from tests.helpers.inside import interrupt_starts, workers_of
from tests.helpers.peers import DEADLINE, Peer, assert_healthy
from tests.helpers.servers import Serve


def test_a_dead_worker_ends_the_server(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Never half alive: `serve_forever` and `shutdown` raise, with the reason, and everything is closed."""
    server = Server(port=0, threads=2)
    server.start()
    thread_error: list[BaseException] = []

    def serve_forever() -> None:
        try:
            server.serve_forever()
        except RuntimeError as error:
            thread_error.append(error)

    thread = threading.Thread(target=serve_forever, daemon=True)
    thread.start()

    def fail(self: Room, arrivals: object) -> None:
        raise MemoryError("of the test")

    with monkeypatch.context() as patch:
        patch.setattr(Room, "receive", fail)
        peer = Peer(server.port)
        peer.send(b"x\n")
        begun = time.monotonic()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 2
    assert isinstance(thread_error[0].__cause__, MemoryError)
    with pytest.raises(RuntimeError, match="a thread of the server died"):
        server.shutdown()
    assert "died" in caplog.text
    peer.close()


def test_the_other_workers_end_with_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, though nobody calls `serve_forever` or `shutdown`: each member's conversation ends."""
    server = Server(port=0, threads=3)
    server.start()
    peers = [Peer(server.port) for _ in range(6)]

    def fail(self: Room, arrivals: object) -> None:
        raise MemoryError("of the test")

    with monkeypatch.context() as patch:
        patch.setattr(Room, "receive", fail)
        peers[0].send(b"x\n")
        for peer in peers:
            with suppress(ConnectionResetError):
                assert peer.rest() == b""
            peer.close()
    with pytest.raises(RuntimeError, match="a thread of the server died"):
        server.shutdown()


def test_a_start_that_is_interrupted_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C while a thread begins: nothing that it needs is freed before it has ended."""
    interrupt_starts(monkeypatch, threading.Event())
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        Server(port=0).start()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE)
    assert not caplog.records


@pytest.mark.parametrize("how", [b"exit\n", b"GET / HTTP/1.1\r\n\r\n", b"/json 0\nexit\n"])
def test_few_connections_are_kept_after_their_end(serve: Serve, monkeypatch: pytest.MonkeyPatch, how: bytes) -> None:
    """Peers that leave and don't close give their place back; only so many keep a descriptor meanwhile."""
    monkeypatch.setattr(pool, "ending_places", lambda: 4)
    started = serve(threads=1, limits=Limits(max_clients=3, drain_seconds=100, stall_seconds=100))
    talker, reader = started.peers(2)
    talker.send((b"x" * 1000 + b"\n") * 1000)
    reader.lines(1000)
    for _ in range(20):
        leaver = started.peer(receive_buffer=4096)
        leaver.send(how)
        started.events.wait_for("leave")
    for _ in range(2):  # the turn in which the second answer is written begins after that of the last end
        talker.send(b"/sync\n")
        talker.pass_over(b"synced")
    (worker,) = workers_of(started.server)
    assert worker.load <= 2 + 4


def test_members_fit_into_the_selectors(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On systems whose selector watches few sockets, each worker has few members. Those that are about to end count."""
    monkeypatch.setattr(pool, "WORKER_MEMBERS", 2)
    monkeypatch.setattr(pool, "WORKER_CONNECTIONS", 3)
    with (
        Server(port=0, threads=2, limits=Limits(max_clients=100, drain_seconds=DEADLINE)) as server,
        ExitStack() as stack,
    ):
        assert "max_clients is 4, not 100: each worker watches 2 (--threads)" in caplog.text
        members = [stack.enter_context(closing(Peer(server.port))) for _ in range(4)]
        for _ in range(5):
            refused = stack.enter_context(closing(Peer(server.port)))
            assert refused.rest() == b"*** the room is full\n"
            assert max(worker.load for worker in workers_of(server)) <= 3
        assert_healthy(*members[:2])


def test_a_worker_that_watches_all_it_can(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    """A further peer is told, whatever the room could take: members that have left may still be watched."""
    monkeypatch.setattr(pool, "WORKER_CONNECTIONS", 3)
    started = serve()
    members = started.peers(3)
    assert started.peer().rest() == b"*** the room is full\n"
    assert_healthy(*members[:2])


@pytest.mark.skipif(sys.maxsize == WATCHED_SOCKETS, reason="selectors of this system have no bound")
def test_more_peers_than_a_selector_watches(serve: Serve) -> None:
    """Those that fit are in the room, the others are told; the room goes on."""
    started = serve()
    members = started.peers(pool.WORKER_MEMBERS)
    for _ in members:
        started.events.wait_for("join")
    for _ in range(WATCHED_SOCKETS):
        assert started.peer().rest() == b"*** the room is full\n"
    assert_healthy(*members[:2])
