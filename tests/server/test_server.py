"""The server over real sockets, its other end as plain as `nc`."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

import pytest

from chatkit import Limits, Member, Message, Server
from chatkit.room import arrivals
from chatkit.room.batch import Received
from chatkit.server.connection import Connection
from tests.helpers.inside import hold_up, room_of, workers_of
from tests.helpers.marks import over_tls
from tests.helpers.peers import Peer, flood
from tests.helpers.servers import Serve, Started

has_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")


@over_tls
def test_a_conversation(serve: Serve) -> None:
    """Lines go to everyone else, named by their port; `exit` ends with an end of stream."""
    started = serve()
    ann, bob, cid = started.peers(3)
    ann.send(b"Hi!\n")
    assert [peer.line() for peer in (bob, cid)] == [f"{ann.name}: Hi!".encode()] * 2
    bob.send(b"Hello!\r\n")
    assert [peer.line() for peer in (ann, cid)] == [f"{bob.name}: Hello!".encode()] * 2
    ann.send(b"exit\n")
    assert ann.rest() == b""
    assert started.events.wait_for("leave") == "exit"
    cid.send(b"still here\n")
    assert bob.line() == f"{cid.name}: still here".encode()


@pytest.mark.parametrize("last", [b"hi\n", b"hi"])
def test_a_half_closed_peer_says_its_last_line(serve: Serve, last: bytes) -> None:
    """As `printf hi | nc -N` does: the last line counts without its line end, then the server ends too."""
    started = serve()
    ann, bob = started.peers(2)
    ann.send(last)
    ann.send_eof()
    assert ann.rest() == b""
    assert bob.line() == f"{ann.name}: hi".encode()
    assert started.events.wait_for("leave") == "end of stream"


def test_half_a_line_before_a_reset_is_dropped(serve: Serve) -> None:
    """A connection that broke didn't finish its line."""
    started = serve()
    ann, bob = started.peers(2)
    ann.send(b"whole\nhal")
    assert bob.line() == f"{ann.name}: whole".encode()
    ann.reset()
    assert started.events.wait_for("leave") == "connection reset"
    started.server.broadcast("sentinel")
    assert bob.line() == b"*** sentinel"


def test_a_peer_connected_before_a_line_hears_it(serve: Serve) -> None:
    """No greeting is needed: once `connect` has returned, later lines arrive."""
    started = serve()
    ann = started.peer()
    for number in range(100):
        newcomer = started.peer()
        ann.send(b"%d\n" % number)
        assert newcomer.line() == f"{ann.name}: {number}".encode()
        newcomer.close()


def test_bad_lines(serve: Serve) -> None:
    """Too long or not UTF-8: the sender alone is told, its next line is intact."""
    started = serve(limits=Limits(max_line_bytes=8))
    ann, bob = started.peers(2)
    ann.send(b"123456789 and more\n\xff\nfine\n")
    assert ann.lines(2) == [b"*** not sent: longer than 8 bytes", b"*** not sent: not valid UTF-8"]
    assert bob.line() == f"{ann.name}: fine".encode()


@pytest.mark.parametrize("threads", [1, 3])
def test_200_members_see_one_order(serve: Serve, threads: int) -> None:
    """Over several workers, each of 200 members gets each line of the others exactly once, all in the same order."""
    talk_in_one_order(serve(threads=threads), members=200, lines=10)


@pytest.mark.stress
def test_one_order_under_a_tiny_switch_interval(serve: Serve) -> None:
    """All members get one order while threads switch at almost every step."""
    talk_in_one_order(serve(threads=3), members=12, lines=20)


