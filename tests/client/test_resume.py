"""The way from one connection to the next, without sockets: events into `ResumeState`, lines and events out."""

from __future__ import annotations

import pytest

from chatkit import (
    Action,
    ConnectionClosed,
    Disconnected,
    Error,
    Event,
    Gap,
    Left,
    ProtocolError,
    Reconnected,
    Renamed,
    Synced,
    Welcome,
)
from chatkit.client.opening import Opening
from chatkit.client.resume import ResumeState
from chatkit.errors import NotConnected
from tests.helpers.inside import current_name
from tests.helpers.resuming import OTHER_ROOM, RESET, ROOM, back, message, opening, resuming, unsure


def test_the_next_connection_asks_from_the_last_message_on() -> None:
    """The last id is that of the welcome, of each message, of each answer to /sync, and follows a gap."""
    state = resuming(7)
    assert opening(state) == f"/nick ada\n/json 7 {ROOM}\n/sync\n"
    for event, last in (
        (message(8), 8),
        (Action("bob", "waves", 10, 60.0), 10),
        (Gap(5), 15),
        (Synced(17), 17),
        (Left("bob"), 17),
    ):
        state.receive(event)
        assert f"/json {last} {ROOM}\n" in opening(state)


def test_the_first_connection_asks_as_the_caller_does() -> None:
    """No room, no /sync; `after` beyond the newest message is none of this room's ids."""
    first = ResumeState(100, Opening(password="secret", events=True, after=9), queue=0)
    assert opening(first) == "/password secret\n/json 9\n"
    first.receive(Welcome("51044", 3, ROOM))
    assert opening(first) == f"/password secret\n/json 3 {ROOM}\n/sync\n"


@pytest.mark.parametrize(("epoch", "newest", "after"), [(ROOM, 7, 5), (ROOM, 3, 3), (OTHER_ROOM, 7, 0)])
def test_a_program_that_goes_on(epoch: str, newest: int, after: int) -> None:
    """The first connection asks as the caller does; in another epoch every message is news."""
    state = ResumeState(100, Opening(events=True, after=5, epoch=epoch), queue=0)
    assert opening(state) == f"/json 5 {epoch}\n"
    assert state.receive(Welcome("51044", newest, ROOM)) == [Welcome("51044", newest, ROOM)]
    assert opening(state) == f"/json {after} {ROOM}\n/sync\n"
    assert state.receive(message(after + 1)) == [message(after + 1)]


def test_a_newcomer_is_replayed_the_last_messages() -> None:
    """They are news, though their ids aren't beyond the welcome's; after a loss among them the rest is asked for."""
    state = resuming(7)
    assert [state.receive(told) for told in (Gap(1), message(5), message(6))] == [[Gap(1)], [message(5)], [message(6)]]
    back(state)
    assert f"/json 6 {ROOM}\n" in opening(state)
    assert [state.receive(told) for told in (message(7), message(8))] == [[message(7)], [message(8)]]
    state.connection_lost(RESET)
    assert f"/json 8 {ROOM}\n" in opening(state)


@pytest.mark.parametrize("sent", ["", "hi"])
def test_a_newcomer_that_is_told_nothing(sent: str) -> None:
    """Without a replay, all that comes after the welcome is missed by a loss; a gap in it is counted from there."""
    state = resuming(7)
    state.send(sent)
    for _ in range(2):
        back(state)
        assert f"/json 7 {ROOM}\n" in opening(state)
    assert state.receive(Gap(3)) == [Gap(3)]
    assert state.receive(message(11)) == [message(11)]
    state.receive(Synced(11))
    state.connection_lost(RESET)
    assert f"/json 11 {ROOM}\n" in opening(state)


def test_loss_and_return_frame_the_absence() -> None:
    """The caller hears of both; the second welcome isn't told, nor the answer to the question of the opening."""
    state = resuming(name="51044")
    lost, returned = back(state, "51099")
    assert isinstance(lost, Disconnected)
    assert "Connection reset by peer" in lost.text
    assert returned == Reconnected("back as 51099", "51099", new_epoch=False, epoch=ROOM)
    assert state.receive(message(8)) == [message(8)]
    assert state.receive(Synced(8)) == []
    assert state.receive(Synced(8)) == [Synced(8)]  # not ours


