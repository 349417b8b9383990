"""One deadline for each of many keys."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """A time for each key, at which its owner checks the key's deadlines.

    Operations: `arm` a key, get the keys that are `due`, `clear` a key. Goal: arming, the most frequent, costs one
    look-up, and disarming nothing. Plan: a time is only brought forward. If a wait ends or becomes longer, its key is
    returned once too early; the owner checks it and arms it anew. The times are a plain dict, searched only when one
    is due.

    Attributes:
        next: the time when `due` must be called; calling it earlier costs nothing.
    """

    __slots__ = ("_times", "next")

    def __init__(self) -> None:
        self._times: dict[Key, float] = {}
        self.next = math.inf

    def arm(self, key: Key, time: float) -> None:
        """Return the key from `due` at this time at the latest."""
        if time < self._times.get(key, math.inf):
            self._times[key] = time
            self.next = min(self.next, time)

    def clear(self, key: Key) -> None:
        """Drop the time of a key."""
        self._times.pop(key, None)

    def due(self, now: float) -> list[Key]:
        """Return the keys whose time has come, and drop their times."""
        if now < self.next:
            return []
        due = [key for key, time in self._times.items() if time <= now]
        for key in due:
            del self._times[key]
        self.next = min(self._times.values(), default=math.inf)
        return due
