"""The answer to `/who` in JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import MemberInfo, Members, Notice
from chatkit.protocol.formats import JSON, parse_json
from chatkit.room.batch import Received
from chatkit.room.listing import MEMBERS_PER_LINE, Listing
from chatkit.room.room import Room
from tests.helpers.desks import Desk, Seat
from tests.helpers.names import ALLOWED


def lists(data: bytes) -> list[Members]:
    """Return the lists among lines of JSON."""
    events = [parse_json(line) for line in data.decode().splitlines() if line.startswith("{")]
    return [event for event in events if isinstance(event, Members)]


def full(number: int) -> tuple[Desk, list[Seat]]:
    """A room of so many members, the last of which reads JSON."""
    desk = Desk(Room())
    seats = [desk.join(port) for port in range(1, number + 1)]
    desk.hear(seats[-1], "/json")
    return desk, seats


@pytest.mark.parametrize("number", [1, 2, 99, 100, 101, 200, 201, 1000])
def test_who_in_json(number: int) -> None:
    """All members with their numbers, a hundred a line until there are no more; the text stays as it was."""
    desk, seats = full(number)
    if number > 1:
        desk.hear(seats[0], "/nick ada", "/who")
    desk.hear(seats[-1], "/who")
    found = lists(seats[-1].received)
    assert [len(part.members) for part in found] == [100] * ((number - 1) // 100) + [(number - 1) % 100 + 1]
    assert [part.more for part in found] == [True] * (len(found) - 1) + [False]
    members = [member for part in found for member in part.members]
    assert members == [MemberInfo(each.name, each.id) for each in desk.room.roster.first(number)]
    assert number == 1 or members[-1] == MemberInfo("ada", 1)
    assert number == 1 or f"*** {number} here: ".encode() in seats[0].received


def test_a_list_is_of_one_moment() -> None:
    """That of the question: what happens before and after it in the same turn comes before and after all its lines."""
    desk, seats = full(250)
    ann, bob, cid = seats[-1], seats[0], seats[1]
    before = ann.received
    turns = [(bob, "/nick ada"), (bob, "a"), (ann, "/who"), (cid, "exit"), (bob, "/nick eve"), (bob, "b")]
    desk.room.receive([Received(seat.member, [line]) for seat, line in turns])
    kinds = [type(parse_json(line)).__name__ for line in ann.received[len(before) :].decode().splitlines()]
    assert kinds == ["Joined", "Message", *["Members"] * 3, "Renamed", "Message"]
    names = [member.name for part in lists(ann.received) for member in part.members]
    assert len(names) == 250
    assert {"ada", "2"} <= set(names)


def test_too_many_questions_in_json() -> None:
    """Sixteen lines in a turn, as in text, but at least one answer in full."""
    for number, answers in ((50, 16), (150, 8), (450, 4), (2000, 1)):
        desk, seats = full(number)
        for turn in (1, 2):
            desk.hear(seats[-1], *["/who"] * 17)
            assert len(lists(seats[-1].received)) == turn * answers * (number // 100 + (number % 100 > 0))
            assert seats[-1].received.count(b'"too_many"') == turn * (17 - answers)


@given(st.lists(st.sampled_from(sorted(ALLOWED.values())), max_size=20), st.integers(0, 250))
def test_the_size_is_known_before(names: list[str], number: int) -> None:
    """Of each line, and of all that are left; whatever the members are called."""
    desk = Desk(Room())
    seats = [desk.join(port) for port in range(1, number + 2)]
    for seat, name in zip(seats, names, strict=False):
        desk.hear(seat, f"/nick {name}")
    listing = Listing(seats[0].member, *desk.room.roster.listed())
    whole, left = Listing(seats[0].member, *desk.room.roster.listed()).take_all(), len(listing)
    assert left == len(whole)
    taken = list[bytes]()
    for lines in range(listing.lines, 0, -1):
        assert listing.lines == lines
        taken.append(listing.take())
        left -= len(taken[-1])
        assert len(listing) == left
    assert (b"".join(taken), listing.lines, left) == (whole, 0, 0)
    events = [parse_json(line.decode()) for line in taken]
    assert [JSON.encode(event) for event in events] == taken
    assert all(len(event.members) <= MEMBERS_PER_LINE for event in events if isinstance(event, Members))


def test_members_in_words() -> None:
    """As a line of text says it."""
    ada, bob = MemberInfo("ada", 1), MemberInfo("51044", 2)
    assert str(Members((ada, bob), more=False)) == str(Notice("2 here: ada, 51044"))
    assert Members((ada,), more=True).text == "1 here: ada and more"
