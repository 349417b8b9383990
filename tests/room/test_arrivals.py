"""When members hear of a join: a room without a socket, and a clock by hand."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import Error, Event, Joined, Left, Message, Renamed
from chatkit.protocol.formats import parse_json
from chatkit.protocol.lines import BadLine, Foreign, Line
from chatkit.room.arrivals import GROUP_SECONDS, WAIT_SECONDS, Arrivals
from chatkit.room.batch import Received
from chatkit.room.members import Member
from chatkit.room.room import Room
from tests.helpers.desks import Desk, Seat

HTTP = Foreign("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n")


def with_program(announce: bool = False) -> tuple[Desk, Seat]:
    """A desk, and a member that reads JSON and has heard nothing yet."""
    desk = Desk(Room(announce=announce))
    ann = desk.join(1)
    desk.hear(ann, "/json")
    heard(ann)
    return desk, ann


class Clock:
    """Stands for the module `time`."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    time = monotonic


@contextmanager
def clock_at(now: float) -> Iterator[Clock]:
    """Stop the clock of rooms."""
    clock = Clock(now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatkit.room.turn.time", clock)
        yield clock


def heard(seat: Seat) -> list[Event]:
    """Return the announcements and messages since the last call, these without ids and times."""
    lines, seat.received = seat.received.decode().splitlines(), b""
    events = [parse_json(line) for line in lines if line.startswith("{")]
    return [Message(event.sender, event.text) if isinstance(event, Message) else event for event in events if event]


NAMING: list[Line] = ["/nick ada", "/nick", "/nick 2", "/nick Ada ", "/password x"]
SPEAKING: list[Line] = ["hi", "", " ", "/", "//nick", "/nickname", "/me x", "/who", "/sync", "/json", "exit now"]
SPEAKING += [BadLine("not_utf8", "not valid UTF-8"), "/say exit", "\t/nick x"]


@pytest.mark.parametrize("line", SPEAKING)
def test_a_join_waits_for_the_first_line(line: Line) -> None:
    """It is announced before that has any effect, once, under the name that was taken before; to others alone."""
    desk, ann = with_program()
    bob = desk.join(2)
    for naming in NAMING:
        desk.hear(bob, naming)
        assert heard(ann) == []
    desk.hear(bob, "/nick bob", line, "then")
    joined, *events = heard(ann)
    assert joined == Joined("bob")
    assert events[-1] == Message("bob", "then")
    assert not [event for event in events if isinstance(event, Joined | Renamed)]
    desk.hear(bob, "/nick cid")
    desk.room.announce_due(math.inf)
    assert heard(ann) == [Renamed("bob", "cid")]
    assert b"joined" not in bob.received


def test_a_join_waits_a_moment() -> None:
    """For a second, not less and hardly more; several that join together are one batch, in their order."""
    with clock_at(98.0) as clock:
        desk, ann = with_program(announce=True)
        room, batches = desk.room, list[object]()
        room.announce_due(99.5)
        clock.now = 100.0
        bob = desk.join(2)
        clock.now += 0.5
        cid, dan = desk.join(3), desk.join(4)
        clock.now += 0.03
        eve = desk.join(5)
    desk.hear(bob, "/nick bob")
    desk.hear(cid, "hi")
    assert heard(ann) == [Joined("3"), Message("3", "hi")]
    assert room.next_due == 101.05
    room.announce_due(100.99)
    assert heard(ann) == []
    room.announce_due(101.05)
    assert (heard(ann), room.next_due) == ([Joined("bob")], 101.55)
    room.add_inbox(batches.append)
    room.announce_due(101.55)
    assert (heard(ann), room.next_due, len(batches)) == ([Joined("4"), Joined("5")], math.inf, 1)
    assert [seat.received.count(b"joined") for seat in (bob, cid, dan, eve)] == [3, 3, 3, 3]


@pytest.mark.parametrize("lines", [[], ["/nick ada"], ["exit"], [" exit\t", "hi"], [HTTP, "hi"], ["/nick ada", "exit"]])
def test_a_probe_is_not_announced(lines: list[Line]) -> None:
    """A peer that is gone, or ends, without a line of its own neither comes nor goes."""
    desk, ann = with_program(announce=True)
    probe = desk.join(2)
    desk.hear(probe, *lines, end="end of stream")
    assert probe.left
    desk.room.announce_due(math.inf)
    assert heard(ann) == []
    assert desk.room.next_due == math.inf


def test_a_removed_member_that_said_nothing_is_not_announced() -> None:
    """Nor one whose hook failed on its name; one that spoke is."""
    desk, ann = with_program()
    bob, cid = desk.join(2), desk.join(3)
    desk.hear(cid, "hi")
    for seat in (bob, cid):
        desk.room.remove(seat.member, Error("enough", "removed"), "removed: enough")
    assert heard(ann) == [Joined("3"), Message("3", "hi"), Left("3")]


def test_a_name_that_is_refused_because_it_is_taken_tells_of_its_member() -> None:
    """A client that waits for its name must hear when that is free."""
    desk, ann = with_program()
    bob = desk.join(2)
    desk.hear(bob, "/nick bob")
    desk.hear(ann, "/nick BOB")
    desk.hear(bob, "exit")
    assert heard(ann) == [Joined("bob"), Error("the name BOB is taken", "name_taken"), Left("bob")]


def test_five_hundred_joiners_with_names_are_five_hundred_lines() -> None:
    """Not twice as many: nobody is announced under its port."""
    desk, ann = with_program()
    seats = [desk.join(port) for port in range(2, 502)]
    desk.room.receive([Received(seat.member, [f"/nick n{number}"]) for number, seat in enumerate(seats)])
    desk.room.receive([Received(seat.member, ["/json"]) for seat in seats])
    assert heard(ann) == [Joined(f"n{number}") for number in range(500)]


def test_nothing_is_left_of_members_that_came_and_went() -> None:
    """After the time of the last one; of those that went, nothing at once."""
    arrivals, members = Arrivals(), [Member(str(number), ("", number)) for number in range(10)]
    for number, member in enumerate(members):
        arrivals.add(member, number)
    assert [arrivals.remove(member) for member in (*members[:5], *members[:5])] == [True] * 5 + [False] * 5
    assert [each for member in members[:5] for each in gc.get_referrers(member) if isinstance(each, dict)] == []
    assert arrivals.next_due == WAIT_SECONDS + GROUP_SECONDS
    assert arrivals.due(5 + WAIT_SECONDS) == members[5:6]
    assert arrivals.due(9 + WAIT_SECONDS) == members[6:]
    assert not any(member in arrivals for member in members)
    assert arrivals.due(math.inf) == []


def test_a_place_that_was_taken_holds_nobody_up() -> None:
    """A member that waits without a time, until it is gone, is no reason for later ones to wait longer."""
    arrivals, (old, new, later) = Arrivals(), (Member(name, ("", 1)) for name in "abc")
    arrivals.add(new, 0)
    arrivals.replace(new, old)
    arrivals.add(later, 0.5)
    assert arrivals.due(10) == [later]
    assert (old in arrivals, new in arrivals, arrivals.next_due) == (True, False, math.inf)


steps = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["join", "hi", "/nick ada", "/nick bob", "/json", "exit", "end", "kick", "moment", "second"]),
)


