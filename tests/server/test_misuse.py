"""Mistakes of programs and odd values: an error for the caller, nothing for the room."""

from __future__ import annotations

import dataclasses
import math
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

from chatkit import Limits, Member, Message, Server
from tests.helpers.inside import nobody_accepted, wait_for_end
from tests.helpers.peers import DEADLINE, Peer, assert_healthy
from tests.helpers.servers import Serve

pytestmark = pytest.mark.slow


def test_text_that_is_none(serve: Serve) -> None:
    """`broadcast` and `kick` refuse in the caller's thread what can't go on the wire."""
    started = serve()
    talker, reader = started.peers(2)
    assert_healthy(talker, reader)
    for mistake in ("caf\udce9", 42):
        with pytest.raises((ValueError, TypeError)):
            started.server.broadcast(mistake)  # type: ignore[arg-type]
        with pytest.raises((ValueError, TypeError)):
            started.server.kick(talker.name, mistake)  # type: ignore[arg-type]
    assert_healthy(talker, reader)


def test_a_handler_that_makes_text_that_is_none(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """It ends that member's conversation, as every error of a hook."""

    class Handler:
        def on_message(self, message: Message) -> Message:
            return dataclasses.replace(message, text="\ud800") if message.text == "x" else message

    started = serve(handler=Handler())
    talker, reader, victim = started.peers(3)
    victim.send(b"x\n")
    assert victim.rest() == b"*** an error in the room's handler ended this conversation\n"
    assert_healthy(talker, reader)
    assert caplog.text.count("Traceback") == 1


def test_hooks_may_kick_a_newcomer() -> None:
    """Also in `on_join` the newcomer is a member already."""

    class Doorman:
        server: Server

        def on_join(self, member: Member) -> None:
            self.server.kick(member.name, "not today")

    doorman = Doorman()
    with Server(port=0, handler=doorman) as server:
        doorman.server = server
        peer = Peer(server.port)
        assert peer.rest() == b"*** not today\n"
        peer.close()


@pytest.mark.parametrize("seconds", [math.inf, 1e12])
def test_limits_without_end(serve: Serve, seconds: float) -> None:
    """A time as long as one likes is no error, and costs no CPU."""
    names = [limit.name for limit in dataclasses.fields(Limits) if limit.name.endswith("_seconds")]
    times: dict[str, Any] = dict.fromkeys(names, seconds)
    started = serve(limits=dataclasses.replace(Limits(), **times))
    talker, reader = started.peers(2)
    slow = started.peer(receive_buffer=4096)
    slow.send(b"half a line")
    for _ in range(5000):
        talker.send(b"x" * 999 + b"\n")
        reader.line()
    assert_healthy(talker, reader)
    started.server.shutdown(grace=0.3)


def test_a_rate_without_end(serve: Serve) -> None:
    """Is none at all."""
    talker, reader = serve(limits=Limits(messages_per_second=math.inf)).peers(2)
    assert_healthy(talker, reader)


def test_hooks_use_the_server_from_first_to_last() -> None:
    """`broadcast` in `on_join` works for a peer that connects while the server starts, and for one while it ends."""

    class Greeter:
        server: Server
        peers: list[Peer]

        def on_listening(self, address: tuple[str, int]) -> None:
            self.peers = [Peer(address[1])]

        def on_join(self, member: Member) -> None:
            self.server.broadcast("hello")

    for _ in range(10):
        greeter = Greeter()
        greeter.server = Server(port=0, handler=greeter, limits=Limits(drain_seconds=0.1))
        with greeter.server:
            assert greeter.peers[0].line() == b"*** hello"
            with nobody_accepted(greeter.server):
                greeter.peers.append(Peer(greeter.server.port))
                ending = threading.Thread(target=greeter.server.shutdown)
                ending.start()
                assert wait_for_end(greeter.server)
            ending.join(DEADLINE)
            assert b"handler" not in greeter.peers[1].rest()
        for peer in greeter.peers:
            peer.close()


def test_a_start_that_failed_is_no_start() -> None:
    """`serve_forever` doesn't wait for what never began."""

    def fail(address: object) -> None:
        raise LookupError

    server = Server(port=0, handler=type("Handler", (), {"on_listening": staticmethod(fail)})())
    with pytest.raises(LookupError):
        server.start()
    with pytest.raises(RuntimeError, match="starts once"):
        server.serve_forever()


def test_too_few_descriptors_to_start() -> None:
    """`start` raises, and leaves nothing open and nothing running."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 30, hard))
    try:
        server = Server(port=0, threads=40)
        with pytest.raises(OSError, match="Too many open files"):
            server.start()
        with pytest.raises(ConnectionRefusedError):
            Peer(server.port)
        server.shutdown()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_slow_consumer_that_leaves_while_it_is_judged(serve: Serve) -> None:
    """Half-closed, cut off and reset at once, at whatever moment: the room stays healthy."""
    started = serve(limits=Limits(max_pending_bytes=50_000, drain_seconds=0.05))
    talker, reader = started.peers(2)
    for _ in range(5):
        slow = started.peer(receive_buffer=4096)
        for number in range(6000):
            talker.send(b"x" * 999 + b"\n")
            reader.line()
            if number == 4000:
                with suppress(OSError):  # it may have been cut off already
                    slow.send_eof()
        slow.reset()
        assert_healthy(talker, reader)
