"""The end of a server: everything that has arrived is delivered first."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from chatkit import Limits, Member, Message, Server
from chatkit.server import lifecycle
from tests.helpers.inside import read_without_end, wait_for_end, workers_of
from tests.helpers.marks import over_tls
from tests.helpers.peers import DEADLINE, Peer, flood
from tests.helpers.servers import EventLog, Serve


@over_tls
def test_shutdown_delivers_everything_that_has_arrived(serve: Serve) -> None:
    """All earlier lines reach every member that reads; then comes an end of stream, no reset."""
    started = serve(threads=2)
    ann, bob, cid = started.peers(3)
    lines = b"".join(b"%d\n" % number for number in range(20_000))
    ann.send(lines + b"half")
    sender = threading.Thread(target=started.server.shutdown)
    sender.start()
    expected = b"".join(f"{ann.name}: {number}\n".encode() for number in range(20_000))
    assert bob.rest() == cid.rest() == expected
    assert ann.rest() == b""
    sender.join()
    assert started.server.members == []


def test_shutdown_delivers_lines_that_another_worker_still_reads(serve: Serve) -> None:
    """A worker with nothing left to read waits for the others before it ends its members' conversations."""
    seen, go_on = threading.Event(), threading.Event()

    class Gate(EventLog):
        def on_message(self, message: Message) -> Message:
            seen.set()
            assert go_on.wait(DEADLINE)
            return message

    started = serve(threads=2, handler=Gate(), limits=Limits(drain_seconds=0.2))
    ann, bob = started.peers(2)
    lines = b"".join(b"%d\n" % number for number in range(50_000))
    sender = threading.Thread(target=ann.send, args=(lines,))
    sender.start()
    assert seen.wait(DEADLINE)
    ending = threading.Thread(target=started.server.shutdown)
    ending.start()
    assert wait_for_end(started.server)
    go_on.set()
    assert bob.rest().count(b"\n") == 50_000
    for thread in (sender, ending):
        thread.join(DEADLINE)


def test_the_end_beside_input_without_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading takes half of `grace` at most: what was said is delivered, and no thread is left behind."""
    started = serve()
    ann, bob = started.peers(2)
    read_without_end(monkeypatch)
    ann.send(b"last\n")
    started.server.shutdown(grace=1.0)
    assert bob.rest() == f"{ann.name}: last\n".encode()
    assert "left behind" not in caplog.text


def test_shutdown_with_a_member_that_never_reads(serve: Serve) -> None:
    """It takes no longer than `grace`, and the one who reads gets all."""
    started = serve()
    talker, reader = started.peers(2)
    started.peer(receive_buffer=4096)
    flood(talker, reader, 6_000_000)
    talker.send(b"last\nhalf a line")
    begun = time.monotonic()
    started.server.shutdown(grace=0.5)
    assert time.monotonic() - begun < 0.6
    assert reader.rest() == f"{talker.name}: last\n".encode()


def test_shutdown_waits_for_a_slow_reader(serve: Serve) -> None:
    """A member that is behind but reads gets everything, also after `drain_seconds`, within `grace`."""
    started = serve(limits=Limits(drain_seconds=0.05))
    talker, reader = started.peers(2)
    pausing = started.peer(receive_buffer=4096)
    heard = flood(talker, reader, 6_000_000)
    ending = threading.Thread(target=started.server.shutdown)
    ending.start()
    assert reader.rest() == b""
    assert pausing.rest() == heard
    ending.join()


def test_shutdown_ends_a_peer_that_stays(serve: Serve) -> None:
    """A peer that never ends its side holds the server up for `drain_seconds` only."""
    started = serve(limits=Limits(drain_seconds=0.1))
    staying = started.peer()
    begun = time.monotonic()
    started.server.shutdown()
    assert time.monotonic() - begun < 1
    assert staying.rest() == b""


def test_shutdown_twice_and_unstarted() -> None:
    """Ending what has ended, or never began, is fine; starting it again isn't."""
    Server(port=0).shutdown()
    server = Server(port=0)
    server.start()
    server.shutdown()
    server.shutdown()
    with pytest.raises(RuntimeError, match="starts once"):
        server.start()
    with pytest.raises(RuntimeError, match="isn't running"):
        server.broadcast("too late")


def test_a_shutdown_without_a_bound_in_time(tmp_path: Path) -> None:
    """Threads can't be waited for so long; the end takes as long as it takes."""
    server = Server(port=0, history=tmp_path / "chat.db")
    server.start()
    server.shutdown(float("inf"))
    with socket.socket() as probe:
        assert probe.connect_ex(server.address)


