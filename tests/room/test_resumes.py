"""A member that comes back to its own place, while its old connection hangs and after its loss; without a socket."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import Handler, Joined, Limits, Member, Message, Notice, Welcome
from chatkit.errors import JoinRefused
from chatkit.protocol.formats import parse_json
from chatkit.protocol.lines import Line
from chatkit.protocol.replies import HANDLER_FAILED, RESUME_EARLY, RESUME_UNKNOWN, RESUMED, TAKEN_OVER
from chatkit.protocol.text import parse_text
from chatkit.room import guesses, resumes
from chatkit.room.batch import Received
from chatkit.room.room import Room
from tests.helpers.desks import Desk, Seat
from tests.helpers.inside import known_tokens, places

WRONG = "0" * 32


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, set by hand."""
    hands = SimpleNamespace(now=1000.0)
    hands.monotonic = lambda: hands.now
    for module in (guesses, resumes):
        monkeypatch.setattr(module, "time", hands)
    return hands


def taken(seat: Seat) -> list[str]:
    """Return the lines since the last call."""
    *lines, rest = seat.received.decode().split("\n")
    assert not rest
    seat.received = b""
    return lines


def texts(seat: Seat) -> list[str]:
    """Return the lines since the last call, as plain text has them."""
    return [str(parse_json(line) if line.startswith("{") else parse_text(line)) for line in taken(seat)]


def token_of(seat: Seat) -> str:
    """Return the token in the welcome since the last call."""
    (welcome,) = [json.loads(line) for line in taken(seat) if line.startswith('{"type":"welcome"')]
    return str(welcome["resume"])


def welcomed(desk: Desk, port: int, *lines: str, host: str = "127.0.0.1") -> tuple[Seat, str]:
    """Return a new member in JSON, and its token."""
    seat = desk.join(port, host)
    desk.hear(seat, *lines, "/json")
    return seat, token_of(seat)


class Watched:
    """A room with a program and a text member that watch ada, who has a token; and a newcomer, `back`."""

    def __init__(self, room: Room | None = None) -> None:
        self.room = room or Room(announce=True)
        self.desk, self.other_desk = Desk(self.room), Desk(self.room)
        self.old, self.token = welcomed(self.desk, 1, "/nick ada")
        self.program, _ = welcomed(self.desk, 2, "/nick prog")
        self.text = self.other_desk.join(3)
        self.back = self.other_desk.join(99)
        for seat in (self.old, self.program, self.text, self.back):
            taken(seat)

    def resume(self, *lines: str) -> None:
        self.other_desk.hear(self.back, f"/resume {self.token}", *lines)


def test_a_place_is_taken_over_in_one_step() -> None:
    """Others hear nothing of it; the old connection ends, told why, and the new one is the member."""
    watched = Watched()
    watched.desk.hear(watched.old, "before")
    member, number = watched.old.member, watched.old.member.id
    watched.resume("after", "/json 0")
    assert watched.old.left == "resumed"
    assert str(TAKEN_OVER) in texts(watched.old)
    for seat in (watched.program, watched.text):
        told = texts(seat)
        assert [line for line in told if "ada" in line] == ["ada: before", "ada: after"]
        assert not [line for line in told if "99" in line]
    assert not member.present
    assert (watched.back.member.name, watched.back.member.id) == ("ada", number)
    lines = taken(watched.back)
    assert lines[:2] == ["ada: before", str(RESUMED)]
    assert [json.loads(line).get("name") for line in lines[2:3]] == ["ada"]
    assert [json.loads(line)["text"] for line in lines[3:]] == ["before", "after"]


def test_the_order_of_names_and_places() -> None:
    """`/who` lists it where it was; its old place in the room is free, the new one is its own."""
    watched = Watched(Room(limits=Limits(max_clients=4)))
    with pytest.raises(JoinRefused):
        watched.desk.join(5)
    watched.resume("/who")
    assert texts(watched.back)[-1] == "*** 3 here: ada, prog, 3"
    assert places(watched.room.roster) == (0, {"127.0.0.1": 3})
    assert watched.desk.join(5).member.name == "5"


def test_a_port_as_a_name() -> None:
    """A member without a name of its own keeps its number, which is another port now."""
    watched = Watched()
    one, token = welcomed(watched.desk, 4)
    watched.other_desk.hear(watched.back, f"/resume {token}", "hi")
    assert texts(watched.text)[-1] == "4: hi"
    assert watched.room.roster.find("4") is watched.back.member
    assert one.left == "resumed"
    assert watched.desk.join(99).member.name == "99"


