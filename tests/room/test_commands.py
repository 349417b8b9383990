"""Commands of members, in text and in JSON, without a socket."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import (
    Action,
    Error,
    Event,
    Gap,
    Joined,
    Left,
    Limits,
    Member,
    MemberInfo,
    Members,
    Message,
    Notice,
    Private,
    Renamed,
    Welcome,
)
from chatkit.protocol import names
from chatkit.protocol.formats import parse_json
from chatkit.protocol.lines import BadLine, Line
from chatkit.protocol.names import RULE
from chatkit.protocol.text import parse_text
from chatkit.room.batch import Received
from chatkit.room.commands import COMMANDS
from chatkit.room.room import Room
from tests.helpers.desks import Desk, Seat


def heard(seat: Seat) -> list[Event]:
    """Return the events delivered since the last call, without times."""
    *lines, rest = seat.received.decode().split("\n")
    assert not rest
    seat.received = b""
    events = [parse_json(line) if line.startswith("{") else parse_text(line) for line in lines]
    return [timeless(event) for event in events if event]


def timeless(event: Event) -> Event:
    if isinstance(event, Welcome):
        return replace(event, epoch="")
    return replace(event, time=None) if isinstance(event, Message | Private) else event


def as_text(event: Event) -> Event:
    """Return the event as a reader of plain text knows it."""
    return parse_text(str(event))


def table(room: Room | None = None, *, programs: str = "", seats: int = 3) -> tuple[Desk, list[Seat]]:
    """Members `1`, `2` and so on, those of `programs` in JSON, that know each other and have heard nothing yet."""
    desk = Desk(room or Room())
    there = [desk.join(port) for port in range(1, seats + 1)]
    desk.room.announce_due(math.inf)
    for seat in there:
        if seat.member.name in programs:
            desk.hear(seat, "/json")
    for seat in there:
        heard(seat)
    return desk, there


MISUSED = ["/nick", "/nick  ", "/me", "/me   ", "/msg", "/msg bob", "/msg bob  ", "/say", "/say \t"]
MISUSED += ["/json x", "/json -1", "/json 1 2", f"/json {'1' * 19}", "/json \u0663"]
MISUSED += [
    f"/json {words}" for words in ("echo echo", "ECHO", "5echo", "echo 5", "5 echo 5", "5 0123456789abcdefecho")
]
UNKNOWN = {"/": "", "/shrug it": "shrug", "/WHO": "WHO", f"/{'x' * 32}": "x" * 32, f"/{'y' * 33}": "y" * 32 + "…"}
NOBODY = Error("nobody here has that name (try /who)", "no_such_member")
BAD: list[tuple[Line, Error]] = [
    *[(line, Error(f"usage: {COMMANDS[line[1:].split()[0]].usage}", "bad_usage")) for line in MISUSED],
    *[(line, Error(f"unknown command /{word} (try /help)", "unknown_command")) for line, word in UNKNOWN.items()],
    *[(line, Error(RULE, "bad_name")) for line in ("/nick a b", "/nick 2", "/nick b\u200dob")],
    *[(line, NOBODY) for line in ("/msg eve hi", "/msg 2 hi", "/msg eve")],
    ("/nick BOB", Error("the name BOB is taken", "name_taken")),
    (BadLine("not_utf8", "not valid UTF-8"), Error("not sent: not valid UTF-8", "not_utf8")),
    (BadLine("too_long", "longer than 9 bytes"), Error("not sent: longer than 9 bytes", "too_long")),
]


@pytest.mark.parametrize("programs", ["", "13"])
@pytest.mark.parametrize(("line", "error"), BAD)
def test_bad_input(line: Line, error: Error, programs: str) -> None:
    """It brings its sender one error, nobody else anything, and changes nothing."""
    desk, (ann, bob, cid) = table(Room(announce=True), programs=programs)
    desk.hear(bob, "/nick bob")
    for seat in (ann, bob, cid):
        heard(seat)
    desk.hear(ann, line)
    assert (bob.received, cid.received, desk.room.newest_id) == (b"", b"", 0)
    assert programs or ann.received == f"*** {error.text}\n".encode()
    assert heard(ann) == [error if programs else Notice(error.text)]
    desk.hear(ann, "fine")
    assert heard(cid) == [Message("1", "fine", 1 if programs else None)]
    assert ann.member.json == bool(programs)


@pytest.mark.parametrize("programs", ["", "1"])
def test_help(programs: str) -> None:
    """It lists every command with its usage and its effect, to its sender alone."""
    desk, (ann, bob, _) = table(programs=programs)
    desk.hear(ann, "/help")
    lines = [" ".join(event.text.split()) for event in heard(ann) if isinstance(event, Notice)]
    wanted = [f"{command.usage} {command.does}" for command in COMMANDS.values()]
    assert lines == [*wanted, "//TEXT say /TEXT", "exit leave"]
    assert all(command.usage.split()[0] == f"/{name}" for name, command in COMMANDS.items())
    assert bob.received == b""


def test_slash_who_tells_the_names() -> None:
    """The member that has its name the longest comes first; a name changed, a member gone are gone from the list."""
    desk, (ann, bob, cid) = table()
    desk.hear(cid, "/who")
    desk.hear(ann, "/nick ada")
    desk.hear(cid, "/who", "/who me")
    desk.hear(bob, "exit")
    desk.hear(cid, "/who")
    answers = ["3 here: 1, 2, 3", *["3 here: 2, 3, ada"] * 2, "2 here: 3, ada"]
    assert heard(cid) == [Notice(answer) for answer in answers]
    assert b"here" not in ann.received


@pytest.mark.parametrize(("number", "more"), [(100, ""), (101, " and 1 more"), (103, " and 3 more")])
def test_slash_who_shows_a_hundred_names(number: int, more: str) -> None:
    """The others are only counted."""
    desk, seats = table(seats=number)
    desk.hear(seats[-1], "/who")
    names = ", ".join(str(port) for port in range(1, 101))
    assert heard(seats[-1]) == [Notice(f"{number} here: {names}{more}")]


@pytest.mark.parametrize("announce", [False, True])
def test_nick(announce: bool) -> None:
    """The member is told, programs always, others if the room announces; its messages carry the new name."""
    desk, (ann, bob, cid) = table(Room(announce=announce), programs="3")
    desk.hear(ann, "old", "/nick  ada ", "new", "/nick ada")
    assert heard(ann) == [Notice("you are now ada")] * 2
    renamed = [Notice("1 is now ada")] if announce else []
    assert heard(bob) == [Message("1", "old"), *renamed, Message("ada", "new")]
    assert heard(cid) == [Message("1", "old", 1), Renamed("1", "ada"), Message("ada", "new", 2)]
    desk.hear(cid, "/nick Cid", "/nick cid")
    assert heard(cid) == [Renamed("3", "Cid"), Renamed("Cid", "cid")]
    assert heard(bob) == ([Notice("3 is now Cid"), Notice("Cid is now cid")] if announce else [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/me waves", Action("1", "waves", 1)),
        ("/me  waves: twice ", Action("1", " waves: twice ", 1)),
        ("/say exit", Message("1", "exit", 1)),
        ("/say /who", Message("1", "/who", 1)),
        ("/say //who", Message("1", "//who", 1)),
        ("//who", Message("1", "/who", 1)),
        ("///me", Message("1", "//me", 1)),
        ("//", Message("1", "/", 1)),
        (" /who", Message("1", " /who", 1)),
        ("exit now", Message("1", "exit now", 1)),
    ],
)
def test_ways_to_say_something(line: str, said: Message) -> None:
    """Each is one message to everyone else, with an id, and its sender stays."""
    desk, (ann, bob, cid) = table(programs="3")
    desk.hear(ann, line)
    assert (heard(ann), heard(bob), heard(cid)) == ([], [as_text(said)], [said])
    assert (ann.left, desk.room.newest_id) == (None, 1)


@pytest.mark.parametrize("programs", ["", "2"])
def test_msg_reaches_one_member_alone(programs: str) -> None:
    """In order with what was said before and after; by its name in any case, on any desk; it takes no id."""
    desk, (ann, bob, cid) = table(programs=programs)
    there = Desk(desk.room)
    dan = there.join(4)
    desk.hear(bob, "/nick Bob")
    there.hear(dan, "/nick Дан")
    heard(bob), heard(dan)
    desk.hear(ann, "a", "/msg bOB psst: you", "b", "/msg дан hey", "/msg 1  me ", "c")
    public = [Message("1", text, number if programs else None) for number, text in enumerate("abc", 1)]
    assert heard(bob) == [public[0], Private("1", "psst: you"), *public[1:]]
    assert heard(dan) == [Message("1", "a"), Message("1", "b"), Private("1", "hey"), Message("1", "c")]
    assert heard(cid) == [Message("1", text) for text in "abc"]
    assert heard(ann) == [Private("1", " me ")]


def test_json_in_the_middle_of_a_turn() -> None:
    """Earlier lines are text, then comes the welcome, then JSON: nothing is missing or doubled; others don't notice."""
    desk, (ann, bob, cid) = table()
    bobs = [Received(bob.member, [*lines]) for lines in (["mine", "/msg 2 x", "/json", "/msg 2 y"], ["c", "/json"])]
    desk.room.receive([Received(ann.member, ["a"]), bobs[0], Received(ann.member, ["b"]), bobs[1]])
    assert bob.received.decode().split("\n")[:2] == ["1: a", "2 (private): x"]
    before = [Message("1", "a"), Private("2", "x"), Welcome("2", 2, "")]
    twice = Error("you already receive JSON", "already_json")
    assert heard(bob) == [*before, Private("2", "y"), Message("1", "b", 3), twice]
    assert ann.received == b"2: mine\n2: c\n"
    assert cid.received == b"1: a\n2: mine\n1: b\n2: c\n"


