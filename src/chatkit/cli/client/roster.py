"""The names in a room, as far as its lines have told them. No I/O."""

from __future__ import annotations

import re

from chatkit.events import Event, Joined, Left, Message, Notice, Private, Reconnected, Renamed, Welcome
from chatkit.protocol.names import name_key
from chatkit.protocol.replies import now_named

# As many members as a room has by default.
MAX_NAMES = 10_000

_NAME = r"([^\s:*]+)"
_ANNOUNCED = re.compile(rf"{_NAME} (?:joined|left|is now {_NAME})")
_NOW_NAMED = re.compile(re.escape(now_named("NAME")).replace("NAME", _NAME))
_WHO = re.compile(r"\d+ here: (.*?)(?: and \d+ more)?")


class Roster:
    """This member's own name, and the names of others that are here or have spoken.

    A room tells members that read plain text little. So this takes in what there is: senders, announcements, the answer
    to `/who`; with JSON also the events of joins and leaves.

    Attributes:
        own: this member's name.
        knows_commands: whether an event has shown that the server knows chatkit's commands.
    """

    def __init__(self, own: str) -> None:
        self.own = own
        self.knows_commands = False
        self._names = dict[str, str]()  # by key; the latest last
        self._latest = ""

    def receive(self, event: Event) -> None:
        """Take in the names of an event."""
        match event:
            case Message(sender=name) | Private(sender=name) | Joined(name=name):
                self._add(name)
            case Left(name=name):
                self._remove(name)
            case Renamed(old=old, name=name):
                self._rename(old, name)
            case Welcome(name=name) | Reconnected(name=name):
                self.own = name
                self.knows_commands = True
            case Notice(text=text):
                self._receive_notice(text)

    def follow(self, event: Event) -> list[Event]:
        """Take in the names of an event. Return the events to show in its place: itself."""
        self.receive(event)
        return [event]

    @property
    def others(self) -> list[str]:
        """Return the names of the others, the latest first."""
        own = name_key(self.own)
        return [name for key, name in reversed(self._names.copy().items()) if key != own]

    def _receive_notice(self, text: str) -> None:
        """Read the sentences about names."""
        if announced := _ANNOUNCED.fullmatch(text):
            old, name = announced.groups()
            if name:
                self._rename(old, name)
            elif text.endswith(" joined"):
                self._add(old)
            else:
                self._remove(old)
        elif named := _NOW_NAMED.fullmatch(text):
            self.own = named[1]
            self.knows_commands = True
        elif is_who_answer(text):
            self.knows_commands = True
            for name in reversed(_who_names(text)):
                self._add(name)

    def _add(self, name: str) -> None:
        if name == self._latest:  # in most floods one member speaks
            return
        self._remove(name)
        self._names[name_key(name)] = self._latest = name
        if len(self._names) > MAX_NAMES:
            del self._names[next(iter(self._names))]

    def _remove(self, name: str) -> None:
        self._latest = ""
        self._names.pop(name_key(name), None)

    def _rename(self, old: str, name: str) -> None:
        if old == self.own:
            self.own = name
        self._remove(old)
        self._add(name)


def is_who_answer(text: str) -> bool:
    """Tell whether a notice is the room's answer to `/who`."""
    return bool(_WHO.fullmatch(text))


def _who_names(text: str) -> list[str]:
    match = _WHO.fullmatch(text)
    return match[1].split(", ") if match else []
