"""Events into `ResumeState`, lines and events out."""

from __future__ import annotations

from typing import Any

from chatkit import ConnectionClosed, Event, Message, Unconfirmed, Welcome
from chatkit.client.opening import Opening
from chatkit.client.resume import ResumeState

ROOM, OTHER_ROOM = "0" * 16, "1" * 16
RESET = ConnectionClosed("Connection reset by peer", clean=False)


def resuming(newest: int = 7, name: str = "ada", queue: int = 0, **asked: Any) -> ResumeState:
    """Return the state of a client that has been welcomed in the room."""
    chosen = None if name.isdecimal() else name
    made = ResumeState(100, Opening(**{"name": chosen, "events": True, **asked}), queue)
    assert made.receive(Welcome(name, newest, ROOM)) == [Welcome(name, newest, ROOM)]
    return made


def opening(state: ResumeState) -> str:
    return state.next_protocol().opening.decode()


def back(state: ResumeState, name: str = "ada", newest: int = 99, room: str = ROOM) -> list[Event]:
    """Lose the connection, take up the next one; return the caller's events."""
    return [*state.connection_lost(RESET), *state.receive(Welcome(name, newest, room))]


def message(number: int, text: str = "hi", sender: str = "bob") -> Message:
    return Message(sender, text, number, 60.0)


def unsure(events: list[Event]) -> list[str]:
    return [event.line for event in events if isinstance(event, Unconfirmed)]
