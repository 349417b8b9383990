"""Own messages that come back, over losses and returns."""

from __future__ import annotations

from typing import Any

import pytest

from chatkit import (
    Action,
    Client,
    Disconnected,
    Message,
    NotConnected,
    Reconnected,
    Server,
    Synced,
    Unconfirmed,
    Welcome,
)
from chatkit.client.opening import Opening
from chatkit.client.resume import ResumeState
from tests.helpers.both import Absence, Connect
from tests.helpers.peers import DEADLINE
from tests.helpers.proxy import Proxy
from tests.helpers.reconnecting import QUICK
from tests.helpers.resuming import OTHER_ROOM, ROOM, back, message, opening, resuming, unsure
from tests.helpers.servers import Serve


def own(number: int, text: str = "hi") -> Message:
    return Message("ada", text, number, 60.0, own=True)


def test_each_connection_asks_for_the_echo() -> None:
    """The first, and those that replace it."""
    first = ResumeState(100, Opening(events=True, echo=True), queue=0)
    assert opening(first) == "/json echo\n"
    first.receive(Welcome("51044", 3, ROOM))
    assert opening(first) == f"/json 3 {ROOM} echo\n/sync\n"
    assert opening(ResumeState(100, Opening(name="ada", events=True, after=7, echo=True), queue=0)) == (
        "/nick ada\n/json 7 echo\n"
    )


def test_an_echo_confirms_its_line() -> None:
    """And moves the cursors: nothing is reported or repeated after a loss, even if the room begins anew."""
    state = resuming(7, echo=True)
    for text in ("hi", "/me waves", "/say exit"):
        state.send(text)
    waves = Action("ada", "waves", 9, 60.0, own=True)
    assert state.receive(own(8)) == [own(8)]
    assert state.receive(waves) == [waves]
    assert f"/json 9 {ROOM} echo\n" in opening(state)
    assert unsure(back(state, room=OTHER_ROOM)) == ["/say exit"]


def test_an_echo_before_the_answer_to_an_earlier_sync() -> None:
    """No line counts as forgotten then."""
    state = resuming(7, echo=True)
    assert state.send("a") == b"a\n/sync\n"
    state.send("b")
    state.receive(own(8, "a"))
    state.receive(own(9, "b"))
    state.receive(Synced(8))
    assert unsure(back(state, room=OTHER_ROOM)) == []
    state.send("c")
    assert unsure(back(state, room=OTHER_ROOM, newest=1)) == []
    assert unsure(state.receive(Synced(1))) == ["c"]


def test_a_line_in_doubt_comes_back_as_ones_own() -> None:
    """From the replay after a loss, once; a line that isn't there is reported."""
    state = resuming(7, echo=True)
    for text in ("heard", "lost"):
        state.send(text)
    back(state)
    assert state.receive(message(8, "heard", "ada")) == [own(8, "heard")]
    assert unsure(state.receive(Synced(8))) == ["lost"]
    back(state)
    assert state.receive(message(8, "heard", "ada")) == []


def test_an_echo_is_not_repeated_by_the_replay() -> None:
    """Also if that has to begin before it, as a later line is in doubt."""
    state = resuming(7, echo=True)
    for text in ("one", "two"):
        state.send(text)
    state.receive(own(8, "one"))
    back(state)
    assert state.receive(message(8, "one", "ada")) == []
    assert state.receive(message(9, "two", "ada")) == [own(9, "two")]
    assert unsure(state.receive(Synced(9))) == []


def test_a_new_line_with_the_words_of_a_lost_one() -> None:
    """Its echo doesn't confirm the lost one, even if it overtakes the end of the replay."""
    state = resuming(7, echo=True)
    state.send("hi")
    back(state)
    state.send("hi")
    assert state.receive(own(8)) == [own(8)]
    assert unsure(state.receive(Synced(8))) == ["hi"]


def test_a_changed_message_confirms_nothing() -> None:
    """A handler said it otherwise; the answer to /sync confirms it."""
    state = resuming(7, echo=True)
    assert b"/sync" in state.send("shout")
    assert state.receive(own(8, "SHOUT")) == [own(8, "SHOUT")]
    assert state.receive(Synced(8)) == []
    assert unsure(back(state, room=OTHER_ROOM)) == []


def events_of(client: Any, last: str) -> list[Any]:
    """Return the events up to the message with this text."""
    events = [client.call("receive", timeout=DEADLINE)]
    while not (isinstance(events[-1], Message) and events[-1].text == last):
        events.append(client.call("receive", timeout=DEADLINE))
    return events


