"""The room without a socket: lists of lines in, batches out."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import Error, Limits, Member, Message, Notice
from chatkit.errors import JoinRefused
from chatkit.protocol.formats import TEXT
from chatkit.protocol.lines import BadLine
from chatkit.room.batch import Batch, Received, Subscribe
from chatkit.room.room import Room
from tests.helpers.desks import Desk, Seat
from tests.helpers.inside import before_waiting_for_room
from tests.helpers.marks import with_threads
from tests.helpers.peers import DEADLINE


def test_everyone_but_the_sender() -> None:
    """A line goes to all others, on every subscriber, and never back."""
    room = Room()
    here, there = Desk(room), Desk(room)
    ann, bob, cid = here.join(1), here.join(2), there.join(3)
    here.hear(ann, "Hi!", "again")
    assert (ann.received, bob.received, cid.received) == (b"", b"1: Hi!\n1: again\n", b"1: Hi!\n1: again\n")


def test_one_turn_is_one_batch() -> None:
    """The lines of several members in one turn are encoded once; each member gets all but its own."""
    room, batches = Room(), list[Any]()
    desk = Desk(room)
    ann, bob, cid = desk.join(1), desk.join(2), desk.join(3)
    room.add_inbox(batches.append)
    room.receive([Received(ann.member, ["a", "b"]), Received(bob.member, ["c"]), Received(ann.member, ["d"])])
    assert [batch.lines(TEXT).data for batch in batches] == [b"1: a\n1: b\n2: c\n1: d\n"]
    assert (ann.received, bob.received) == (b"2: c\n", b"1: a\n1: b\n1: d\n")
    assert cid.received == batches[0].lines(TEXT).data
    assert [message.text for message in batches[0].messages] == ["a", "b", "c", "d"]


def test_exit_and_empty_lines() -> None:
    """`exit`, trimmed, leaves; later lines are dropped; an empty line is nothing; white space is a message."""
    desk = Desk(Room())
    ann, bob = desk.join(1), desk.join(2)
    desk.hear(ann, "", " ", "not exit", " exit\t", "lost")
    assert bob.received == b"1:  \n1: not exit\n"
    assert ann.left == "exit"
    desk.hear(ann, "later")
    assert b"later" not in bob.received
    assert desk.room.roster.members == [bob.member]


def test_bad_lines_are_told_to_the_sender_alone() -> None:
    """Each bad line brings its sender one notice; its neighbours are messages."""
    desk = Desk(Room())
    ann, bob = desk.join(1), desk.join(2)
    desk.hear(ann, "a", BadLine("not_utf8", "not valid UTF-8"), BadLine("too_long", "longer than 8192 bytes"), "b")
    assert bob.received == b"1: a\n1: b\n"
    assert ann.received == b"*** not sent: not valid UTF-8\n*** not sent: longer than 8192 bytes\n"


def test_the_last_line_is_said_before_leaving() -> None:
    """Lines that come with the end are messages first."""
    desk = Desk(Room())
    ann, bob = desk.join(1), desk.join(2)
    desk.hear(ann, "bye", end="end of stream")
    assert (bob.received, ann.left) == (b"1: bye\n", "end of stream")


def test_names() -> None:
    """A member is named by its port; a second one with that port, from another host, gets a number; a name is freed."""
    desk = Desk(Room())
    seats = [desk.join(7, host) for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3")]
    assert [seat.member.name for seat in seats] == ["7", "7-2", "7-3"]
    desk.hear(seats[1], end="end of stream")
    assert desk.join(7, "10.0.0.4").member.name == "7-2"


def test_a_full_room_refuses() -> None:
    """One more than `max_clients` is refused and counted; a place freed is free at once."""
    desk = Desk(Room(limits=Limits(max_clients=1)))
    ann = desk.join(1)
    with pytest.raises(JoinRefused, match="the room is full"):
        desk.join(2)
    assert desk.room.roster.refused == {"full": 1}
    desk.hear(ann, "exit")
    assert desk.join(2).member.name == "2"


def test_newcomers_hear_only_later_messages() -> None:
    """Its `Subscribe` stands in the room's order: nothing said before it is for the newcomer."""
    room, order = Room(), list[Any]()
    room.add_inbox(order.append)
    desk = Desk(room)
    ann = desk.join(1)
    desk.hear(ann, "before")
    desk.join(2)
    desk.hear(ann, "after")
    said = [item.member.name if isinstance(item, Subscribe) else item.lines(TEXT).data for item in order]
    assert said == ["1", b"1: before\n", "2", b"1: after\n"]


