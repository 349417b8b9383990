"""When to look at something again, for many at a time."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """A time for each key, at which to ask what is due. `next` is when to call `due`; earlier costs nothing.

    Plan: the key itself knows what it waits for. A time is only ever brought forward; where a wait has ended or
    become longer, the key is asked once for nothing, and says when it is really due. So arming costs one look-up,
    and disarming nothing. It is a plain dict, looked through only when something is due.
    """

    __slots__ = ("_times", "next")

    def __init__(self) -> None:
        self._times: dict[Key, float] = {}
        self.next = math.inf

    def arm(self, key: Key, time: float) -> None:
        """Ask about the key at this time, at the latest."""
        if time < self._times.get(key, math.inf):
            self._times[key] = time
            self.next = min(self.next, time)

    def clear(self, key: Key) -> None:
        """Don't ask about the key."""
        self._times.pop(key, None)

    def due(self, now: float) -> list[Key]:
        """Return the keys whose time has come; they have no time then."""
        if now < self.next:
            return []
        due = [key for key, time in self._times.items() if time <= now]
        for key in due:
            del self._times[key]
        self.next = min(self._times.values(), default=math.inf)
        return due