def test_own_messages_over_a_loss(serve: Serve, connect: Connect, absence: Absence) -> None:
    """Each once, in its place, marked as its own: said before, in doubt, and after the return."""
    started = serve()
    with Proxy(started.port) as proxy, Client(port=started.port, name="ann") as ann:
        bob = connect(proxy.port, name="bob", reconnect=True, echo=True)
        bob.receive(Welcome)
        link = proxy.link_of(bob.client)
        bob.call("say", "one")
        assert ann.receive(DEADLINE).text == "one"
        assert bob.receive(Message).own
        link.to_client.stall()
        bob.call("say", "two")
        assert ann.receive(DEADLINE).text == "two"
        ann.say("hers")
        absence.seconds = 0.2
        link.reset()
        events = events_of(bob, "hers")
        bob.call("say", "three")
        events += events_of(bob, "three")
    said = [event for event in events if isinstance(event, Message)]
    assert [(event.id, event.text, event.own) for event in said] == [
        *((2, "two", True), (3, "hers", False), (4, "three", True)),
    ]
    assert [type(event) for event in events[:2]] == [Disconnected, Reconnected]
    assert not [event for event in events if isinstance(event, Unconfirmed)]


def test_a_confirmation_that_a_loss_takes_away(serve: Serve, connect: Connect, absence: Absence) -> None:
    """ConnectionError: the room may have it or not. Its fate comes with the return: the message, or `Unconfirmed`."""
    started = serve()
    with Proxy(started.port) as proxy, Client(port=started.port, name="ann") as ann:
        bob = connect(proxy.port, name="bob", reconnect=True, echo=True)
        bob.receive(Welcome)
        for direction, fate in (("to_client", Message), ("to_server", Unconfirmed)):
            link = proxy.link_of(bob.client)
            getattr(link, direction).stall(0 if fate is Message else 3)
            absence.seconds = 0.2
            asking = bob.begin("say", f"{direction}", confirm=True)
            if fate is Message:
                assert ann.receive(DEADLINE).text == direction
            else:
                link.to_server.wait_stalled()
            link.reset()
            with pytest.raises(ConnectionError, match="lost before the answer"):
                asking.result(DEADLINE)
            event = bob.receive(fate)
            assert getattr(event, "text" if fate is Message else "line") == direction
            assert fate is Unconfirmed or event.own
            assert bob.call("say", f"{direction} again", confirm=True).text == f"{direction} again"
            assert ann.receive(DEADLINE).text == f"{direction} again"


def test_questions_during_an_absence(serve: Serve, connect: Connect, absence: Absence) -> None:
    """NotConnected, also with a queue; what is said without a confirmation is queued as before."""
    port = (started := serve(limits=QUICK)).port
    bob = connect(port, name="bob", reconnect=True, echo=True, queue=5)
    bob.receive(Welcome)
    absence.seconds = 0.5
    started.server.shutdown()
    bob.receive(Disconnected)
    for verb, arguments, options in (("say", ["hi"], {"confirm": True}), ("members", [], {})):
        with pytest.raises(NotConnected):
            bob.call(verb, *arguments, **options)
    bob.call("say", "/queued\nexit")
    bob.call("tell", "bob", "to myself")
    assert bob.client.queued == ["/say /queued", "/say exit", "/msg bob to myself"]
    with Server(port=port, limits=QUICK):
        assert bob.receive(Reconnected).new_epoch
        assert [bob.receive(Message).text for _ in range(2)] == ["/queued", "exit"]
        assert [member.name for member in bob.call("members")] == ["bob"]


def test_a_loss_while_the_room_lists_its_members(serve: Serve, connect: Connect, absence: Absence) -> None:
    """ConnectionError, and no trace of the question: it isn't a line whose fate matters."""
    started = serve()
    with Proxy(started.port) as proxy:
        bob = connect(proxy.port, name="bob", reconnect=True)
        bob.receive(Welcome)
        link = proxy.link_of(bob.client)
        link.to_server.stall(3)
        asking = bob.begin("members")
        link.to_server.wait_stalled()
        link.reset()
        with pytest.raises(ConnectionError):
            asking.result(DEADLINE)
        bob.receive(Reconnected)
        bob.call("send", "/sync")
        assert isinstance(bob.call("receive", timeout=DEADLINE), Synced)