def test_lines_of_the_old_connection_count_no_more() -> None:
    """Lines of it that come later are dropped, in the same turn and after it: none is said after the return."""
    watched = Watched()
    watched.room.receive(
        [
            Received(watched.old.member, ["one"]),
            Received(watched.back.member, [f"/resume {watched.token}", "two"]),
            Received(watched.old.member, ["three"], "connection reset"),
        ]
    )
    watched.room.receive([Received(watched.old.member, ["four"], "end of stream")])
    assert [line for line in texts(watched.program) if ": " in line] == ["ada: one", "ada: two"]


@pytest.mark.parametrize("format", ["text", "json"])
def test_hooks_see_each_member_join_and_leave_once(format: str) -> None:
    """The number that the newcomer had joins and leaves; the member goes on under its name."""
    happened = list[tuple[str, str, int]]()

    class Noting(Handler):
        def on_join(self, member: Member) -> None:
            happened.append(("join", member.name, member.address[1]))

        def on_rename(self, member: Member, old_name: str) -> None:
            happened.append(("rename", member.name, member.address[1]))

        def on_leave(self, member: Member, reason: str) -> None:
            happened.append((reason, member.name, member.address[1]))

        def on_message(self, message: Message, member: Member) -> Message:
            happened.append((message.text, message.sender, 0))
            return message

    watched = Watched(Room(Noting()))
    happened.clear()
    watched.resume("hi", *(["/json"] if format == "json" else []))
    watched.other_desk.hear(watched.back, "exit")
    assert happened == [("resumed", "99", 1), ("hi", "ada", 0), ("exit", "ada", 99)]


def test_a_failing_hook_changes_nothing() -> None:
    """The take-over is done; the exception in on_leave is logged, and ends no conversation."""

    class Failing(Handler):
        def on_leave(self, member: Member, reason: str) -> None:
            raise ZeroDivisionError

    watched = Watched(Room(Failing()))
    watched.resume("hi")
    assert texts(watched.text) == ["ada: hi"]
    assert watched.back.member.present
    assert str(HANDLER_FAILED) not in texts(watched.back)


def test_a_new_connection_is_lost_before_it_reads_its_token() -> None:
    """The client tries again with the token that it knows. Tokens that it never read are void after two returns."""
    watched = Watched()
    watched.resume("/json")
    unread = token_of(watched.back)
    for port in (100, 101):
        again = watched.desk.join(port)
        watched.desk.hear(again, f"/resume {watched.token}", "/json")
        assert again.member.name == "ada"
        assert len({watched.token, unread, token_of(again)}) == 3
        assert known_tokens(watched.room) == 4  # ada's three, and that of the program
    assert watched.back.left == "resumed"
    late = watched.desk.join(102)
    watched.desk.hear(late, f"/resume {unread}")
    assert texts(late) == [str(RESUME_UNKNOWN)]
    watched.desk.hear(again, "exit")
    assert known_tokens(watched.room) == 1


def test_an_opening_is_read_after_the_one_of_a_later_connection() -> None:
    """The client gave up the first: it takes its place back from it by the token that it read last."""
    watched = Watched()
    again = watched.desk.join(100)
    watched.desk.hear(again, f"/resume {watched.token}", "/json")
    token = token_of(again)
    watched.resume("/json")
    assert again.left == "resumed"
    third = watched.desk.join(101)
    watched.desk.hear(third, f"/resume {token}")
    assert third.member.name == "ada"
    assert watched.back.left == "resumed"


def test_the_newest_token_ends_the_one_before() -> None:
    """A client that has read its new token uses it; the one before that is void then."""
    watched = Watched()
    watched.resume("/json")
    token = token_of(watched.back)
    again = watched.desk.join(100)
    watched.desk.hear(again, f"/resume {token}", f"/resume {token}")
    assert [line for line in texts(again) if line == str(RESUMED)] == [str(RESUMED)] * 2
    late = watched.desk.join(101)
    watched.desk.hear(late, f"/resume {watched.token}")
    assert texts(late) == [str(RESUME_UNKNOWN)]


