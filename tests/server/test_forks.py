"""Forked children of a server's process: they leave the server alone, and keep nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chatkit import Client, Handler, Member, Message, Server
from tests.helpers.forking import child, forks, in_child
from tests.helpers.inside import is_acceptor_idle
from tests.helpers.leaks import open_descriptors
from tests.helpers.marks import over_tls
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve

pytestmark = forks

VERBS: dict[str, Callable[[Server], object]] = {
    "broadcast": lambda server: server.broadcast("x"),
    "tell": lambda server: server.tell(server.members[0].name, "x"),
    "kick": lambda server: server.kick(server.members[0].name, "x"),
}
ELSEWHERE = "the server runs in the process that this one was forked from"


def misused(verb: Callable[[], object]) -> str:
    """Return the error of a call that is one."""
    with pytest.raises(RuntimeError) as caught:
        verb()
    return str(caught.value)


@over_tls
def test_a_child_that_shuts_the_server_down(serve: Serve) -> None:
    """As `sys.exit` inside of `with Server` does: members of before and new ones talk on, and nothing spins."""
    started = serve(threads=2)
    ann, bob = started.peers(2)
    assert in_child(started.server.shutdown) == "None"
    cid, dan = started.peers(2)
    for speaker, hearers in ((ann, (bob, cid, dan)), (dan, (ann, bob, cid))):
        speaker.send(b"Hi!\n")
        assert [hearer.line() for hearer in hearers] == [f"{speaker.name}: Hi!".encode()] * 3
    assert is_acceptor_idle(started.server)
    assert started.server.stats.members == 4
    started.server.shutdown()
    assert [peer.rest() for peer in (ann, bob, cid, dan)] == [b""] * 4


@over_tls
def test_a_child_keeps_no_descriptor(serve: Serve, tmp_path: Path) -> None:
    """Neither of the listener nor of a member, and no lock of the history: all is free while the child lives."""
    before = open_descriptors()
    path = tmp_path / "chat.db"
    started = serve(history=path)
    peer, threads = started.peer(), threading.active_count()
    peer.sync()  # the server has taken it in by now
    assert threads > 4

    def sockets() -> int:
        return len([each for each in open_descriptors() - before if each.startswith("socket:")])

    with child(sockets) as living:
        assert living.result() == "1", "more than the peer's, which is the test's own"
        peer.close()
        started.server.shutdown()
        with Server(port=started.port, history=path) as server, Client(port=server.port) as client:
            server.broadcast("again")
            assert client.receive(DEADLINE).text == "again"


@pytest.mark.parametrize("verb", VERBS)
def test_a_child_has_no_running_server(serve: Serve, verb: str) -> None:
    """A clear error, not silence; and it can't be started again."""
    started = serve()
    peer = started.peer()
    started.events.wait_for("join")
    assert in_child(lambda: misused(lambda: VERBS[verb](started.server))).startswith(ELSEWHERE)
    assert in_child(lambda: misused(started.server.start)).startswith("a server starts once")
    started.server.broadcast("from the parent")
    assert peer.line() == b"*** from the parent"


def test_a_hook_that_forks(serve: Serve) -> None:
    """Whatever its thread holds at that moment, the child's calls return."""

    class Forking(Handler):
        def on_message(self, message: Message, member: Member) -> Message:
            said = in_child(lambda: misused(lambda: server.broadcast("x")))
            return Message(message.sender, f"{said[:10]}, {in_child(server.shutdown)}")

    server = Server(port=0, handler=Forking())
    with server, Client(port=server.port) as ann, Client(port=server.port) as bob:
        ann.send("fork!")
        assert bob.receive(DEADLINE).text == f"{ELSEWHERE[:10]}, None"


def test_a_child_starts_a_server_of_its_own(serve: Serve) -> None:
    """Made before the fork, or after it; also beside its parent's."""
    started, made_before = serve(), Server(port=0)

    def serve_in_child() -> str:
        texts = []
        for server in (made_before, Server(port=0)):
            with server, Client(port=server.port) as ann, Client(port=server.port) as bob:
                ann.send("Hi!")
                texts.append(bob.receive(DEADLINE).text)
        return " ".join(texts)

    assert in_child(serve_in_child) == "Hi! Hi!"
    assert started.server.members == []
