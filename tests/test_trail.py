"""What leads from one connection to the next, without sockets: events into `ResumeState`, lines and events out."""

from __future__ import annotations

import ssl
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatkit import (
    Action,
    ConnectionClosed,
    Disconnected,
    Error,
    Event,
    Gap,
    Left,
    Message,
    ProtocolError,
    Reconnected,
    Renamed,
    Synced,
    Unconfirmed,
    Welcome,
)
from chatkit.client import inflight
from chatkit.client.backoff import FIRST_SECONDS, LONGEST_SECONDS, STEADY_SECONDS, Backoff, is_final
from chatkit.client.resume import ResumeState
from chatkit.errors import NotConnected, PasswordRefused
from chatkit.protocol.sanitize import clean

ROOM, OTHER_ROOM = "0" * 16, "1" * 16
RESET = ConnectionClosed("Connection reset by peer", clean=False)


def trail(newest: int = 7, name: str = "ada", **asked: Any) -> ResumeState:
    """One that has been welcomed in the room."""
    chosen = None if name.isdecimal() else name
    made = ResumeState(100, **{"password": None, "name": chosen, "after": None, "queue": 0, **asked})
    assert made.receive(Welcome(name, newest, ROOM)) == [Welcome(name, newest, ROOM)]
    return made


def opening(trail: ResumeState) -> str:
    return trail.next_protocol().opening.decode()


def back(trail: ResumeState, name: str = "ada", newest: int = 99, room: str = ROOM) -> list[Event]:
    """What the caller is told when the connection is lost and the next one stands."""
    return [*trail.connection_lost(RESET), *trail.receive(Welcome(name, newest, room))]


def message(number: int, text: str = "hi", sender: str = "bob") -> Message:
    return Message(sender, text, number, 60.0)


def unsure(events: list[Event]) -> list[str]:
    return [event.line for event in events if isinstance(event, Unconfirmed)]


def forgotten(number: int) -> Unconfirmed:
    """What is told of so many lines that were too many."""
    return Unconfirmed(f"the room may not have received {number} earlier lines, too many to remember", "")


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three lines of a character are remembered."""
    monkeypatch.setattr(inflight, "MAX_REMEMBERED_CHARACTERS", 3 * (1 + inflight.LINE_OVERHEAD))


def test_the_next_connection_asks_for_what_came_after_the_last_message() -> None:
    """The last id is that of the welcome, of each message, of each answer to /sync, and follows a gap."""
    lead = trail(7)
    assert opening(lead) == f"/nick ada\n/json 7 {ROOM}\n/sync\n"
    for event, last in (
        (message(8), 8),
        (Action("bob", "waves", 10, 60.0), 10),
        (Gap(5), 15),
        (Synced(17), 17),
        (Left("bob"), 17),
    ):
        lead.receive(event)
        assert f"/json {last} {ROOM}\n" in opening(lead)


def test_the_first_connection_asks_as_the_caller_does() -> None:
    """No room, no /sync; `after` beyond the newest message is none of this room's ids."""
    first = ResumeState(100, password="secret", name=None, after=9, queue=0)
    assert opening(first) == "/password secret\n/json 9\n"
    first.receive(Welcome("51044", 3, ROOM))
    assert opening(first) == f"/password secret\n/json 3 {ROOM}\n/sync\n"


def test_loss_and_return_frame_the_absence() -> None:
    """The caller hears of both; the second welcome isn't told, nor the answer to the question of the opening."""
    lead = trail(name="51044")
    lost, returned = back(lead, "51099")
    assert isinstance(lost, Disconnected)
    assert "Connection reset by peer" in lost.text
    assert returned == Reconnected("back as 51099", "51099", new_epoch=False)
    assert lead.receive(message(8)) == [message(8)]
    assert lead.receive(Synced(8)) == []
    assert lead.receive(Synced(8)) == [Synced(8)]  # not ours


