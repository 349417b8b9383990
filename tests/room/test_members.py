"""Members and their names."""

from __future__ import annotations

import gc
import re
import time
import tracemalloc
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import Limits, Member, NameTaken
from chatkit.errors import JoinRefused
from chatkit.net.sockets import two_tuple
from chatkit.protocol.names import RULE, name_key
from chatkit.room.members import Roster
from tests.helpers.inside import places
from tests.helpers.names import ALLOWED, REFUSED, SAME_BUT_FOR_CASE, anything, passes


def added(roster: Roster, address: tuple[str, int]) -> Member:
    roster.reserve(address)
    return roster.add(address)


def test_names_that_may_be_taken() -> None:
    """A member that takes a name is found by it."""
    for name in ALLOWED.values():
        roster = Roster(Limits())
        ann = added(roster, ("", 1))
        roster.rename(ann, name)
        assert (ann.name, roster.find(name)) == (name, ann)


def test_names_that_may_not_be_taken() -> None:
    """They are refused in the words of the rule, and nothing changes."""
    for name in REFUSED.values():
        roster = Roster(Limits())
        ann = added(roster, ("", 1))
        with pytest.raises(ValueError, match=re.escape(RULE)):
            roster.rename(ann, name)
        assert (ann.name, roster.find("1"), roster.members) == ("1", ann, [ann])
        roster.remove(ann)
        assert len(roster) == 0


@pytest.mark.parametrize(("one", "other"), SAME_BUT_FOR_CASE)
def test_names_that_differ_in_case_are_one(one: str, other: str) -> None:
    """The second member doesn't get the name, and keeps its own."""
    roster = Roster(Limits())
    ann, bob = added(roster, ("", 1)), added(roster, ("", 2))
    roster.rename(ann, one)
    with pytest.raises(NameTaken, match=f"the name {other} is taken") as caught:
        roster.rename(bob, other)
    assert caught.value.name == other
    assert (ann.name, bob.name) == (one, "2")
    assert [roster.find(name) for name in (one, other, "2")] == [ann, ann, bob]
    assert set(roster.members) == {ann, bob}


@given(anything)
def test_a_member_is_found_by_its_name_and_its_key(name: str) -> None:
    """`find` accepts any valid name, and its key."""
    if not passes(name):
        return
    roster = Roster(Limits())
    ann = added(roster, ("", 1))
    roster.rename(ann, name)
    assert roster.find(name) is roster.find(name_key(name)) is ann


@pytest.mark.parametrize(("one", "other"), [("ada", "adah"), ("ada", "a-da"), ("ада", "ada"), ("Zoë", "Zoe")])
def test_names_that_differ_in_more_are_two(one: str, other: str) -> None:
    """Two members may have them at one time."""
    roster = Roster(Limits())
    ann, bob = added(roster, ("", 1)), added(roster, ("", 2))
    roster.rename(ann, one)
    roster.rename(bob, other)
    assert (roster.find(one), roster.find(other)) == (ann, bob)


def test_ones_own_name_in_another_case() -> None:
    """It may be taken, and again as it is; the member stays one member."""
    roster = Roster(Limits())
    ann, bob = added(roster, ("", 1)), added(roster, ("", 2))
    for name in ("Ada", "ada", "ada", "ADA"):
        roster.rename(ann, name)
        assert (ann.name, roster.find("aDa"), roster.find("1")) == (name, ann, None)
    assert sorted(member.name for member in roster.members) == ["2", "ADA"]
    assert roster.find("2") is bob


def test_a_name_is_free_at_once() -> None:
    """As soon as its member is gone or has another name, in whatever case."""
    roster = Roster(Limits())
    ann, bob, cid = (added(roster, ("", port)) for port in (1, 2, 3))
    roster.rename(ann, "Ada")
    roster.remove(ann)
    assert roster.find("ada") is None
    roster.rename(bob, "ADA")
    roster.rename(bob, "bob")
    roster.rename(cid, "ada")
    assert (roster.find("Ada"), roster.find("bob"), ann.present) == (cid, bob, False)


def test_places_of_an_address_are_given_back() -> None:
    """After its last member, and after a place that was given back."""
    roster = Roster(Limits())
    ann = added(roster, ("10.0.0.1", 1))
    roster.reserve(("10.0.0.2", 2))
    assert places(roster) == (1, {"10.0.0.1": 1, "10.0.0.2": 1})
    roster.release(("10.0.0.2", 2))
    roster.remove(ann)
    assert places(roster) == (0, {})


