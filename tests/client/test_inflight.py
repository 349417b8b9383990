"""Lines that were sent and aren't confirmed: which echo proves them, and which are reported."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatkit import Action, ConnectionClosed, Event, Synced, Unconfirmed
from chatkit.client import inflight
from chatkit.client.inflight import InFlight
from chatkit.protocol.sanitize import clean
from tests.helpers.inside import pending_syncs, retract
from tests.helpers.resuming import RESET, back, message, resuming, unsure


def forgotten(number: int) -> Unconfirmed:
    """Return the event for so many lines that were too many."""
    return Unconfirmed(f"the room may not have received {number} earlier lines, too many to remember", "")


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three lines of a character are remembered."""
    monkeypatch.setattr(inflight, "MAX_REMEMBERED_BYTES", 3 * inflight.size_of(b"a"))


def test_one_sync_per_round_trip() -> None:
    """It follows the first line; lines that came later are asked about when it is answered."""
    state = resuming()
    assert state.send("a") == b"a\n/sync\n"
    assert state.send("b") == b"b\n"
    assert not state.has_request
    assert state.receive(Synced(9)) == []
    assert state.has_request
    assert state.take_request() == b"/sync\n"
    assert not state.has_request
    assert state.receive(Synced(9)) == []
    assert not state.has_request
    assert unsure(state.connection_lost(RESET) + state.report_unknown()) == []


def test_the_callers_own_sync_is_answered() -> None:
    """It counts as well as ours, and its answer is for the caller."""
    state = resuming()
    assert state.send("/sync") == b"/sync\n"
    assert state.send("a") == b"a\n"
    assert state.receive(Synced(8)) == [Synced(8)]
    assert state.take_request() == b"/sync\n"
    assert state.send("/sync") == b"/sync\n"
    assert state.receive(Synced(9)) == []
    assert state.receive(Synced(9)) == [Synced(9)]


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
def test_the_replay_proves_lines(lines: list[str], heard: int) -> None:
    """Own lines that come again aren't told; of the others each is reported once, in order, and none is sent again."""
    state = resuming()
    for line in lines:
        state.send(line)
    told = back(state)[2:]
    replay = [SAID[line] for line in lines[:heard] if line in SAID]
    for event in replay:
        told += state.receive(event)
    told += state.receive(Synced(99))
    known = max((number + 1 for number, line in enumerate(lines[:heard]) if line in SAID), default=0)
    assert unsure(told) == lines[known:]
    assert len(told) == len(lines[known:])
    assert not state.queued
    assert state.take_request() == b""


@given(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1))
def test_any_line_is_recognised_as_the_room_says_it(line: str) -> None:
    """Any line is found in the replay after the server has cleaned it."""
    state = resuming()
    state.send(f"//{line}")
    back(state)
    assert state.receive(message(8, f"/{clean(line)}", "ada")) == []


def test_only_our_own_words_prove_a_line() -> None:
    """Not the same text of another member, nor in another form."""
    state = resuming()
    state.send("hi")
    back(state)
    others: list[Event] = [message(8), Action("ada", "hi", 9, 60.0), message(10, "hi!", "ada")]
    assert [state.receive(event) for event in others] == [[event] for event in others]
    assert unsure(state.receive(Synced(10))) == ["hi"]


def test_unconfirmed_lines_outlast_a_second_loss() -> None:
    """Lines of two lost connections, under two names, are proved by the third or reported after it."""
    state = resuming(name="51044")
    for line in ("a", "b"):
        state.send(line)
    back(state, "51099")
    state.send("c")
    assert unsure(back(state, "51100")) == []
    assert state.receive(message(8, "a", "51044")) == []
    assert state.receive(message(9, "c", "51099")) == []
    assert unsure(state.receive(Synced(9))) == ["b"]


def test_leaving_asks_for_unconfirmed_lines() -> None:
    """Once; and not if there is nothing to ask. An unconfirmed line stays uncertain, however the end looks."""
    assert resuming().send("exit") == b"exit\n"
    state = resuming()
    state.send("a")
    assert state.leave() == b""  # the question is under way
    state.send("b")
    assert state.leave() == b"/sync\n"
    assert state.leave() == b""
    state.receive(Synced(8))
    state.retract("exit")
    assert unsure(state.connection_lost(ConnectionClosed("the server ended the conversation", clean=True))) == ["b"]


def test_a_line_that_did_not_get_away() -> None:
    """It isn't doubtful, whether the loss is known by then or not."""
    for knows in (False, True):
        state = resuming()
        state.send("a")
        state.send("b")
        told = state.connection_lost(RESET) if knows else []
        state.retract("b")
        told += [] if knows else state.connection_lost(RESET)
        assert unsure(told + state.report_unknown()) == ["a"]


@pytest.mark.usefixtures("three")
def test_of_too_many_lines_the_oldest_are_only_counted() -> None:
    """One `Unconfirmed`, ahead of the others, says how many; the memory begins anew after that."""
    state = resuming()
    for line in "abcde":
        state.send(line)
    back(state)
    told = state.receive(Synced(7))
    assert told[0] == forgotten(2)
    assert unsure(told) == ["", "c", "d", "e"]
    for line in "xyz":
        state.send(line)
    assert unsure(state.connection_lost(RESET) + state.report_unknown()) == ["x", "y", "z"]


