"""Counters of the server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self


@dataclass(slots=True)
class Counters:
    """Counters of one worker, changed by its thread alone.

    Attributes:
        deliveries: the number of (message, member) pairs that were delivered, senders included.
        sent_bytes: the bytes of all lines that were handed to connections.
        slow_consumers: the number of members that were disconnected for reading too slowly.
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
    """The counters of a server at one moment, since its start.

    Attributes:
        members: the number of members that are present now.
        messages: the number of messages that were fanned out.
        deliveries: the number of (message, member) pairs that were delivered, senders not included.
        bytes: the bytes of all lines for members, and for connections that were refused.
        slow_consumers: the number of members that were disconnected for reading too slowly.
        refused: the number of refused connections, by reason (`full`, `address`, `refused`, `handler`).
        unstored: the number of messages that the history could not store, such as on a full disk.
        dropped: the number of lines that the handler lost, such as a transcript (its attribute of that name).
    """

    members: int
    messages: int
    deliveries: int
    bytes: int
    slow_consumers: int
    refused: dict[str, int]
    unstored: int
    dropped: int
