"""What happens in a room, as values. Text here, bytes only in `encoding` and `protocol`.

`str(event)` is the line that members with plain text receive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Message:
    """A line that a member said to the room: `51044: Hi!`.

    sender: the member's name: its TCP port, or what it chose by `/nick`.
    text: never empty, without line ends and without control characters except TAB.
    id: the place in the room's order, from 1; None where the wire didn't say (plain text).
    time: seconds since the epoch (UTC); None where the wire didn't say.
    """

    sender: str
    text: str
    id: int | None = None
    time: float | None = None

    def __str__(self) -> str:
        return f"{self.sender}: {self.text}"


@dataclass(frozen=True, slots=True)
class Action(Message):
    """A message that tells what its sender does, by `/me`: `* ada waves`."""

    def __str__(self) -> str:
        return f"* {self.sender} {self.text}"


@dataclass(frozen=True, slots=True)
class Private:
    """A line for one member alone, by `/msg`: `ada (private): psst`. No message: it has no id, and no hook sees it.

    sender, text, time: as in `Message`.
    """

    sender: str
    text: str
    time: float | None = None

    def __str__(self) -> str:
        return f"{self.sender} (private): {self.text}"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the room says in words, to one or to all: `*** closing soon`."""

    text: str

    def __str__(self) -> str:
        return f"*** {self.text}"


@dataclass(frozen=True, slots=True)
class Error(Notice):
    """What the room didn't do, or why it ends the conversation. In plain text it is a `Notice`.

    code: a stable word for programs; docs/protocol.md lists them.
    """

    code: str


class _Told:
    """What the room says by itself: `text` has it in words, as a notice would."""

    __slots__ = ()
    _words: ClassVar[str]

    @property
    def text(self) -> str:
        return self._words.format(self)

    def __str__(self) -> str:
        return f"*** {self.text}"


@dataclass(frozen=True, slots=True)
class Welcome(_Told):
    """From here on the conversation is JSON Lines.

    name: the reader's own. newest: the id of the room's last message, 0 before the first.
    epoch: which run of the ids this is: where it is another word, ids began anew.
    """

    _words = "you are {0.name}"
    name: str
    newest: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Synced(_Told):
    """The answer to `/sync`: what was sent before it was heard, and what came up to `newest` has been received."""

    _words = "synced, newest is {0.newest}"
    newest: int


@dataclass(frozen=True, slots=True)
class Joined(_Told):
    """A member came in. Members with plain text get it when the server announces."""

    _words = "{0.name} joined"
    name: str


@dataclass(frozen=True, slots=True)
class Left(_Told):
    """A member is gone, its name free. Told to whom `Joined` is told."""

    _words = "{0.name} left"
    name: str


@dataclass(frozen=True, slots=True)
class Renamed(_Told):
    """A member chose another name. Told to whom `Joined` is told, and to the member itself."""

    _words = "{0.old} is now {0.name}"
    old: str
    name: str


@dataclass(frozen=True, slots=True)
class Gap(_Told):
    """missing: how many messages of those that were asked for are no longer kept."""

    _words = "{0.missing} messages are no longer kept"
    missing: int


# What a client that reconnects tells its own program; none of these is on the wire.


@dataclass(frozen=True, slots=True)
class Disconnected(Notice):
    """The connection is lost; the client is trying to come back."""


@dataclass(frozen=True, slots=True)
class Reconnected(Notice):
    """The client is back. What it missed follows.

    name: its own, from now on. new_epoch: whether the room began anew, with other ids; what was missed can't be known then.
    """

    name: str
    new_epoch: bool


@dataclass(frozen=True, slots=True)
class Unconfirmed(Notice):
    """Nobody knows whether the room heard a line that was sent before the connection was lost; it wasn't sent again.

    line: as it was given to `send`; "" for those that were too many to remember, whose number `text` tells.
    """

    line: str


Event = Message | Private | Notice | Welcome | Synced | Joined | Left | Renamed | Gap
