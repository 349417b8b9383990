"""Lines of plain text to events. `chatkit.protocol.formats` has the other way."""

from __future__ import annotations

import re

from chatkit.events import Action, Event, Message, Notice, Private, Unmarked

_SPOKEN = re.compile(r"([^\s:*]+)( \(private\))?: (.*)", re.DOTALL)
_ACTED = re.compile(r"\* ([^\s:*]+) (.*)", re.DOTALL)


def parse_text(line: str) -> Event:
    """Return the event in a line of plain text; a line of unknown form is a notice."""
    if spoken := _SPOKEN.fullmatch(line):
        sender, private, text = spoken.groups()
        return Private(sender, text) if private else Message(sender, text)
    if acted := _ACTED.fullmatch(line):
        return Action(acted[1], acted[2])
    return Notice(line.removeprefix("*** "))


def parse_foreign_text(line: str) -> Event:
    """Return the event in a line of plain text from a server of any kind: its `str` is the line."""
    event = parse_text(line)
    return Unmarked(line) if isinstance(event, Notice) and str(event) != line else event
