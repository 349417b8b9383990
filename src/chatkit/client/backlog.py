"""The bound of the events that wait for a client's caller. No sockets, no waiting: both clients use it."""

from __future__ import annotations

import sys
from collections import deque

from chatkit.events import Event, Members

# Reading stops while more waits for the caller: better a server that waits, and disconnects us in the end, than memory
# that grows without a bound. As much as the server keeps for a slow consumer (max_pending_bytes).
MAX_WAITING_EVENTS = 1000
MAX_WAITING_BYTES = 8 * 1024 * 1024
# No attempt to come back while the events that wait take more memory: each return may bring some that can't be left
# unread. The above fits in characters of four bytes, and an opening besides.
MAX_ABSENT_BYTES = 64 * 1024 * 1024
# The memory of an event besides its strings: an object, an id, a time and a place in a deque.
EVENT_BYTES = 160


class Backlog:
    """The size of the events that wait for the caller.

    Operations: `count` the bytes of each read, before its events are added; `is_full` and `is_overfull`. Goal: bounded
    memory, and no cost per event. Plan: the bytes are those that were read since nothing waited. The memory itself is
    summed up before an attempt to come back, which is seldom.

    Attributes:
        events: the events; the caller takes them.
    """

    __slots__ = ("_bytes", "events")

    def __init__(self, events: deque[Event]) -> None:
        self.events = events
        self._bytes = 0

    def count(self, size: int) -> None:
        """Count bytes that were read."""
        self._bytes = size + (self._bytes if self.events else 0)

    @property
    def is_full(self) -> bool:
        """Whether to read no more for now."""
        return len(self.events) > MAX_WAITING_EVENTS or self._bytes > MAX_WAITING_BYTES

    @property
    def is_overfull(self) -> bool:
        """Whether not to come back for now."""
        return sum(map(memory_of, self.events.copy())) > MAX_ABSENT_BYTES


def memory_of(event: Event) -> int:
    """Return the memory that an event takes, in bytes."""
    if isinstance(event, Members):
        return EVENT_BYTES + sum([EVENT_BYTES + sys.getsizeof(member.name) for member in event.members])
    values = (getattr(event, name) for name in event.__match_args__)
    return EVENT_BYTES + sum(sys.getsizeof(value) for value in values if isinstance(value, str))
