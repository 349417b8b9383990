"""What the server counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one moment, since the start.

    members: present now. messages: accepted from members. deliveries: messages times those they were handed to.
    bytes: of all lines that were handed to members, and to those who were refused. slow_consumers: members that were cut off.
    refused: connections not taken, by reason (`full`, `address`, `handler`).
    unstored: messages that the history should have, and hasn't, because of its disk.
    dropped: lines that the handler, such as a transcript, could not keep; it says so by an attribute of that name.
    """

    members: int
    messages: int
    deliveries: int
    bytes: int
    slow_consumers: int
    refused: dict[str, int]
    unstored: int
    dropped: int