def test_a_room_that_began_anew() -> None:
    """It is said; ids count from the start, and unconfirmed lines stay so: no echo can match them."""
    state = resuming()
    state.send("hi")
    _, returned, uncertain = back(state, room=OTHER_ROOM)
    assert isinstance(returned, Reconnected)
    assert returned.new_epoch
    assert unsure([uncertain]) == ["hi"]
    assert f"/json 0 {OTHER_ROOM}\n" in opening(state)
    assert state.receive(message(1, "hi", "ada")) == [message(1, "hi", "ada")]
    state.send("hi")
    assert back(state, room=OTHER_ROOM)[2:] == []
    assert state.receive(message(2, "hi", "ada")) == []


def test_another_epoch_that_goes_on_from_ours() -> None:
    """A room with a history was started again: the client's ids mean the same, and the cursor stays."""
    state = resuming(7)
    state.connection_lost(RESET)
    returned = state.receive(Welcome("ada", 9, OTHER_ROOM, common=7))
    assert returned == [Reconnected("back as ada", "ada", False, OTHER_ROOM)]
    assert state.receive(message(8)) == [message(8)]
    assert f"/json 8 {OTHER_ROOM}\n" in opening(state)


@pytest.mark.parametrize(
    ("welcome", "cursor"),
    [(Welcome("ada", 20, OTHER_ROOM, common=5), 5), (Welcome("ada", 5, ROOM), 5), (Welcome("ada", 0, ROOM), 0)],
)
def test_ids_that_the_room_has_given_anew(welcome: Welcome, cursor: int) -> None:
    """A backup was put back: ids above those that both have in common are those of other messages, and all are told."""
    state = resuming(7)
    state.send("hi")
    state.connection_lost(RESET)
    returned, uncertain = state.receive(welcome)
    assert returned == Reconnected("back as ada, but the room began anew", "ada", True, welcome.epoch)
    assert unsure([uncertain]) == ["hi"]
    assert f"/json {cursor} {welcome.epoch}\n" in opening(state)
    assert state.receive(message(cursor + 1)) == [message(cursor + 1)]


def test_a_newcomer_whose_place_the_room_has_given_anew() -> None:
    """Before its first message, too: it receives all that is new from the ids in common on."""
    state = resuming(7)
    state.connection_lost(RESET)
    returned, *_ = state.receive(Welcome("ada", 9, OTHER_ROOM, common=5))
    assert isinstance(returned, Reconnected)
    assert returned.new_epoch
    assert [number for number in range(6, 10) if state.receive(message(number))] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("welcome", "cursor"),
    [(Welcome("ada", 20, OTHER_ROOM, common=9), 9), (Welcome("ada", 20, OTHER_ROOM, common=4), 4)],
)
def test_the_first_connection_of_a_later_run(welcome: Welcome, cursor: int) -> None:
    """An epoch that was given with `after` may be one that led to the room's."""
    state = ResumeState(100, Opening(events=True, after=9, epoch=ROOM), queue=0)
    assert state.receive(welcome) == [welcome]
    assert f"/json {cursor} {OTHER_ROOM}\n" in opening(state)


def test_a_replay_from_before_the_ids_in_common() -> None:
    """It begins lower, for the echo of a line; the messages that the caller has aren't told again, the others are."""
    state = resuming(7)
    state.send("hi")
    for number in range(8, 13):
        state.receive(message(number))
    state.connection_lost(RESET)
    assert opening(state).endswith(f"/json 7 {ROOM}\n/sync\n")
    state.receive(Welcome("ada", 20, OTHER_ROOM, common=10))
    told = [number for number in range(8, 15) if state.receive(message(number))]
    assert told == [11, 12, 13, 14]


def test_a_name_that_may_have_been_taken_speaks_for_us() -> None:
    """A /nick on its way when the connection was lost: the room may have heard it, and us under that name."""
    state = resuming()
    for line in ("/nick eve", "hi"):
        state.send(line)
    back(state)
    assert state.receive(message(8, "hi", "eve")) == []
    assert unsure(state.receive(Synced(8))) == []


def test_a_line_that_was_said_before_a_rename() -> None:
    """Each name since the last confirmation may have said it; earlier ones are another's by now."""
    state = resuming(name="51044")
    state.send("x")
    for name in ("ada", "eve"):
        state.receive(Renamed(current_name(state), name))
    state.receive(Synced(7))
    state.send("hi")
    state.receive(Renamed("eve", "zoe"))
    back(state, "zoe")
    assert [state.receive(message(8, "hi", name)) for name in ("ada", "eve")] == [[message(8, "hi", "ada")], []]
    assert unsure(state.receive(Synced(9))) == []


