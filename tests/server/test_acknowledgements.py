"""Members whose kernels don't answer are found, and nobody else is looked at."""

from __future__ import annotations

import selectors
import time
from contextlib import suppress

import pytest

from chatkit import Limits
from chatkit.server import acknowledgements
from chatkit.server.acknowledgements import MAX_LOOKS, Acknowledgements
from chatkit.server.connection import Connection, ConnectionState
from tests.helpers.inside import places, room_of
from tests.helpers.login import ASKED, Guarded
from tests.helpers.marks import over_tls
from tests.helpers.peers import flood
from tests.helpers.servers import Serve, a_share
from tests.helpers.transports import ScriptedSocket, tcp_info

DEAD = tcp_info(unacked=1, retransmits=1, silent_ms=10**6)


class Member:
    """A connection over a socket that counts looks."""

    def __init__(self, info: bytes = DEAD) -> None:
        self.looks = 0
        self.sock = Counted(self)
        self.sock.tcp_info = info
        self.connection = Connection(self.sock, a_share())
        self.connection.awaits_ack = False


class Counted(ScriptedSocket):
    def __init__(self, member: Member) -> None:
        super().__init__()
        self.member = member

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        self.member.looks += 1
        return self.tcp_info


def test_nobody_idle_is_looked_at() -> None:
    """One look after a send, and none once everything is acknowledged, until the next send."""
    acks, member = Acknowledgements(30), Member(tcp_info())
    assert not member.connection.write(b"x"), "the first write has to be noted"
    acks.add(member.connection, 1000.0)
    assert member.connection.write(b"x"), "a later one hasn't"
    assert member.connection.write_pieces([b"x"])
    assert acks.next == 1010
    assert acks.look(1009.9) == []
    assert member.looks == 0
    assert acks.look(1010) == []
    assert (member.looks, acks.next) == (1, float("inf"))
    assert not member.connection.write_pieces([b"x"])


def test_a_peer_that_answers_nothing_is_gone_in_time() -> None:
    """After `unacknowledged_seconds`; one that answers, or has a window of zero, stays."""
    acks = Acknowledgements(30)
    dead, alive = Member(), [Member(tcp_info(unsent=1)), Member(tcp_info(unacked=1, retransmits=1, silent_ms=50))]
    for number, member in enumerate([dead, *alive]):
        acks.add(member.connection, 1000.0 + number)
    gone = {now: acks.look(now) for now in range(1000, 1100)}
    assert {now: found for now, found in gone.items() if found} == {1030: [dead.connection]}
    assert [member.looks for member in alive] == [9, 9]


def test_a_turn_looks_at_few() -> None:
    """The others have their turn next."""
    acks, members = Acknowledgements(30), [Member() for _ in range(MAX_LOOKS + 1)]
    for member in members:
        acks.add(member.connection, 1000.0)
    acks.look(1010)
    assert sum(member.looks for member in members) == MAX_LOOKS
    assert acks.next == 1010
    acks.look(1010)
    assert {member.looks for member in members} == {1}
    for member in members:
        acks.forget(member.connection)
    assert acks.next == float("inf")


def test_a_lost_peer_is_read_to_its_end() -> None:
    """What had arrived counts; then its conversation is over, and the close is a reset."""
    sock = ScriptedSocket(receives=[b"last words\nhal", b""])
    lost = Connection(sock, a_share())
    lost.write(b"x")
    lost.lose()
    assert lost.state is ConnectionState.BROKEN
    assert lost.interest == selectors.EVENT_READ
    assert [lost.receive(100, 100), lost.receive(100, 100)] == [["last words"], []]
    assert lost.peer_end == "connection reset"
    assert "linger" in sock.calls


def test_a_login_has_the_same_bound(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that doesn't acknowledge the question for the password is gone, and its place free."""
    started = guarded(login_seconds=1000, unacknowledged_seconds=0.3, max_clients=1)
    monkeypatch.setattr(acknowledgements, "unanswered_since", lambda sock, since, now: since)
    peer = started.peer()
    assert peer.line() == ASKED
    with suppress(ConnectionResetError):
        assert peer.rest() == b""
    roster = room_of(started.server).roster
    while places(roster) != (0, {}):
        pass


@over_tls
def test_a_member_that_pauses_stays(serve: Serve, tls: bool) -> None:
    """Its window is zero for much longer than `unacknowledged_seconds`; then it reads everything."""
    started = serve(limits=Limits(unacknowledged_seconds=0.2))
    talker, reader = started.peers(2)
    slow = started.peer(receive_buffer=4096)
    said = flood(talker, reader, 1_000_000)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        pass
    talker.send(b"end\n")
    said += reader.line() + b"\n"
    slow.sock.settimeout(60)
    assert b"".join(slow.line() + b"\n" for _ in range(1001)) == said


def test_a_stalled_member_is_told(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """`stall_seconds` alone judges a member that is alive: with a reason, and a line in the log."""
    started = serve(limits=Limits(unacknowledged_seconds=0.2, stall_seconds=1.5, drain_seconds=30))
    talker, reader = started.peers(2)
    slow = started.peer(receive_buffer=4096)
    begun = time.monotonic()
    flood(talker, reader, 1_000_000)
    assert started.events.wait_for("leave") == "slow consumer"
    assert time.monotonic() - begun > 1.5
    assert slow.rest().endswith(b"*** you were cut off: nothing was read for 1.5 seconds\n")
    slow.close()
    while not caplog.records:
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"{slow.name}: 0 lines undelivered: nothing was read for 1.5 seconds"
    ]
