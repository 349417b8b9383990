"""Members whose join isn't announced yet: it waits for a name, a first line, or a moment."""

from __future__ import annotations

import math

from chatkit.room.members import Member

# A client sends its name right after it has connected. Peers that only probe the port are gone within this time.
WAIT_SECONDS = 1.0
# Members whose time comes within this are announced together: so thousands that join are few deliveries to all.
GROUP_SECONDS = 0.05


class Arrivals:
    """Members whose join isn't announced yet. Changed only under the room's lock.

    Operations: `add` a member, `remove` it, get those that are `due`. Goal: each costs one step, however many join
    in a second. Plan: all wait equally long, so the dict is in the order of time.

    Attributes:
        next_due: the time (`time.monotonic`) when `due` must be called; calling it earlier costs nothing.
    """

    def __init__(self) -> None:
        self.next_due = math.inf
        self._waiting: dict[Member, float] = {}  # each with its time

    def __contains__(self, member: Member) -> bool:
        return member in self._waiting

    def add(self, member: Member, now: float) -> None:
        """Have a new member wait."""
        self._waiting[member] = now + WAIT_SECONDS
        self.next_due = min(self.next_due, now + WAIT_SECONDS + GROUP_SECONDS)

    def remove(self, member: Member) -> bool:
        """End the wait of a member. Returns whether it was waiting."""
        return self._waiting.pop(member, None) is not None

    def replace(self, member: Member, other: Member) -> None:
        """If a member waits, have another wait in its place, until it is removed: for that one no time comes."""
        if self.remove(member):
            self._waiting[other] = math.inf

    def due(self, now: float) -> list[Member]:
        """Return the members that have waited long enough, in the order of their joins. They wait no more."""
        due, self.next_due = list[Member](), math.inf
        for member, time in self._waiting.items():
            if time <= now:
                due.append(member)
            elif time != math.inf:
                self.next_due = time + GROUP_SECONDS
                break
        for member in due:
            del self._waiting[member]
        self._waiting = self._waiting or {}  # a dict that is emptied keeps its size
        return due