def test_say_and_remove() -> None:
    """The room's own words are notices; a removed member is told why, and leaves."""
    desk = Desk(Room())
    ann, bob = desk.join(1), desk.join(2)
    desk.room.say(Notice("closing soon"))
    desk.room.remove(ann.member, Error("enough", "removed"), "removed: enough")
    assert ann.received == b"*** closing soon\n*** enough\n"
    assert (ann.left, bob.left) == ("removed: enough", None)
    desk.room.remove(ann.member, Notice("twice"), "twice")
    assert desk.room.roster.members == [bob.member]


class Hooks:
    """A handler made of one function: hooks(name, *arguments)."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.on_join = lambda member: hook("join", member.name)
        self.on_message = lambda message: hook("message", message)
        self.on_rename = lambda member, old_name: hook("rename", member.name, old_name)
        self.on_leave = lambda member, reason: hook("leave", member.name, reason)


def test_hooks_see_everything_in_order() -> None:
    """Joins, messages with ids from 1, leaves: in the room's order."""
    seen = list[Any]()

    def hook(name: str, *arguments: Any) -> Any:
        seen.append((name, *arguments))
        return arguments[0]

    desk = Desk(Room(Hooks(hook)))
    ann = desk.join(1)
    desk.hear(ann, "a", "b", "exit")
    messages = [entry[1] for entry in seen if entry[0] == "message"]
    assert [entry[0] for entry in seen] == ["join", "message", "message", "leave"]
    assert [(message.sender, message.text, message.id) for message in messages] == [("1", "a", 1), ("1", "b", 2)]
    assert messages[0].time == pytest.approx(messages[1].time)
    assert seen[-1] == ("leave", "1", "exit")


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        (lambda message: message, b"1: Hi\n"),
        (lambda message: None, b""),
        (lambda message: dataclasses.replace(message, text="HO\nHO"), "1: HO␊HO\n".encode()),
        (lambda message: dataclasses.replace(message, text=""), b""),
    ],
)
def test_on_message_decides(answer: Callable[[Message], Any], received: bytes) -> None:
    """A message passes as the handler returns it, made clean, or not at all; a refused one takes no id."""
    desk = Desk(Room(type("Handler", (), {"on_message": staticmethod(answer)})()))
    ann, bob = desk.join(1), desk.join(2)
    desk.hear(ann, "Hi")
    assert bob.received == received
    assert desk.room.newest_id == bool(received)