@pytest.mark.parametrize(
    ("after", "missing", "first"),
    [("", 0, 6), ("5", 0, 6), ("4", 0, 5), ("2", 0, 3), ("1", 1, 3), ("0", 2, 3), ("6", 0, 6), ("9" * 18, 0, 6)],
)
def test_json_with_after(after: str, missing: int, first: int) -> None:
    """First the welcome, then how many messages are no longer kept, then those that are, then what comes next."""
    desk, (ann, bob, cid) = table(Room(limits=Limits(history_size=3)))
    desk.hear(ann, *"abc", "/nick ada", "/msg 3 not kept", "/me d")
    desk.room.receive(
        [Received(bob.member, ["e"]), Received(cid.member, [f"/json {after}"]), Received(ann.member, ["f"])]
    )
    kept = [Message("1", "c", 3), Action("ada", "d", 4), Message("2", "e", 5), Message("ada", "f", 6)]
    events = heard(cid)
    welcome = events.index(Welcome("3", 5, ""))
    assert events[welcome + 1 :] == [*[Gap(missing) for _ in range(bool(missing))], *kept[first - 3 :]]
    before = [Message("1", "c"), Private("ada", "not kept"), Action("ada", "d"), Message("2", "e")]
    assert events[:welcome] == [Message("1", "a"), Message("1", "b"), *before]