def test_a_room_that_began_anew() -> None:
    """It is said; ids count from the start, and what was doubtful stays so: nothing can match_echo it."""
    lead = trail()
    lead.send("hi")
    _, returned, uncertain = back(lead, room=OTHER_ROOM)
    assert isinstance(returned, Reconnected)
    assert returned.new_epoch
    assert unsure([uncertain]) == ["hi"]
    assert f"/json 0 {OTHER_ROOM}\n" in opening(lead)
    assert lead.receive(message(1, "hi", "ada")) == [message(1, "hi", "ada")]
    lead.send("hi")
    assert back(lead, room=OTHER_ROOM)[2:] == []
    assert lead.receive(message(2, "hi", "ada")) == []


def test_one_sync_per_round_trip() -> None:
    """It follows the first line; lines that came later are asked about when it is answered."""
    lead = trail()
    assert lead.send("a") == b"a\n/sync\n"
    assert lead.send("b") == b"b\n"
    assert not lead.has_request
    assert lead.receive(Synced(9)) == []
    assert lead.has_request
    assert lead.take_request() == b"/sync\n"
    assert not lead.has_request
    assert lead.receive(Synced(9)) == []
    assert not lead.has_request
    assert unsure(lead.connection_lost(RESET) + lead.report_unknown()) == []


def test_the_callers_own_sync_is_answered() -> None:
    """It counts as well as ours, and its answer is for the caller."""
    lead = trail()
    assert lead.send("/sync") == b"/sync\n"
    assert lead.send("a") == b"a\n"
    assert lead.receive(Synced(8)) == [Synced(8)]
    assert lead.take_request() == b"/sync\n"
    assert lead.send("/sync") == b"/sync\n"
    assert lead.receive(Synced(9)) == []
    assert lead.receive(Synced(9)) == [Synced(9)]


LINES = ["hi", "//x", "/say exit", "/me waves", "a\x1bb", "\t ", "hi", "/who", "/msg bob hi", "exit stage", "/say", "é"]
SAID: dict[str, Event] = {
    "hi": message(8, "hi", "ada"),
    "//x": message(8, "/x", "ada"),
    "/say exit": message(8, "exit", "ada"),
    "/me waves": Action("ada", "waves", 8, 60.0),
    "a\x1bb": message(8, "a\u241bb", "ada"),
    "\t ": message(8, "\t ", "ada"),
    "exit stage": message(8, "exit stage", "ada"),
    "é": message(8, "é", "ada"),
}


@given(st.lists(st.sampled_from(LINES)), st.integers(0, 20))
@example(LINES, len(LINES))
def test_the_replay_proves_what_was_heard(lines: list[str], heard: int) -> None:
    """Own lines that come again aren't told; of the others each is reported once, in order, and none is sent again."""
    lead = trail()
    for line in lines:
        lead.send(line)
    told = back(lead)[2:]
    replay = [SAID[line] for line in lines[:heard] if line in SAID]
    for event in replay:
        told += lead.receive(event)
    told += lead.receive(Synced(99))
    known = max((number + 1 for number, line in enumerate(lines[:heard]) if line in SAID), default=0)
    assert unsure(told) == lines[known:]
    assert len(told) == len(lines[known:])
    assert not lead.queued
    assert lead.take_request() == b""


@given(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1))
def test_any_line_is_recognised_as_the_room_says_it(line: str) -> None:
    """Whatever is said, made clean by the server, proves itself."""
    lead = trail()
    lead.send(f"//{line}")
    back(lead)
    assert lead.receive(message(8, f"/{clean(line)}", "ada")) == []


def test_only_our_own_words_prove_a_line() -> None:
    """Not the same text of another member, nor in another form."""
    lead = trail()
    lead.send("hi")
    back(lead)
    others: list[Event] = [message(8), Action("ada", "hi", 9, 60.0), message(10, "hi!", "ada")]
    assert [lead.receive(event) for event in others] == [[event] for event in others]
    assert unsure(lead.receive(Synced(10))) == ["hi"]


