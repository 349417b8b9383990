"""Counters of the server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self


@dataclass(slots=True)
class Counters:
    """Counters of one worker, changed by its thread alone.

    Attributes:
        deliveries: messages times the members that they were handed to, senders included.
        sent_bytes: bytes handed to connections.
        slow_consumers: members that were cut off for reading too slowly.
    """

    deliveries: int = 0
    sent_bytes: int = 0
    slow_consumers: int = 0

    @classmethod
    def total(cls, counters: Iterable[Self]) -> Self:
        """Return the sum of several workers' counters."""
        each = list(counters)
        return cls(*[sum(getattr(one, field.name) for one in each) for field in fields(cls)])


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one moment, since the start.

    Attributes:
        members: present now.
        messages: accepted from members.
        deliveries: messages times the members that they were handed to.
        bytes: bytes of all lines handed to members, and to connections that were refused.
        slow_consumers: members that were cut off for reading too slowly.
        refused: connections not taken, by reason (`full`, `address`, `handler`).
        unstored: messages that the history lacks, because of its disk.
        dropped: lines that the handler, such as a transcript, could not keep (its attribute of that name).
    """

    members: int
    messages: int
    deliveries: int
    bytes: int
    slow_consumers: int
    refused: dict[str, int]
    unstored: int
    dropped: int