@pytest.mark.parametrize("opening", ["/json echo", "/json 0 echo", "/json  echo ", "/json 9 0123456789abcdef echo"])
def test_json_echo(opening: str) -> None:
    """From there on the member's own messages come back, marked, in their place between those of the others."""
    handler = Handler(lambda seen: replace(seen, text=seen.text.upper()) if seen.text == "shout" else seen)
    handler.on_rename = lambda member, old_name: None  # type: ignore[method-assign]
    desk, (ann, bob, cid) = table(Room(handler, announce=True), programs="3")
    desk.hear(ann, "before")
    anns: list[list[Line]] = [["early", opening, "a"], ["shout", "/me waves", "/msg 1 psst", "/nope", "/nick ada", "c"]]
    bobs = Received(bob.member, ["b"])
    desk.room.receive([Received(ann.member, anns[0]), bobs, Received(ann.member, anns[1]), bobs])
    events = heard(ann)
    assert events[0] == Welcome("1", 2, ""), "nothing of its own as text"
    own = [Message("1", "a", 3, own=True), Message("1", "SHOUT", 5, own=True), Action("1", "waves", 6, own=True)]
    replayed = [Message("1", "before", 1), Message("1", "early", 2)] if opening[6:7] in "09" else []
    told = [Private("1", "psst"), Error("unknown command /nope (try /help)", "unknown_command"), Renamed("1", "ada")]
    last = [Message("ada", "c", 7, own=True), Message("2", "b", 8)]
    assert events[1:] == [*replayed, own[0], Message("2", "b", 4), *own[1:], *told, *last]
    assert [event.text for event in heard(bob) if isinstance(event, Message)] == [
        *("before", "early", "a", "SHOUT", "waves", "c")
    ]
    assert all(not event.own for event in heard(cid) if isinstance(event, Message))