def test_doubts_outlast_a_second_loss() -> None:
    """Lines of two lost connections, under two names, are proved by the third or reported after it."""
    lead = trail(name="51044")
    for line in ("a", "b"):
        lead.send(line)
    back(lead, "51099")
    lead.send("c")
    assert unsure(back(lead, "51100")) == []
    assert lead.receive(message(8, "a", "51044")) == []
    assert lead.receive(message(9, "c", "51099")) == []
    assert unsure(lead.receive(Synced(9))) == ["b"]


def test_a_name_that_may_have_been_taken_speaks_for_us() -> None:
    """A /nick on its way when the connection was lost: the room may have heard it, and us under that name."""
    lead = trail()
    for line in ("/nick eve", "hi"):
        lead.send(line)
    back(lead)
    assert lead.receive(message(8, "hi", "eve")) == []
    assert unsure(lead.receive(Synced(8))) == []


def test_a_line_that_was_said_before_a_rename() -> None:
    """Each name since the last confirmation may have said it; earlier ones are another's by now."""
    lead = trail(name="51044")
    lead.send("x")
    for name in ("ada", "eve"):
        lead.receive(Renamed(lead._name, name))
    lead.receive(Synced(7))
    lead.send("hi")
    lead.receive(Renamed("eve", "zoe"))
    back(lead, "zoe")
    assert [lead.receive(message(8, "hi", name)) for name in ("ada", "eve")] == [[message(8, "hi", "ada")], []]
    assert unsure(lead.receive(Synced(9))) == []


def test_a_line_that_was_said_before_the_last_message() -> None:
    """While a line is in doubt the replay begins at the last confirmation; what the caller knows isn't told again."""
    lead = trail()
    lead.send("hi")
    lead.receive(message(9))
    for told in (message(12), message(14)):
        lead.connection_lost(RESET)
        assert opening(lead).endswith(f"/json 7 {ROOM}\n/sync\n")
        lead.receive(Welcome("ada", 14, ROOM))
        assert lead.receive(message(9)) == []
        assert lead.receive(told) == [told]
    assert lead.receive(message(8, "hi", "ada")) == []
    assert lead.receive(Synced(14)) == []
    lead.connection_lost(RESET)
    assert f"/json 14 {ROOM}\n" in opening(lead)


@pytest.mark.parametrize(("missing", "told"), [(3, []), (5, [Gap(1)]), (20, [Gap(16)])])
def test_a_gap_before_what_is_known(missing: int, told: list[Event]) -> None:
    """Of the messages that are no longer kept, only those are missing that the caller doesn't have."""
    lead = trail()
    lead.send("hi")
    lead.receive(message(11))
    back(lead)
    assert lead.receive(Gap(missing)) == told


def test_the_room_reads_a_line_made_clean() -> None:
    """What Python takes for white space, the room may have made visible before it looks."""
    lead = trail()
    lead.send("exit\x0c")
    assert not lead.is_leaving
    lead.send(" exit\t")
    assert lead.is_leaving
    lead = trail()
    assert lead.send("/sync\x1cfoo") == b"/sync\x1cfoo\n/sync\n"
    lead = trail()
    lead.send("/me\x1cwaves")
    back(lead)
    assert lead.receive(Action("ada", "waves", 8, 60.0)) == [Action("ada", "waves", 8, 60.0)]


def test_leaving_asks_for_what_is_not_confirmed() -> None:
    """Once; and not if there is nothing to ask. What isn't confirmed stays uncertain, however the end looks."""
    assert trail().send("exit") == b"exit\n"
    lead = trail()
    lead.send("a")
    assert lead.leave() == b""  # the question is under way
    lead.send("b")
    assert lead.leave() == b"/sync\n"
    assert lead.leave() == b""
    lead.receive(Synced(8))
    lead.retract("exit")
    assert unsure(lead.connection_lost(ConnectionClosed("the server ended the conversation", clean=True))) == ["b"]


def test_the_chosen_name_is_taken_back() -> None:
    """Also one that was chosen later, by /nick."""
    lead = trail()
    lead.receive(Renamed("bob", "cid"))
    assert opening(lead).startswith("/nick ada\n")
    lead.receive(Renamed("ada", "eve"))
    assert opening(lead).startswith("/nick eve\n")


