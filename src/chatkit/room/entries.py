"""What a turn hands to the publisher, in order.

The most frequent entry is no class: a message is the pair (sender, message), whose id the publisher gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatkit.events import Event, Message
from chatkit.protocol.formats import Format
from chatkit.room.members import Member


@dataclass(frozen=True, slots=True)
class Tell:
    """A line for one member alone, encoded in the format that it reads at this place."""

    member: Member
    format: Format
    line: bytes


@dataclass(frozen=True, slots=True)
class Announce:
    """An event for every member that reads one of these formats, but one."""

    event: Event
    formats: Sequence[Format]
    exclude: Member | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """From here on `member` receives what is said, in this format; first a replay.

    Attributes:
        name: the name of the member at this place.
        after: replay the messages with ids above this one; None for as many as newcomers are told.
        epoch: the run of ids that `after` is from; in another one, everything that is kept is replayed.
    """

    member: Member
    format: Format
    name: str
    after: int | None = None
    epoch: str | None = None


@dataclass(frozen=True, slots=True)
class Sync:
    """The answer to `/sync`: the newest id at this place."""

    member: Member
    format: Format


@dataclass(frozen=True, slots=True)
class Leave:
    """The end of a member's conversation; it still gets what comes before it."""

    member: Member
    reason: str


Entry = tuple[Member, Message] | Tell | Announce | Start | Sync | Leave
