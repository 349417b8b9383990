"""When something is due, for many at a time."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """A time for each key. `next` is when to ask `due`; asking earlier costs nothing.

    A plain dict, looked through only when something is due: setting and clearing happen far more often.
    """

    __slots__ = ("_times", "next")

    def __init__(self) -> None:
        self._times: dict[Key, float] = {}
        self.next = math.inf

    def set(self, key: Key, time: float) -> None:
        self._times[key] = time
        self.next = min(self.next, time)

    def clear(self, key: Key) -> None:
        self._times.pop(key, None)

    def due(self, now: float) -> list[Key]:
        """The keys whose time has come; they are cleared."""
        if now < self.next:
            return []
        due = [key for key, time in self._times.items() if time <= now]
        for key in due:
            del self._times[key]
        self.next = min(self._times.values(), default=math.inf)
        return due