def test_two_members_with_echo() -> None:
    """Each has its own messages marked, and not the other's; another switch changes nothing."""
    desk, (ann, bob, _) = table()
    for seat in (ann, bob):
        desk.hear(seat, "/json echo")
    desk.hear(ann, "/json", "x")
    heard(ann), heard(bob)
    desk.room.receive([Received(seat.member, [text]) for seat, text in ((ann, "a"), (bob, "b"), (bob, "c"))])
    for seat in (ann, bob):
        events = [event for event in heard(seat) if isinstance(event, Message)]
        assert [event.text for event in events] == ["a", "b", "c"]
        assert [event.own for event in events] == [event.sender == seat.member.name for event in events]


@pytest.mark.parametrize("announce", [False, True])
def test_joining_and_leaving(announce: bool) -> None:
    """Programs hear of it always, others when the room announces; nobody hears of itself, nor of everyone's end."""
    desk, (ann, bob, cid) = table(Room(announce=announce), programs="2")
    dan = desk.join(4)
    desk.room.announce_due(math.inf)
    desk.hear(dan, "/nick dan", "/json", "exit")
    desk.room.remove(cid.member, Error("enough", "removed"), "removed")
    eve = Desk(desk.room).join(5)
    desk.room.announce_due(math.inf)
    desk.room.receive([Received(seat.member, [], "shutdown") for seat in (ann, bob, eve)])
    events: list[Event] = [Joined("4"), Renamed("4", "dan"), Left("dan"), Left("3"), Joined("5")]
    told = [as_text(event) for event in events] if announce else []
    assert heard(bob) == events
    assert heard(ann) == told
    assert heard(dan) == [Notice("you are now dan"), Welcome("dan", 0, "")]
    assert heard(cid) == [*told[:3], Notice("enough")]
    assert (heard(eve), ann.left, dan.left, cid.left) == ([], "shutdown", "exit", "removed")


def test_too_many_questions_in_one_turn() -> None:
    """Each member gets 16 long answers, then errors; other commands go on, and the next turn answers again."""
    desk, (ann, bob, _) = table(programs="1")
    who = Members(tuple(MemberInfo(str(number), number) for number in (1, 2, 3)), more=False)
    too_many = Error("one question at a time", "too_many")
    anns = [
        Received(ann.member, list(lines)) for lines in (["/who"] * 15, ["/who"] * 2, ["/help", "/me asks", "/msg 1 x"])
    ]
    desk.room.receive([anns[0], Received(bob.member, ["/who"]), *anns[1:]])
    assert heard(ann) == [*[who] * 16, too_many, too_many, Private("1", "x")]
    assert heard(bob) == [Notice("3 here: 1, 2, 3"), Action("1", "asks")]
    desk.hear(ann, "/who")
    assert heard(ann) == [who]


