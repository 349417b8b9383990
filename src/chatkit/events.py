"""What happens in a room, as values. Text here, bytes only in `protocol`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """A line that a member said to the room.

    `str(message)` is the line that members with plain text receive: `51044: Hi!`.

    sender: the member's name, which is its TCP port.
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
class Notice:
    """Something the room itself says. `str(notice)` is its line: `*** the room is full`."""

    text: str

    def __str__(self) -> str:
        return f"*** {self.text}"


Event = Message | Notice
