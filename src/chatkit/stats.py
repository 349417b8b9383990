"""What the server counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one moment, since the start.

    members: present now. messages: accepted from members. deliveries: messages times those they were handed to.
    slow_consumers: members that were cut off. refused: connections not taken, by reason (`full`, `address`, `handler`).
    """

    members: int
    messages: int
    deliveries: int
    slow_consumers: int
    refused: dict[str, int]