@pytest.mark.parametrize("line", ["/nick ada", "/me x", "/say x", "/msg 2 x", "//x", "/json", "/who", "/help", "/x"])
def test_commands_after_exit_do_nothing(line: str) -> None:
    """Neither in the lines that came with it nor later in the turn; the member gets no answer."""
    desk, (ann, bob, cid) = table(programs="3")
    desk.room.receive(
        [Received(ann.member, ["exit", line]), Received(ann.member, [line]), Received(bob.member, ["end"])]
    )
    assert (heard(bob), heard(cid)) == ([], [Left("1"), Message("2", "end", 1)])
    assert (heard(ann), ann.member.json, ann.member.name) == ([Message("2", "end")], False, "1")


class Handler:
    """Keeps what its hooks saw; `answer` decides about messages and names."""

    def __init__(self, answer: Callable[[Any], Any] = lambda seen: seen) -> None:
        self.seen = list[Any]()
        self._answer = answer

    def on_message(self, message: Message) -> Any:
        self.seen.append(timeless(message))
        return self._answer(message)

    def on_rename(self, member: Member, old_name: str) -> None:
        self.seen.append((member.name, old_name))
        self._answer(member)


@pytest.mark.parametrize(
    ("answer", "passed"),
    [
        (lambda message: message, [Action("1", "waves", 1)]),
        (lambda message: None, []),
        (lambda message: replace(message, text="bows\n"), [Action("1", "bows␊", 1)]),
        (lambda message: Message("eve", "bows"), [Action("1", "bows", 1)]),
    ],
)
def test_on_message_decides_about_actions(answer: Callable[[Any], Any], passed: list[Event]) -> None:
    """It sees an `Action`, and may stop it or say it otherwise: it stays an action of its member."""
    handler = Handler(answer)
    desk, (ann, bob, cid) = table(Room(handler), programs="3")
    desk.hear(ann, "/me waves")
    assert handler.seen == [Action("1", "waves")]
    assert heard(cid) == passed
    assert heard(bob) == [as_text(event) for event in passed]
    assert desk.room.newest_id == len(passed)


def test_hooks_see_messages_and_names() -> None:
    """Messages, and each name that was really taken; no private message, no question, no mistake."""
    handler = Handler()
    desk, (ann, bob, _) = table(Room(handler))
    desk.hear(ann, "/nick ada", "/nick ada", "/nick 7", "/msg 2 psst", "/who", "/say x", "//y", "/nope", "/json")
    desk.hear(bob, "/nick ADA", "/nick bob")
    assert handler.seen == [("ada", "1"), Message("ada", "x"), Message("ada", "/y"), ("bob", "2")]
    assert Private("ada", "psst") in heard(bob)


def test_a_failing_on_rename_ends_one_conversation(caplog: pytest.LogCaptureFixture) -> None:
    """One traceback in the log; the member is told and leaves, its name is free, everyone else goes on."""
    failing = Handler(lambda seen: 1 / (seen.name != "ada") if isinstance(seen, Member) else seen)
    desk, (ann, bob, cid) = table(Room(failing), programs="13")
    with caplog.at_level(logging.ERROR, "chatkit"):
        desk.hear(ann, "/nick ada", "lost")
    assert [record.exc_info is not None for record in caplog.records] == [True]
    code, text = "handler_failed", "an error in the room's handler ended this conversation"
    assert (heard(ann), ann.left) == ([Renamed("1", "ada"), Error(text, code)], "handler error")
    desk.hear(bob, "/nick bob", "fine")
    assert heard(cid) == [Renamed("1", "ada"), Left("ada"), Renamed("2", "bob"), Message("bob", "fine", 1)]
    assert desk.room.roster.find("ada") is None