@pytest.mark.parametrize("freed", [Left("Ada"), Renamed("ADA", "cid")])
def test_a_name_that_is_free_only_later(freed: Event) -> None:
    """It is asked for once after the welcome, so that the caller hears it is taken, and whenever it becomes free."""
    lead = trail()
    assert back(lead, "51044")[1] == Reconnected("back as 51044", "51044", new_epoch=False)
    assert lead.take_request() == b"/nick ada\n"
    refused = Error("the name ada is taken", "name_taken")
    assert lead.receive(refused) == [refused]
    lead.receive(Left("bob"))
    assert not lead.has_request
    assert lead.receive(freed) == [freed]
    assert lead.take_request() == b"/nick ada\n"
    assert lead.receive(Renamed("51044", "ada")) == [Renamed("51044", "ada")]
    lead.receive(freed)
    assert not lead.has_request


def test_the_queue_is_bounded_and_in_order() -> None:
    """Without one, nothing is kept."""
    with pytest.raises(NotConnected, match=r"^not sent: the connection is lost$"):
        trail().enqueue("a")
    lead = trail(queue=2)
    lead.enqueue("a")
    lead.enqueue("b")
    with pytest.raises(NotConnected, match="2 lines are waiting"):
        lead.enqueue("c")
    assert list(lead.queued) == ["a", "b"]


def test_a_line_that_did_not_get_away() -> None:
    """It isn't doubtful, whether the loss is known by then or not."""
    for knows in (False, True):
        lead = trail()
        lead.send("a")
        lead.send("b")
        told = lead.connection_lost(RESET) if knows else []
        lead.retract("b")
        told += [] if knows else lead.connection_lost(RESET)
        assert unsure(told + lead.report_unknown()) == ["a"]


@pytest.mark.usefixtures("three")
def test_of_too_many_lines_the_oldest_are_only_counted() -> None:
    """One `Unconfirmed`, ahead of the others, says how many; what is remembered after that begins anew."""
    lead = trail()
    for line in "abcde":
        lead.send(line)
    back(lead)
    told = lead.receive(Synced(7))
    assert told[0] == forgotten(2)
    assert unsure(told) == ["", "c", "d", "e"]
    for line in "xyz":
        lead.send(line)
    assert unsure(lead.connection_lost(RESET) + lead.report_unknown()) == ["x", "y", "z"]


@pytest.mark.usefixtures("three")
def test_what_was_forgotten_is_confirmed_too() -> None:
    """As far as it was sent before the question, whatever of it is still remembered."""
    lead = trail()
    for line in "abc":
        lead.send(line)
    lead.receive(Synced(8))  # `a` is confirmed
    lead.take_request()
    for line in "defgh":
        lead.send(line)
    assert lead.receive(Synced(9)) == []  # so are `b` and `c`, but `d` and `e` aren't
    told = lead.connection_lost(RESET) + lead.report_unknown()
    assert told[1] == forgotten(2)
    assert unsure(told) == ["", "f", "g", "h"]
    assert lead.report_unknown() == []


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("proved", [False, True])
def test_too_many_lines_over_two_losses(proved: bool) -> None:
    """They are told together, in doubt or not yet; a message proves those before it, of its own connection."""
    lead = trail()
    for line in "abcd":
        lead.send(line)
    back(lead)
    for line in "efghi":
        lead.send(line)
    back(lead)
    if proved:
        assert lead.receive(message(8, "g", "ada")) == []
    told = lead.receive(Synced(9))
    assert told[0] == forgotten(4 if proved else 6)
    assert unsure(told) == (["", "h", "i"] if proved else ["", "g", "h", "i"])
    assert lead.report_unknown() == []


@pytest.mark.usefixtures("three")
def test_the_newest_line_is_remembered_however_long() -> None:
    """So it can be taken back when it didn't get away, and is told otherwise."""
    for got_away in (False, True):
        lead = trail()
        lead.send("a")
        lead.send("long" * 1000)
        if not got_away:
            lead.retract("long" * 1000)
        told = lead.connection_lost(RESET) + lead.report_unknown()
        assert told[1] == forgotten(1)
        assert unsure(told)[1:] == ["long" * 1000] * got_away