def talk_in_one_order(started: Started, members: int, lines: int) -> None:
    peers, witness = started.peers(members), started.peer()

    def talk(some: list[Peer]) -> None:
        for number in range(lines):
            for peer in some:
                peer.send(b"%d\n" % number)

    threads = [threading.Thread(target=talk, args=(peers[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    order = witness.lines(members * lines)
    for thread in threads:
        thread.join()
    assert len(set(order)) == len(order)
    for peer in peers:
        own = peer.name.encode() + b": "
        assert [line for line in order if line.startswith(own)] == [own + b"%d" % number for number in range(lines)]
        assert peer.lines((members - 1) * lines) == [line for line in order if not line.startswith(own)]
    assert started.server.stats.deliveries == members * members * lines


def test_a_full_room(serve: Serve, small_limits: Limits) -> None:
    """One too many is told so and closed, even if it spoke at once; a place freed is taken again."""
    started = serve(limits=small_limits)
    peers = started.peers(3)
    refused = started.peer()
    refused.send(b"hello?\n" * 100)
    assert refused.rest() == b"*** the room is full\n"
    assert started.server.stats.refused == {"full": 1}
    peers[0].send(b"exit\n")
    peers[0].rest()
    newcomer = started.peer()
    newcomer.send(b"in\n")
    assert peers[1].line() == f"{newcomer.name}: in".encode()


@over_tls
@pytest.mark.parametrize("why", ["bytes", "stalled"])
def test_a_slow_consumer_is_cut_off(serve: Serve, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """A member that doesn't read gets a gapless prefix and the reason; the others get all lines; one line is logged."""
    limits = Limits(max_pending_bytes=200_000) if why == "bytes" else Limits(stall_seconds=0.2)
    started = serve(limits=limits)
    talker, reader = started.peers(2)
    slow = started.peer(receive_buffer=4096)
    with caplog.at_level(logging.WARNING, "chatkit"):
        heard = flood(talker, reader, 6_000_000)
        assert heard.count(b"\n") == 6000
        assert started.events.wait_for("leave") == "slow consumer"
        received = slow.rest()
    whole, _, notice = received.removesuffix(b"\n").rpartition(b"\n")
    assert heard.startswith(whole + b"\n")
    reasons = {"bytes": b"more than 200000 bytes were waiting", "stalled": b"nothing was read for 0.2 seconds"}
    assert notice == b"*** you were cut off: " + reasons[why]
    assert started.server.stats.slow_consumers == 1
    talker.send(b"sentinel\n")
    assert reader.line().endswith(b"sentinel")
    slow.close()
    started.server.shutdown()
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["0 lines undelivered"]


def test_a_slow_consumer_that_never_reads_is_closed(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """After `drain_seconds` it is closed with a reset, and the log says how many lines it missed."""
    started = serve(limits=Limits(max_pending_bytes=1_000_000, drain_seconds=0.1))
    talker, reader = started.peers(2)
    slow = started.peer(receive_buffer=4096)
    with caplog.at_level(logging.WARNING, "chatkit"):
        flood(talker, reader, 6_000_000)
        assert started.events.wait_for("leave") == "slow consumer"
        started.server.shutdown()
    (record,) = caplog.records
    name, lines, *_ = record.getMessage().split(": ")
    assert name == slow.name
    assert 100 < int(lines.split()[0]) < 1100
    with pytest.raises(ConnectionResetError):
        slow.rest()


def test_a_pause_below_the_limits_loses_nothing(serve: Serve) -> None:
    """A member that is behind catches up and stays."""
    started = serve()
    talker, reader = started.peers(2)
    pausing = started.peer(receive_buffer=4096)
    heard = flood(talker, reader, 6_000_000)
    assert b"".join(line + b"\n" for line in pausing.lines(6000)) == heard
    pausing.send(b"back\n")
    assert reader.line() == f"{pausing.name}: back".encode()


def test_not_started() -> None:
    """Each call that needs a started server says so."""
    with pytest.raises(RuntimeError, match="isn't started"):
        _ = Server().address
    with pytest.raises(ValueError, match="threads"):
        Server(threads=0)
    with pytest.raises(ValueError, match="max_clients must be above zero, not 0"):
        Limits(max_clients=0)


def test_a_port_in_use_raises_in_the_callers_thread(serve: Serve) -> None:
    """`start` binds; nothing is left behind when that fails."""
    with pytest.raises(OSError, match="in use"):
        Server(port=serve().port).start()
    with pytest.raises(socket.gaierror):
        Server(host="no such host").start()


def test_a_failing_on_listening_leaves_nothing_behind() -> None:
    """The listener is closed, no thread has begun."""

    def fail(address: object) -> None:
        raise LookupError("of the test")

    with pytest.raises(LookupError):
        Server(port=0, handler=type("Handler", (), {"on_listening": staticmethod(fail)})()).start()


@has_ipv6
def test_ipv6() -> None:
    """Addresses are 2-tuples there too; `::` takes IPv4 peers as what they are."""
    joined: list[Any] = []
    handler = type("Handler", (), {"on_join": lambda self, member: joined.append(member.address)})()
    with Server("::1", 0, handler=handler) as server:
        assert server.address == ("::1", server.port)
        peer = Peer(server.port, host="::1")
        server.broadcast("x")
        peer.send_eof()
        peer.rest()
        peer.close()
        assert joined == [("::1", int(peer.name))]
    with Server("::", 0, handler=handler) as server:
        peer = Peer(server.port)
        peer.send_eof()
        peer.rest()
        peer.close()
        assert joined[1:] == [("127.0.0.1", int(peer.name))]


def test_a_host_name(serve: Serve) -> None:
    """A name that stands for both families gives its IPv4 address, so that members are named as everywhere."""
    assert serve(host="localhost").server.address[0] == "127.0.0.1"


def test_broadcast_kick_members_stats(serve: Serve) -> None:
    """The room's own words, an unwanted member's end, and the numbers."""
    started = serve()
    ann, bob = started.peers(2)
    ann.send(b"Hi!\n")
    bob.line()
    assert {member.name: member.address for member in started.server.members} == {
        peer.name: ("127.0.0.1", int(peer.name)) for peer in (ann, bob)
    }
    assert (started.server.stats.members, started.server.stats.messages) == (2, 1)
    started.server.broadcast("be nice")
    started.server.kick(ann.name, "you weren't")
    assert ann.rest() == b"*** be nice\n*** you weren't\n"
    assert started.events.wait_for("leave") == "removed: you weren't"
    assert bob.line() == b"*** be nice"


@pytest.mark.stress
@pytest.mark.parametrize("threads", [1, 2])
def test_hooks_may_call_the_server(threads: int) -> None:
    """Every method but `shutdown`, from every hook, without a deadlock."""

    class Busy:
        server: Server

        def on_join(self, member: Member) -> None:
            self.server.broadcast(f"{member.name} of {len(self.server.members)} {self.server.stats.messages}")

        def on_message(self, message: Message) -> Message:
            self.server.broadcast("heard")
            if message.text == "kick me":
                self.server.kick(message.sender, "as you wish")
            return message

        def on_leave(self, member: Member, reason: str) -> None:
            self.server.broadcast(f"{reason}")

    busy = Busy()
    with Server(port=0, handler=busy, threads=threads) as server:
        busy.server = server
        ann, bob = Peer(server.port), Peer(server.port)
        ann.send(b"Hi!\nkick me\n")
        assert ann.rest().endswith(b"*** as you wish\n")
        bob.send(b"exit\n")
        heard = bob.rest()
        assert heard.count(b"*** heard\n") == 2
        assert b"*** removed: as you wish\n" in heard
        ann.close()
        bob.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_silent_member_is_announced_by_the_clock(serve: Serve, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """A moment after it joined, though nothing else happens; a peer that is gone by then isn't announced."""
    monkeypatch.setattr(arrivals, "WAIT_SECONDS", 0.2)
    started = serve(announce=True, threads=threads)
    ann = started.peer()
    ann.sync()
    bob = started.peer()
    assert ann.line() == f"*** {bob.name} joined".encode()
    probe = started.peer()
    probe.close()
    bob.close()
    assert ann.line() == f"*** {bob.name} left".encode()


def test_many_joins_are_few_writes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announcements while the worker is busy are one write for each member; each hears of the others."""
    monkeypatch.setattr(arrivals, "WAIT_SECONDS", 0)
    started = serve(announce=True)
    ann = started.peer()
    assert started.events.wait_for("join") == ann.name
    ann.sync()
    writes, free = list[object](), threading.Event()
    for verb in ("write", "write_pieces"):

        def counted(self: Connection, data: Any, write: Any = getattr(Connection, verb)) -> bool:
            writes.append(self)
            return bool(write(self, data))

        monkeypatch.setattr(Connection, verb, counted)

    hold_up(workers_of(started.server)[0], free)
    newcomers = started.peers(50)
    order = [started.events.wait_for("join") for _ in newcomers]
    free.set()
    for peer in newcomers:
        assert peer.lines(49) == [f"*** {name} joined".encode() for name in order if name != peer.name]
    assert ann.lines(50) == [f"*** {name} joined".encode() for name in order]
    assert max(writes.count(connection) for connection in writes) < 5


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("held_up", [False, True])
def test_stats_are_exact_while_members_join(serve: Serve, threads: int, held_up: bool) -> None:
    """A member that joins between two messages gets, and counts for, only the later one, also if both are one write."""
    started = serve(threads=threads)
    peers, free = [started.peer()], threading.Event()
    assert started.events.wait_for("join") == peers[0].name
    (talker,) = started.server.members

    for worker in workers_of(started.server) if held_up else ():
        hold_up(worker, free)
    for number in range(30):
        peers.append(started.peer())
        assert started.events.wait_for("join") == peers[-1].name
        room_of(started.server).receive([Received(talker, [f"{number}"])])
    free.set()
    for first, peer in enumerate(peers[1:]):
        assert peer.lines(30 - first) == [f"{talker.name}: {number}".encode() for number in range(first, 30)]
    assert (started.server.stats.messages, started.server.stats.deliveries) == (30, sum(range(1, 31)))


@pytest.mark.parametrize("opening", [b"", b"/json\n"])
def test_more_pieces_than_one_write_takes(serve: Serve, opening: bytes) -> None:
    """Two members talk in turns: each gets a batch in thousands of pieces (IOV_MAX is 1024), and all of it."""
    started = serve()
    ann, bob = started.peers(2)
    for peer in (ann, bob):
        peer.sync()
    ann.send(opening + b"/who\n")
    ann.pass_over(bob.name.encode())
    ann.line()
    members = {member.name: member for member in started.server.members}
    turns = [Received(members[peer.name], [f"{number:05}"]) for number in range(3000) for peer in (ann, bob)]
    room_of(started.server).receive(turns)
    started.server.broadcast("end")
    for number in range(3000):
        line = ann.line()
        assert bob.name.encode() in line
        assert b"%05d" % number in line
        assert bob.line() == f"{ann.name}: {number:05}".encode()
    assert b"end" in ann.line()