def test_serve_forever_until_shutdown() -> None:
    """It starts the server if need be, and returns when another thread shuts it down."""
    listening = threading.Event()
    handler = type("Handler", (), {"on_listening": lambda self, address: listening.set()})()
    server = Server(port=0, handler=handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert listening.wait(DEADLINE)
    server.shutdown()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.mark.stress
def test_broadcast_while_it_shuts_down() -> None:
    """At any moment it is delivered or refused with RuntimeError, and it doesn't delay the end."""
    for _ in range(20):
        server = Server(port=0)
        server.start()
        refused: list[BaseException] = []

        def talk(server: Server = server, refused: list[BaseException] = refused) -> None:
            try:
                while True:
                    server.broadcast("x")
            except BaseException as error:
                refused.append(error)  # noqa: B023

        threads = [threading.Thread(target=talk) for _ in range(2)]
        for thread in threads:
            thread.start()
        server.shutdown(grace=5)
        for thread in threads:
            thread.join(DEADLINE)
        assert [type(error) for error in refused] == [RuntimeError, RuntimeError]


def test_a_signal_handler_may_interrupt_a_shutdown_by_another(serve: Serve) -> None:
    """The inner `shutdown` returns instead of waiting for itself; the outer one ends the server."""
    server = Server(port=0)
    server.start()
    stalls = Peer(server.port)  # a peer that stays: the end takes its time
    stalls.send(b"x" * 3)
    interrupted = list[float]()

    def end(number: int, frame: object) -> None:
        begun = time.monotonic()
        server.shutdown(3)
        interrupted.append(time.monotonic() - begun)

    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        server.shutdown(1)
    finally:
        signal.signal(signal.SIGALRM, before)
        stalls.close()
    assert len(interrupted) == 1
    assert interrupted[0] < 0.1


@pytest.mark.timed
@pytest.mark.parametrize("late", [False, True], ids=["at once", "half a second later"])
def test_a_second_ctrl_c(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """At once after the first it changes nothing: messages are delivered. Later it ends the wait for the end."""

    class Impatient(EventLog):
        def on_leave(self, member: Member, reason: str) -> None:
            if member.name == ann.name:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # in `shutdown`

    def say_and_interrupt(*arguments: object) -> bool:
        ann.send(b"last\n")
        handler.wait_for("message")
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "SECOND_SIGNAL_SECONDS", 0 if late else DEADLINE)
    monkeypatch.setattr(lifecycle.Lifecycle, "wait_for", say_and_interrupt)
    handler = Impatient()
    server = Server(port=0, handler=handler, limits=Limits(drain_seconds=DEADLINE if late else 0.1))
    server.start()
    ann, bob = Peer(server.port), Peer(server.port)
    with pytest.raises(KeyboardInterrupt):
        server.serve_forever()
    assert any(worker.is_alive() for worker in workers_of(server)) == late
    assert bob.rest() == f"{ann.name}: last\n".encode()
    ann.close()
    bob.close()
    server.shutdown()


def test_an_end_without_a_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs none."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Server(port=0) as server, monkeypatch.context() as patch:
        peer = Peer(server.port)
        patch.setattr(threading.Thread, "start", refuse)
        server.shutdown()
        assert peer.rest() == b""
    peer.close()


def test_a_hook_that_starts_its_server_is_refused() -> None:
    """`start` from `on_listening` is a RuntimeError, not a wait for itself."""

    class Starting:
        def on_listening(self, address: object) -> None:
            server.start()

    server = Server(port=0, handler=Starting())
    with pytest.raises(RuntimeError, match="starts once"):
        server.start()


def test_a_thread_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that never returns holds `shutdown` up for no longer than its grace, and a moment."""
    free, held = threading.Event(), threading.Event()

    class Hanging:
        def on_message(self, message: Message) -> Message:
            held.set()
            free.wait(DEADLINE)
            return message

    server = Server(port=0, handler=Hanging())
    server.start()
    peer = Peer(server.port)
    peer.send(b"x\n")
    assert held.wait(DEADLINE)
    begun = time.monotonic()
    server.shutdown(0.5)
    assert time.monotonic() - begun < 2
    assert "chatkit-worker-0 hangs" in caplog.text
    free.set()
    for worker in workers_of(server):
        worker.join(DEADLINE)
        worker.release()
    peer.close()
