"""The events of a room, as immutable values.

`event.text` is an event in words, `str(event)` the line that members with plain text receive. Bytes are the business of
`chatkit.protocol`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Message:
    """A line from a member to the room: `51044: Hi!`.

    Attributes:
        sender: the member's name: its TCP port, or the name that it took by `/nick`.
        text: never empty, without line ends and without control characters except TAB.
        id: the position in the room's order, from 1; None without `events=True`, as plain text doesn't hold it.
        time: seconds since the Unix epoch (UTC); None without `events=True`.
        own: whether this client sent it; only with `echo=True`, otherwise own messages don't come back.
    """

    sender: str
    text: str
    id: int | None = None
    time: float | None = None
    own: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        return f"{self.sender}: {self.text}"


@dataclass(frozen=True, slots=True)
class Action(Message):
    """A message in the third person, sent by `/me`: `* ada waves`.

    Attributes:
        sender, text, id, time, own: as of `Message`.
    """

    def __str__(self) -> str:
        return f"* {self.sender} {self.text}"


@dataclass(frozen=True, slots=True)
class Private:
    """A line for one member alone, sent by `/msg`: `ada (private): psst`.

    It is no `Message`: it has no id, and the history doesn't keep it.

    Attributes:
        sender, text, time: as of `Message`.
    """

    sender: str
    text: str
    time: float | None = None

    def __str__(self) -> str:
        return f"{self.sender} (private): {self.text}"


@dataclass(frozen=True, slots=True)
class Notice:
    """A line from the room itself, to one member or to all: `*** closing soon`.

    Attributes:
        text: the line without the stars.
    """

    text: str

    def __str__(self) -> str:
        return f"*** {self.text}"


class Unmarked(Notice):
    """A line of no known form, from a server of another kind: its text is all of the line."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Error(Notice):
    """A refused request, or the reason why the room ends the conversation. Without `events=True` it is a `Notice`.

    Attributes:
        text: the error in words.
        code: a stable word for programs; docs/protocol.md lists them.
    """

    code: str


class _Announcement:
    """The base of events whose text follows from their other fields."""

    __slots__ = ()
    _words: ClassVar[str]

    @property
    def text(self) -> str:
        """Return the event in words, without the stars."""
        return self._words.format(self)

    def __str__(self) -> str:
        return f"*** {self.text}"


@dataclass(frozen=True, slots=True)
class Welcome(_Announcement):
    """The first event with `events=True`: the conversation is JSON Lines from here on.

    Attributes:
        name: this member's own name.
        newest: the id of the room's last message, 0 before the first.
        epoch: the name of the current run of ids: since the room's last start.
        resume: a secret, by which this member may take its place again on another connection; "" if there is none.
        common: in answer to the epoch of an earlier start: ids up to this one mean the same in both. Else None.
    """

    _words = "you are {0.name}"
    name: str
    newest: int
    epoch: str
    resume: str = field(default="", repr=False, compare=False)  # a repr may end up in a log
    common: int | None = None


@dataclass(frozen=True, slots=True)
class Synced(_Announcement):
    """The answer to `/sync`: the room has received every line before it.

    Attributes:
        newest: the id up to which this client has received every message.
    """

    _words = "synced, newest is {0.newest}"
    newest: int


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """A member as `Members` lists it.

    Attributes:
        name: its name.
        id: a number of its own, which stays when the name changes.
    """

    name: str
    id: int


@dataclass(frozen=True, slots=True)
class Members(_Announcement):
    """The members at one moment, or some of them: the answer to `/who` with `events=True`.

    Attributes:
        members: up to 100 of them, in the order in which they got their names.
        more: whether the next `Members` continues the list.
    """

    members: tuple[MemberInfo, ...]
    more: bool

    @property
    def text(self) -> str:
        """Return the list in words, without the stars."""
        names = ", ".join(member.name for member in self.members)
        return f"{len(self.members)} here: {names}{' and more' if self.more else ''}"


@dataclass(frozen=True, slots=True)
class Joined(_Announcement):
    """A new member, as of its first line or a second later. Plain text has it if the server has `announce=True`.

    Attributes:
        name: the member's name.
    """

    _words = "{0.name} joined"
    name: str


@dataclass(frozen=True, slots=True)
class Left(_Announcement):
    """The end of a membership; the name is free. Delivered to the same members as `Joined`.

    Attributes:
        name: the member's last name.
    """

    _words = "{0.name} left"
    name: str


@dataclass(frozen=True, slots=True)
class Renamed(_Announcement):
    """A member's new name. Delivered to the same members as `Joined`, and to the member itself.

    Attributes:
        old: the name before.
        name: the new name.
    """

    _words = "{0.old} is now {0.name}"
    old: str
    name: str


@dataclass(frozen=True, slots=True)
class Gap(_Announcement):
    """A gap in a replay: requested messages that the room no longer keeps.

    Attributes:
        missing: their number.
    """

    _words = "{0.missing} messages are no longer kept"
    missing: int


# Events of a client with `reconnect=True`. The client makes them; they aren't on the wire.


@dataclass(frozen=True, slots=True)
class Disconnected(Notice):
    """The loss of the connection. The client tries to come back.

    Attributes:
        text: the loss and its reason, in words.
    """


@dataclass(frozen=True, slots=True)
class Reconnected(Notice):
    """The return to the room. The messages that the client missed follow.

    Attributes:
        text: the return, in words.
        name: this member's own name from now on.
        new_epoch: whether the room has started anew, or with an old backup of its history: other messages have its ids
            now. The messages that were missed before are lost then, and their number is unknown.
        epoch: the name of the run of ids, as in `Welcome`.
    """

    name: str
    new_epoch: bool
    epoch: str


@dataclass(frozen=True, slots=True)
class Unconfirmed(Notice):
    """A line that was sent before a loss and that the room may or may not have received. It isn't sent again.

    Attributes:
        text: the same in words.
        line: as given to `send`. "" stands for several lines, too many to remember; `text` has their number.
    """

    line: str


Event = Message | Private | Notice | Welcome | Synced | Joined | Left | Renamed | Gap | Members
