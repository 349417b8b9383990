"""Members whose join isn't announced yet: it waits for a name, a first line, or a moment."""

from __future__ import annotations

import math
from collections import deque

from chatkit.room.members import Member

# A client sends its name right after it has connected. Peers that only probe the port are gone within this time.
WAIT_SECONDS = 1.0


class Arrivals:
    """Members whose join isn't announced yet. Changed only under the room's lock.

    Operations: `add` a member, `remove` it, get those that are `due`. Goal: each costs one step, however many join
    in a second. Plan: all wait equally long, so the queue is in the order of time. `remove` leaves a member in the
    queue; `due` passes over it.

    Attributes:
        next_due: the time (`time.monotonic`) when `due` must be called; calling it earlier costs nothing.
    """

    def __init__(self) -> None:
        self.next_due = math.inf
        self._waiting: set[Member] = set()
        self._queue: deque[tuple[float, Member]] = deque()

    def __contains__(self, member: Member) -> bool:
        return member in self._waiting

    def add(self, member: Member, now: float) -> None:
        """Have a new member wait."""
        self._waiting.add(member)
        self._queue.append((now + WAIT_SECONDS, member))
        self.next_due = self._queue[0][0]

    def remove(self, member: Member) -> bool:
        """End the wait of a member. Returns whether it was waiting."""
        if member not in self._waiting:
            return False
        self._waiting.remove(member)
        return True

    def replace(self, member: Member, other: Member) -> None:
        """If a member waits, have another wait in its place, until it is removed: for that one no time comes."""
        if self.remove(member):
            self._waiting.add(other)

    def due(self, now: float) -> list[Member]:
        """Return the members that have waited long enough, in the order of their joins. They wait no more."""
        due = list[Member]()
        while self._queue and self._queue[0][0] <= now:
            member = self._queue.popleft()[1]
            if self.remove(member):
                due.append(member)
        self.next_due = self._queue[0][0] if self._queue else math.inf
        return due