@pytest.mark.usefixtures("three")
def test_lines_are_proved_one_by_one() -> None:
    """Those that say the same, too; and one that was taken back proves nothing."""
    lead = trail()
    for line in ("a", "a", "b"):
        lead.send(line)
    back(lead)
    lead._in_flight.retract()
    assert [lead.receive(message(number, "a", "ada")) for number in (8, 9)] == [[], []]
    for number, text in ((10, "a"), (11, "b")):
        assert lead.receive(message(number, text, "ada")) == [message(number, text, "ada")]


def test_proving_takes_no_longer_with_many_lines() -> None:
    """Each message is looked up, whatever is in doubt."""
    lead = trail()
    for number in range(20_000):
        lead.send(f"{number}")
    back(lead)
    begun = time.monotonic()
    for number in range(20_000):
        lead.receive(message(8 + number, "others", "ada"))
    assert time.monotonic() - begun < 5


def test_questions_without_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own, too; each is answered, and the last answer confirms what the last one asked for."""
    monkeypatch.setattr(inflight, "MAX_PENDING_SYNCS", 3)
    lead = trail()
    for line in ["/sync"] * 10 + ["a"]:
        lead.send(line)
    assert len(lead._in_flight._syncs) == 3
    assert [lead.receive(Synced(8)) for _ in range(9)] == [[Synced(8)]] * 9
    assert not lead.has_request
    assert lead.receive(Synced(8)) == [Synced(8)]
    assert lead.take_request() == b"/sync\n"
    assert unsure(lead.connection_lost(RESET) + lead.report_unknown()) == ["a"]


def test_ends_that_are_no_loss() -> None:
    """We said so, the operator removed us, or the server sends what isn't chat; what is doubtful then is told."""
    clean_end = ConnectionClosed("the server ended the conversation", clean=True)
    lead = trail()
    assert not lead.is_final_loss(clean_end)
    assert lead.is_final_loss(ProtocolError("nonsense"))
    lead.send("hi")
    lead.receive(Error("you were removed", "removed"))
    assert unsure(lead.connection_lost(clean_end)) == ["hi"]
    for end, doubtful in ((clean_end, ["hi"]), (RESET, ["hi"])):
        leaving = trail()
        leaving.send("hi")
        leaving.send("exit")
        assert leaving.is_final_loss(end)
        assert unsure(leaving.connection_lost(end)) == doubtful
    assert not trail().is_final_loss(RESET)


def test_which_attempts_are_the_last() -> None:
    """A full room or a dead network may be another one later; a password or a wrong protocol won't."""
    assert not is_final(OSError("unreachable"))
    assert not is_final(TimeoutError())
    assert not is_final(ConnectionClosed("the room is full", clean=True))
    assert is_final(PasswordRefused("wrong password"))
    assert is_final(ProtocolError("nonsense"))
    assert is_final(ssl.SSLCertVerificationError("not trusted"))
    assert not is_final(ssl.SSLError("cut"))


def test_back_off() -> None:
    """Full jitter below a bound that doubles up to its most, and begins anew only after a connection that stood."""
    asked, now = list[tuple[float, float]](), [0.0]

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return most / 2

    backoff = Backoff(uniform, lambda: now[0])
    assert [backoff.delay() for _ in range(10)][:3] == [FIRST_SECONDS / 2, FIRST_SECONDS, FIRST_SECONDS * 2]
    assert asked[0] == (0, FIRST_SECONDS)
    assert asked[-1] == (0, LONGEST_SECONDS)
    for stood, most in ((STEADY_SECONDS - 1, LONGEST_SECONDS), (STEADY_SECONDS, FIRST_SECONDS)):
        backoff.connected()
        now[0] += stood
        backoff.disconnected()
        backoff.delay()
        assert asked[-1] == (0, most)