@pytest.mark.parametrize("end", ["connection reset", "end of stream", "slow consumer", "endless line"])
def test_after_the_loss(clock: SimpleNamespace, end: str) -> None:
    """For ten minutes the token gives the name back; then it is a wrong one, and all of it is forgotten."""
    watched = Watched()
    watched.desk.hear(watched.old, end=end)
    taken(watched.program)
    clock.now += resumes.VALID_SECONDS - 1
    watched.resume("/json")
    assert [parse_json(line) for line in taken(watched.program)] == [Joined("ada")]
    assert watched.back.member.name == "ada"
    watched.other_desk.hear(watched.back, end=end)
    clock.now += resumes.VALID_SECONDS
    late = watched.desk.join(100)
    watched.desk.hear(late, f"/resume {watched.token}")
    assert texts(late) == [str(RESUME_UNKNOWN)]
    watched.desk.hear(watched.program, end=end)
    assert known_tokens(watched.room) == 1


def test_a_name_that_another_has_by_now() -> None:
    """It is left alone; the member keeps its number."""
    watched = Watched()
    watched.desk.hear(watched.old, end="connection reset")
    watched.other_desk.hear(watched.text, "/nick Ada")
    watched.resume()
    assert (watched.back.member.name, watched.text.member.name) == ("99", "Ada")
    assert texts(watched.back)[-1] == str(RESUMED)


def test_ends_that_are_no_loss() -> None:
    """After `exit`, a kick or an error of a hook, nobody comes back by the token."""

    def kick(watched: Watched) -> None:
        watched.room.remove(watched.old.member, Notice("out"), "removed: out")

    def leave(watched: Watched) -> None:
        watched.desk.hear(watched.old, "exit")

    def fail(watched: Watched) -> None:
        watched.desk.hear(watched.old, "fail")

    class Failing(Handler):
        def on_message(self, message: Message, member: Member) -> Message:
            raise ZeroDivisionError

    ends: list[Callable[[Watched], None]] = [kick, leave, fail]
    for end in ends:
        watched = Watched(Room(Failing()))
        end(watched)
        assert watched.old.left
        watched.resume()
        assert texts(watched.back)[-1] == str(RESUME_UNKNOWN)