def test_a_line_that_was_said_before_the_last_message() -> None:
    """While a line is unconfirmed the replay begins at the last confirmation; the caller gets no message twice."""
    state = resuming()
    state.send("hi")
    state.receive(message(9))
    for told in (message(12), message(14)):
        state.connection_lost(RESET)
        assert opening(state).endswith(f"/json 7 {ROOM}\n/sync\n")
        state.receive(Welcome("ada", 14, ROOM))
        assert state.receive(message(9)) == []
        assert state.receive(told) == [told]
    assert state.receive(message(8, "hi", "ada")) == []
    assert state.receive(Synced(14)) == []
    state.connection_lost(RESET)
    assert f"/json 14 {ROOM}\n" in opening(state)


@pytest.mark.parametrize(("missing", "told"), [(3, []), (5, [Gap(1)]), (20, [Gap(16)])])
def test_a_gap_before_known_messages(missing: int, told: list[Event]) -> None:
    """Of the messages that are no longer kept, only those are missing that the caller doesn't have."""
    state = resuming()
    state.send("hi")
    state.receive(message(11))
    back(state)
    assert state.receive(Gap(missing)) == told


def test_the_room_reads_a_line_made_clean() -> None:
    """Python's white space may be visible characters to the room."""
    state = resuming()
    state.send("exit\x0c")
    assert not state.is_leaving
    state.send(" exit\t")
    assert state.is_leaving
    state = resuming()
    assert state.send("/sync\x1cfoo") == b"/sync\x1cfoo\n/sync\n"
    state = resuming()
    state.send("/me\x1cwaves")
    back(state)
    assert state.receive(Action("ada", "waves", 8, 60.0)) == [Action("ada", "waves", 8, 60.0)]


def test_the_chosen_name_is_taken_back() -> None:
    """Also a name that was chosen later, by /nick."""
    state = resuming()
    state.receive(Renamed("bob", "cid"))
    assert opening(state).startswith("/nick ada\n")
    state.receive(Renamed("ada", "eve"))
    assert opening(state).startswith("/nick eve\n")


@pytest.mark.parametrize("freed", [Left("Ada"), Renamed("ADA", "cid")])
def test_a_name_that_is_free_only_later(freed: Event) -> None:
    """It is asked for once after the welcome, so that the caller hears it is taken, and whenever it becomes free."""
    state = resuming()
    assert back(state, "51044")[1] == Reconnected("back as 51044", "51044", new_epoch=False, epoch=ROOM)
    assert state.take_request() == b"/nick ada\n"
    refused = Error("the name ada is taken", "name_taken")
    assert state.receive(refused) == [refused]
    state.receive(Left("bob"))
    assert not state.has_request
    assert state.receive(freed) == [freed]
    assert state.take_request() == b"/nick ada\n"
    assert state.receive(Renamed("51044", "ada")) == [Renamed("51044", "ada")]
    state.receive(freed)
    assert not state.has_request


def test_the_queue_is_bounded_and_in_order() -> None:
    """Without one, nothing is kept."""
    with pytest.raises(NotConnected, match=r"^not sent: the connection is lost$"):
        resuming().enqueue("a")
    state = resuming(queue=2)
    state.enqueue("a")
    state.enqueue("b")
    with pytest.raises(NotConnected, match="2 lines are waiting"):
        state.enqueue("c")
    assert list(state.queued) == ["a", "b"]


def test_ends_that_are_no_loss() -> None:
    """We said so, the operator removed us, or the server sends nonsense; lines that are unconfirmed then are told."""
    clean_end = ConnectionClosed("the server ended the conversation", clean=True)
    state = resuming()
    assert not state.is_final_loss(clean_end)
    assert state.is_final_loss(ProtocolError("nonsense"))
    state.send("hi")
    state.receive(Error("you were removed", "removed"))
    assert unsure(state.connection_lost(clean_end)) == ["hi"]
    for end, doubtful in ((clean_end, ["hi"]), (RESET, ["hi"])):
        leaving = resuming()
        leaving.send("hi")
        leaving.send("exit")
        assert leaving.is_final_loss(end)
        assert unsure(leaving.connection_lost(end)) == doubtful
    assert not resuming().is_final_loss(RESET)