@pytest.mark.parametrize(
    "error", [RuntimeError("of the test"), SystemExit(1), asyncio.CancelledError(), GeneratorExit()]
)
@pytest.mark.parametrize("failing", ["join", "message", "rename", "leave", "type"])
def test_a_failing_hook_ends_one_conversation(
    failing: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """One traceback in the log, one conversation over, everyone else untouched, whatever the hook raises."""

    def hook(name: str, *arguments: Any) -> Any:
        first = arguments[0].sender if name == "message" else arguments[0]
        if first in ("1", "ann") and name == failing:
            raise error
        return "no message" if first == "1" and failing == "type" else arguments[0]

    desk = Desk(Room(Hooks(hook)))
    bob, cid = desk.join(2), desk.join(3)
    with caplog.at_level(logging.ERROR, "chatkit"):
        if failing == "join":
            with pytest.raises(JoinRefused, match="handler"):
                desk.join(1)
            assert desk.room.roster.refused == {"handler": 1}
        else:
            ann = desk.join(1)
            desk.hear(ann, "Hi", "/nick ann", "exit")
            assert ann.left == ("exit" if failing == "leave" else "handler error")
    desk.hear(bob, "fine")
    assert cid.received.endswith(b"2: fine\n")
    assert [record.exc_info is not None for record in caplog.records] == [True]
    called, name = "message" if failing == "type" else failing, "ann" if failing in ("rename", "leave") else "1"
    assert caplog.records[0].getMessage() == f"the hook on_{called} failed for {name}"


def steps() -> st.SearchStrategy[list[tuple[str, int, int]]]:
    """Make scripts of (event, member, number of lines): joins, turns of several members, leaves."""
    return st.lists(st.tuples(st.sampled_from(["join", "say", "exit", "eof"]), st.integers(0, 5), st.integers(0, 3)))


@given(steps(), st.integers(1, 3))
def test_model(script: list[tuple[str, int, int]], workers: int) -> None:
    """Against the simplest room there could be: a list of names, and a list of lines for each."""
    room = Room()
    desks = [Desk(room) for _ in range(workers)]
    seats: dict[int, Seat] = {}
    heard: dict[int, list[str]] = {}
    for number, (what, who, many) in enumerate(script):
        if what == "join" and who not in seats:
            seats[who] = desks[who % workers].join(who)
            heard[who] = []
        elif what != "join" and who in seats:
            lines = [f"{number}.{n}" for n in range(many)]
            end = "end of stream" if what == "eof" else None
            desks[0].hear(seats[who], *lines, *(["exit"] if what == "exit" else []), end=end)
            for other in heard.keys() - {who}:
                heard[other] += [f"{who}: {line}\n" for line in lines]
            if what != "say":
                assert seats.pop(who).left is not None
                del heard[who]
        assert {who: seat.received.decode() for who, seat in seats.items()} == {
            who: "".join(lines) for who, lines in heard.items()
        }
        assert sorted(member.name for member in room.roster.members) == sorted(map(str, seats))


@with_threads
def test_hooks_are_called_one_at_a_time() -> None:
    """While a hook runs, the lines of another thread wait for the room."""
    happened, free = SimpleQueue[str](), threading.Event()

    def on_message(message: Message) -> Message:
        happened.put(message.text)
        assert message.text == "second" or free.wait(DEADLINE)
        return message

    desk = Desk(Room(type("Handler", (), {"on_message": staticmethod(on_message)})()))
    seats = {"first": desk.join(1), "second": desk.join(2)}
    before_waiting_for_room(desk.room, lambda: happened.put("waits"))
    threads = list[threading.Thread]()
    for text, expected in (("first", "first"), ("second", "waits")):
        threads.append(threading.Thread(target=desk.hear, args=(seats[text], text), daemon=True))
        threads[-1].start()
        assert happened.get(timeout=DEADLINE) == expected
    free.set()
    assert happened.get(timeout=DEADLINE) == "second"
    for thread in threads:
        thread.join()


@with_threads
@pytest.mark.stress
def test_threads_agree_on_one_order() -> None:
    """Four threads publish at once: both subscribers get equal batches in the same order, no line lost or doubled."""
    room, one, two = Room(), list[Any](), list[Any]()
    room.add_inbox(one.append)
    room.add_inbox(two.append)
    members: list[Member] = []
    for port in range(4):
        room.reserve(("127.0.0.1", port))
        room.join(("127.0.0.1", port), members.append)

    def publish(member: Member) -> None:
        for number in range(200):
            room.receive([Received(member, [str(number)])])

    threads = [threading.Thread(target=publish, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one == two
    batches = [item for item in one if isinstance(item, Batch)]
    for member in members:
        mine = [batch.lines(TEXT).data for batch in batches if member in batch.lines(TEXT).edits]
        assert mine == [f"{member.name}: {number}\n".encode() for number in range(200)]
    assert room.newest_id == 800