@pytest.mark.usefixtures("three")
def test_forgotten_lines_are_confirmed_too() -> None:
    """Lines sent before the question are confirmed, whether or not they are still remembered."""
    state = resuming()
    for line in "abc":
        state.send(line)
    state.receive(Synced(8))  # `a` is confirmed
    state.take_request()
    for line in "defgh":
        state.send(line)
    assert state.receive(Synced(9)) == []  # so are `b` and `c`, but `d` and `e` aren't
    told = state.connection_lost(RESET) + state.report_unknown()
    assert told[1] == forgotten(2)
    assert unsure(told) == ["", "f", "g", "h"]
    assert state.report_unknown() == []


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("proved", [False, True])
def test_too_many_lines_over_two_losses(proved: bool) -> None:
    """Forgotten lines of both are told together; a message proves the lines before it, of its own connection."""
    state = resuming()
    for line in "abcd":
        state.send(line)
    back(state)
    for line in "efghi":
        state.send(line)
    back(state)
    if proved:
        assert state.receive(message(8, "g", "ada")) == []
    told = state.receive(Synced(9))
    assert told[0] == forgotten(4 if proved else 6)
    assert unsure(told) == (["", "h", "i"] if proved else ["", "g", "h", "i"])
    assert state.report_unknown() == []


@pytest.mark.usefixtures("three")
def test_the_newest_line_is_remembered_however_long() -> None:
    """So it can be taken back when it didn't get away, and is told otherwise."""
    for got_away in (False, True):
        state = resuming()
        state.send("a")
        state.send("long" * 1000)
        if not got_away:
            state.retract("long" * 1000)
        told = state.connection_lost(RESET) + state.report_unknown()
        assert told[1] == forgotten(1)
        assert unsure(told)[1:] == ["long" * 1000] * got_away


@pytest.mark.usefixtures("three")
def test_lines_are_proved_one_by_one() -> None:
    """Lines with the same words, too; and one that was taken back proves nothing."""
    state = resuming()
    for line in ("a", "a", "b"):
        state.send(line)
    back(state)
    retract(state)
    assert [state.receive(message(number, "a", "ada")) for number in (8, 9)] == [[], []]
    for number, text in ((10, "a"), (11, "b")):
        assert state.receive(message(number, text, "ada")) == [message(number, text, "ada")]


@pytest.mark.parametrize(("line", "text"), [("{}", "others"), ("ok", "others"), ("{}", "{}"), ("ok", "ok")])
def test_proving_takes_no_longer_with_many_lines(line: str, text: str) -> None:
    """Each message is looked up; the number of pending lines makes no difference, nor of equal ones."""
    state = resuming()
    for number in range(20_000):
        state.send(line.format(number))
    back(state)
    begun = time.monotonic()
    for number in range(20_000):
        said = message(8 + number, text.format(number), "ada")
        assert state.receive(said) == ([said] if text == "others" else [])
    assert time.monotonic() - begun < 5


def test_lines_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text decides."""
    monkeypatch.setattr(inflight, "hash_of", lambda *_: 0)
    state = resuming()
    for line in ("a", "b", "a", "c"):
        state.send(line)
    back(state)
    for number, text, ours in ((8, "b", True), (9, "x", False), (10, "a", True), (11, "b", False)):
        said = message(number, text, "ada")
        assert state.receive(said) == ([] if ours else [said])
    assert unsure(state.receive(Synced(11))) == ["c"]


@pytest.mark.parametrize(
    "line",
    ["{}", "ok", "/me {}", "/nick n{}", "/nick " + "n" * 500 + "{}", "é{}", "\U0001f600{}" + "x" * 500, "x" * 3000],
)
def test_remembered_lines_take_no_more_than_is_said(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """As the interpreter counts its memory, before a loss, at it, and after it."""
    bound = 1 << 20
    monkeypatch.setattr(inflight, "MAX_REMEMBERED_BYTES", bound)
    lines = InFlight()
    tracemalloc.start()
    try:
        for number in range(30_000):
            lines.add(line.format(number))
        full = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        lines.connection_lost({"ada"})
        lost, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    spare = 200_000 if "/nick" in line else 20_000  # a thousand names
    assert bound * 0.4 < full < bound + spare
    assert lost < bound + spare
    assert most < bound + spare


def test_questions_without_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own, too; each is answered, and the last answer confirms what the last one asked for."""
    monkeypatch.setattr(inflight, "MAX_PENDING_SYNCS", 3)
    state = resuming()
    for line in ["/sync"] * 10 + ["a"]:
        state.send(line)
    assert pending_syncs(state) == 3
    assert [state.receive(Synced(8)) for _ in range(9)] == [[Synced(8)]] * 9
    assert not state.has_request
    assert state.receive(Synced(8)) == [Synced(8)]
    assert state.take_request() == b"/sync\n"
    assert unsure(state.connection_lost(RESET) + state.report_unknown()) == ["a"]
