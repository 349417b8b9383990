"""Threads that die, or begin late."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest

from chatkit import Server
from chatkit.room.room import Room
from tests.helpers.inside import interrupt_starts
from tests.helpers.peers import DEADLINE, Peer


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