def test_a_wrong_token_is_a_failed_guess(clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    """It changes nothing. The next from the address is judged 1 s later, then 2, 4, 8; nobody has to wait for that."""
    caplog.set_level("INFO", "chatkit")
    watched = Watched()
    for wait in (1, 2, 4, 8, 8):
        watched.other_desk.hear(watched.back, f"/resume {WRONG}", f"/resume {watched.token}", "/sync")
        told = texts(watched.back)
        assert told == [str(RESUME_UNKNOWN), str(RESUME_EARLY), "*** synced, newest is 0"]
        assert (watched.old.left, watched.back.member.name) == (None, "99")
        clock.now += wait - 0.5
        watched.resume()
        assert texts(watched.back) == [str(RESUME_EARLY)]
        clock.now += 0.5
    far, token = welcomed(watched.desk, 4, host="10.0.0.1")
    near = watched.desk.join(5, host="10.0.0.2")
    watched.other_desk.hear(watched.back, f"/resume {WRONG}")
    watched.desk.hear(near, f"/resume {token}")
    assert far.left == "resumed"
    assert {record.getMessage() for record in caplog.records} == {"a wrong token to resume from 127.0.0.1"}
    clock.now += 8
    watched.resume()
    assert watched.back.member.name == "ada"


@pytest.mark.parametrize("line", ["/resume", "/resume ada", f"/resume {WRONG}0", f"/resume {WRONG.replace('0', 'G')}"])
def test_what_is_no_token(line: str) -> None:
    """A usage error, which is no guess."""
    watched = Watched()
    watched.other_desk.hear(watched.back, line)
    assert texts(watched.back) == ["*** usage: /resume TOKEN"]
    watched.resume()
    assert watched.back.member.name == "ada"


def test_too_late_in_json() -> None:
    """A member that has its own place in JSON takes no other one."""
    watched = Watched()
    watched.other_desk.hear(watched.back, "/json", f"/resume {watched.token}")
    assert json.loads(taken(watched.back)[-1])["code"] == "already_json"
    assert watched.old.left is None


def test_no_token_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a right one nor a wrong one: not in the log, nor to a hook, nor in the repr of an event."""
    shown = list[object]()

    class Noting(Handler):
        def on_join(self, member: Member) -> None:
            shown.append(member)

        def on_message(self, message: Message, member: Member) -> Message:
            shown.append(message)
            return message

        def on_leave(self, member: Member, reason: str) -> None:
            shown.extend((member, reason))

    caplog.set_level(logging.DEBUG)
    watched = Watched(Room(Noting()))
    watched.other_desk.hear(watched.back, f"/resume {WRONG[:-1]}1")
    watched.room.receive([Received(watched.desk.join(7, host="10.0.0.1").member, [f"/resume {watched.token}", "hi"])])
    watched.desk.hear(watched.program, "/resume")
    shown.append(Welcome("ada", 0, "0" * 16, watched.token))
    everything = repr([shown, caplog.text])
    assert "hi" in everything
    assert watched.token not in everything
    assert WRONG[:-1] not in everything


def test_memory_is_bounded(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many members come and go: the places that were lost last are kept."""
    monkeypatch.setattr(resumes, "MAX_LOST", 3)
    desk = Desk(Room())
    tokens = []
    for port in range(10):
        seat, token = welcomed(desk, port)
        desk.hear(seat, end="connection reset")
        tokens.append(token)
        assert known_tokens(desk.room) <= 3
    for number, token in enumerate(tokens):
        seat = desk.join(100 + number, host=f"10.0.0.{number}")
        desk.hear(seat, f"/resume {token}")
        assert (texts(seat) == [str(RESUMED)]) == (number >= 7)


class Returning:
    """A client as docs/protocol.md describes it: it keeps its place, and comes back on any desk."""

    def __init__(self, desk: Desk, number: int) -> None:
        self.seat = desk.join(number)
        self.name, self.token, self.place = f"c{number}", "", ""
        self.seen = [0]

    def opening(self) -> list[Line]:
        resume = [f"/resume {self.token}"] if self.token else []
        return [*resume, f"/nick {self.name}", f"/json {self.place}"]

    def read(self) -> None:
        """Take in what has arrived."""
        for line in taken(self.seat):
            event = parse_json(line) if line.startswith("{") else None
            if isinstance(event, Welcome):
                assert event.name == self.name
                self.token, self.epoch = event.resume, event.epoch
            elif isinstance(event, Message):
                self.seen.append(event.id or 0)
        self.place = f"{self.seen[-1]} {self.epoch}"


steps = st.lists(
    st.tuples(st.sampled_from(["say", "say", "return", "return", "lose", "read"]), st.integers(0, 3), st.booleans()),
    max_size=40,
)


@given(steps)
def test_each_message_once_across_returns(script: list[tuple[str, int, bool]]) -> None:
    """On two desks, beside what others and the old connection say in the same turn, before it and after it."""
    said, ports = list[str](), iter(range(100, 10_000))

    class Noting(Handler):
        def on_message(self, message: Message, member: Member) -> Message:
            said.append(f"{message.sender}: {message.text}")
            return message

    room = Room(Noting())
    desks = Desk(room), Desk(room)
    clients = [Returning(desks[number % 2], number) for number in range(4)]

    def come_back(client: Returning, text: str, is_lost: bool) -> None:
        """Some of the old connection's output may be lost, and the opening may come in two turns."""
        if not is_lost:
            client.read()
        taken(client.seat)
        old, other = client.seat.member, clients[(clients.index(client) + 1) % 4].seat.member
        client.seat = desks[len(text) % 2].join(next(ports))
        opening, new, cut = client.opening(), client.seat.member, len(said) % 4
        room.receive([Received(other, [text]), Received(old, [text]), Received(new, opening[:cut])])
        room.receive([Received(new, opening[cut:]), Received(old, ["too late"]), Received(other, [text])])
        assert not old.present

    for client in clients:
        room.receive([Received(client.seat.member, client.opening())])
        client.read()
    for number, (what, who, is_lost) in enumerate(script):
        client = clients[who]
        if what == "say":
            room.receive([Received(client.seat.member, [f"{number}"])])
        elif what == "read":
            client.read()
        elif what == "return":
            come_back(client, f"{number}", is_lost)
        else:
            room.receive([Received(client.seat.member, [f"{number}"], "connection reset")])
    assert not [line for line in said if "too late" in line]
    for client in clients:
        come_back(client, "last", is_lost=True)
        client.read()
        assert client.seen == sorted(set(client.seen)), "twice, or out of order"
        missing = set(range(len(said) + 1)) - set(client.seen)
        assert {said[number - 1].partition(":")[0] for number in missing} <= {client.name}, "missing"
    assert [member.name for member in room.roster.members if member.name.startswith("c")]