class Model:
    """The simplest room there could be: names, readers of JSON, messages, and a list of events for each member."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.programs: set[int] = set()
        self.hears: dict[int, list[Event]] = {}
        self.said = list[Message]()

    def tell(self, who: int, event: Event) -> None:
        self.hears[who].append(event if who in self.programs else as_text(event))

    def tell_all(self, event: Event, exclude: int) -> None:
        for who in self.names.keys() - {exclude}:
            if isinstance(event, Message) or who in self.programs:
                self.tell(who, event)

    def join(self, who: int) -> None:
        self.tell_all(Joined(str(who)), who)
        self.programs.discard(who)
        self.names[who], self.hears[who] = str(who), []

    def do(self, who: int, what: str, argument: str) -> None:
        name, found = self.names[who], {name.lower(): other for other, name in self.names.items()}.get(argument.lower())
        if what in ("/say", "/me"):
            self.said.append((Message if what == "/say" else Action)(name, argument, len(self.said) + 1))
            self.tell_all(self.said[-1], who)
        elif what == "/msg":
            self.tell(who if found is None else found, NOBODY if found is None else Private(name, "psst"))
        elif what == "/nick" and found in (None, who):
            self.names[who] = argument
            self.tell(who, Renamed(name, argument) if who in self.programs else Notice(f"you are now {argument}"))
            self.tell_all(Renamed(name, argument), who) if name != argument else None
        elif what == "/nick":
            self.tell(who, Error(f"the name {argument} is taken", "name_taken"))
        elif what == "/json" and who in self.programs:
            self.tell(who, Error("you already receive JSON", "already_json"))
        elif what == "/json":
            self.programs.add(who)
            self.hears[who] += [Welcome(name, len(self.said), ""), *(self.said if argument else [])]
        else:
            del self.names[who]
            self.tell_all(Left(name), who)


people = st.integers(0, 4)
words = st.sampled_from(["/say x", "/say exit", "/me x", "/json ", "/json 0", "exit "])
named = st.builds(
    "{} {}".format, st.sampled_from(["/nick", "/msg"]), st.sampled_from(["ada", "Ada", "bob", "zoë", "ZOË"])
)
turns = st.lists(st.tuples(people, words | named), max_size=8)


@given(st.lists(st.tuples(people, turns), max_size=8))
def test_model(script: list[tuple[int, list[tuple[int, str]]]]) -> None:
    """On two desks, in text and JSON, all hear one order without their own, from joining to leaving."""
    model, room, seats = Model(), Room(), dict[int, Seat]()
    desks = Desk(room), Desk(room)
    for newcomer, turn in script:
        if newcomer not in seats:
            seats[newcomer] = desks[newcomer % 2].join(newcomer)
            room.announce_due(math.inf)
            model.join(newcomer)
        arrivals = list[Received]()
        for who, line in turn:
            what, _, argument = line.partition(" ")
            if who in seats:
                arrivals.append(Received(seats[who].member, [line + " psst" if what == "/msg" else line]))
            if who in model.names:
                model.do(who, what, argument)
        room.receive(arrivals)
        for who, seat in seats.items():
            events, number = heard(seat), len(model.hears[who])
            assert (events if who in model.names else events[:number]) == model.hears[who]
        seats = {who: seats[who] for who in model.names}
        model.hears = {who: [] for who in model.names}
        assert {who: seat.member.name for who, seat in seats.items()} == model.names
    assert sorted(member.name for member in room.roster.members) == sorted(model.names.values())


@pytest.mark.parametrize("command", ["/msg {} hi", "/nick {}"])
def test_a_long_name_is_not_normalised(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """4080 combining marks in disorder would take seconds inside the room's lock: their name is nobody's."""
    normalised = list[str]()

    def normalize(form: str, text: str) -> str:
        normalised.append(text)
        return text

    fake = SimpleNamespace(normalize=normalize, name=unicodedata.name, category=unicodedata.category)
    desk = Desk(Room())
    ann = desk.join(1)
    monkeypatch.setattr(names, "unicodedata", fake)
    desk.hear(ann, command.format("x"), command.format("\u0301" * 2040 + "\u0323" * 2040))
    assert ann.received.startswith(b"*** ")
    assert ann.received.count(b"\n") == 2
    assert set(map(len, normalised)) == {1}
