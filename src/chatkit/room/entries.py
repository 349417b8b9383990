"""The entries that a turn hands to the publisher, in order.

The most frequent entry has no class: a message is a pair (sender, message); the publisher sets its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatkit.events import Event, Message
from chatkit.protocol.formats import Format
from chatkit.room.listing import Listing
from chatkit.room.members import Member


@dataclass(frozen=True, slots=True)
class Tell:
    """A line for one member alone, encoded in the format that it reads at this point."""

    member: Member
    format: Format
    line: bytes


@dataclass(frozen=True, slots=True)
class Announce:
    """An event for every member that reads one of these formats, except one member."""

    event: Event
    formats: Sequence[Format]
    exclude: Member | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """The point from which a member receives everything, in this format; a replay comes first.

    Attributes:
        name: the name of the member at this point.
        after: replay the messages with ids above this one; None for as many as a new member receives.
        epoch: the epoch (run of ids) of `after`; ids that mean something else in the current one don't count.
        token: the token by which the member may come back to its place.
    """

    member: Member
    format: Format
    name: str
    after: int | None = None
    epoch: str | None = None
    token: str = ""


@dataclass(frozen=True, slots=True)
class Sync:
    """The answer to `/sync`: the newest id at this point."""

    member: Member
    format: Format


@dataclass(frozen=True, slots=True)
class Leave:
    """The end of a member's conversation; entries before it are still delivered to the member."""

    member: Member
    reason: str


Entry = tuple[Member, Message] | Tell | Announce | Subscription | Listing | Sync | Leave