def test_a_port_is_free_when_its_member_has_a_name() -> None:
    """A second host's connection with that port is then named by the port alone, and nobody can go back to it."""
    roster = Roster(Limits())
    ann = added(roster, ("10.0.0.1", 7))
    roster.rename(ann, "ada")
    assert added(roster, ("10.0.0.2", 7)).name == "7"
    assert added(roster, ("10.0.0.3", 7)).name == "7-2"
    with pytest.raises(ValueError, match=re.escape(RULE)):
        roster.rename(ann, "7")


def test_members_of_one_address_share_its_text() -> None:
    """Each socket has an equal string of its own; the members have one."""
    roster = Roster(Limits())
    hosts = [f"2001:db8::{number % 2}" for number in range(1, 10, 2)]
    assert hosts[0] is not hosts[1]
    first, *others = (added(roster, two_tuple((host, port, 0, 0))) for port, host in enumerate(hosts, 1))
    assert all(other.address[0] is first.address[0] for other in others)
    assert others[0].address == ("2001:db8::1", 2)
    roster.remove(first)
    assert added(roster, ("2001:db8::1", 1)).address[0] is others[0].address[0]


def test_nothing_is_left_of_an_address() -> None:
    """However many addresses come and go, refused ones too; interned strings are never freed by Python 3.12."""
    roster = Roster(Limits(max_clients=2))
    standing = added(roster, ("10.0.0.1", 1))

    def come_and_go(numbers: range) -> None:
        for number in numbers:
            member = added(roster, two_tuple((f"2001:db8::{number:x}", 7, 0, 0)))
            with pytest.raises(JoinRefused):
                roster.reserve(two_tuple((f"::ffff:10.1.{number >> 8 & 255}.{number & 255}", 7, 0, 0)))
            roster.remove(member)
            roster.reserve(two_tuple((f"2001:db9::{number:x}", 7, 0, 0)))
            roster.release((f"2001:db9::{number:x}", 7))

    come_and_go(range(1000))
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        come_and_go(range(1000, 6000))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000  # 5000 strings of 64 bytes are 320,000
    assert places(roster) == (0, {"10.0.0.1": 1})
    assert roster.members == [standing]


def test_first_are_those_that_have_their_names_the_longest() -> None:
    """A new name puts its member last; a refused one doesn't."""
    roster = Roster(Limits())
    ann, bob, cid = (added(roster, ("", port)) for port in (1, 2, 3))
    roster.rename(ann, "ada")
    with pytest.raises(NameTaken):
        roster.rename(bob, "ADA")
    assert roster.first(2) == [bob, cid]
    assert roster.first(9) == [bob, cid, ann]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ada", "Ada", "ADA", "bob", "Bob", "eve", "2", "a b", ""])))
)
def test_model(script: list[tuple[int, str]]) -> None:
    """Against a plain dict of names: joins and renames; an empty name leaves."""
    roster, members = Roster(Limits()), dict[int, Member]()
    expected: dict[int, str] = {}
    for who, name in script:
        if who not in members:
            members[who] = added(roster, ("", who))
            expected[who] = str(who)
        elif not name:
            roster.remove(members.pop(who))
            del expected[who]
        else:
            taken = {other.lower() for port, other in expected.items() if port != who}
            refusal = ValueError if not name.isalpha() else NameTaken if name.lower() in taken else None
            with pytest.raises(refusal) if refusal else nullcontext():
                roster.rename(members[who], name)
            expected[who] = expected[who] if refusal else name
        assert {who: member.name for who, member in members.items()} == expected
        assert {member.name for member in roster.members} == set(expected.values())
        assert len(roster) == len(expected)
        assert all(roster.find(name.upper()) is members[who] for who, name in expected.items())


def test_thousands_with_one_port_are_named_quickly() -> None:
    """They are told apart by numbers; to find a free one takes about as long for the last as for the first."""
    seconds = {}
    for kind, ports in {"one": [7] * 5000, "different": range(1, 5001)}.items():
        roster, begun = Roster(Limits()), time.monotonic()
        members = [added(roster, (f"10.0.{number // 256}.{number % 256}", port)) for number, port in enumerate(ports)]
        seconds[kind] = time.monotonic() - begun
        assert len({member.name for member in members}) == 5000
    assert seconds["one"] < 10 * seconds["different"]