@given(st.lists(steps, max_size=40))
def test_what_a_program_hears_of_others(script: list[tuple[int, str]]) -> None:
    """Each that spoke or stayed came once, before its first word, and went once; of the others it hears nothing."""
    with clock_at(0.0) as clock:
        desk, ann = with_program()
        seats, spoke, joined_at, known = dict[int, Seat](), set[Seat](), dict[Seat, float](), dict[str, Seat]()
        for who, what in script:
            seat = seats.get(who)
            if what in ("moment", "second"):
                clock.now += 0.3 if what == "moment" else 1
                desk.room.announce_due(clock.now)
            elif what == "join" and not seat:
                seat = seats[who] = desk.join(who + 2)
                joined_at[seat] = clock.now
            elif what == "kick" and seat:
                desk.room.remove(seat.member, Error("x", "removed"), "removed: x")
            elif what == "end" and seat:
                desk.hear(seat, end="end of stream")
            elif what != "join" and seat:
                desk.hear(seat, what)
                spoke |= {seat} if what in ("hi", "/json") else set()
            learn(heard(ann), known, seats)
            there = {each for each in seats.values() if not each.left}
            must = {each for each in there if each in spoke or joined_at[each] + WAIT_SECONDS <= clock.now}
            assert must <= set(known.values()) <= there
            seats = {number: each for number, each in seats.items() if each in there}


def learn(events: list[Event], known: dict[str, Seat], seats: dict[int, Seat]) -> None:
    """Apply events to the members that a program knows."""
    for event in events:
        match event:
            case Joined(name=name):
                assert name not in known
                known[name] = next(each for each in seats.values() if each.member.name == name)
            case Renamed(old=old, name=name):
                known[name] = known.pop(old)
            case Left(name=name):
                del known[name]
            case Message(sender=name):
                assert name in known


def test_the_clock_is_that_of_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting the time of day changes nothing."""
    monkeypatch.setattr("chatkit.room.turn.time", SimpleNamespace(time=lambda: 1e12, monotonic=lambda: 5.0))
    desk = Desk(Room())
    desk.join(1)
    assert desk.room.next_due == 5.0 + WAIT_SECONDS + GROUP_SECONDS
