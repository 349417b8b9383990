"""Lets lines pass at a rate, and holds the rest back. Knows no clock and no socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from chatkit.protocol.lines import Line

# So much of the time that a member was silent is saved up for it: a second's worth may come at once.
SAVED_SECONDS = 1.0


class Throttle:
    """One member's budget: `per_second` lines. Nothing is dropped: who holds lines back reads no more meanwhile."""

    __slots__ = ("_free_at", "_held", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._held: deque[Line] = deque()
        self._free_at = 0.0

    @property
    def resume_at(self) -> float | None:
        """When the next line may pass, or None if no line is held."""
        return self._free_at + 1 / self._per_second if self._held else None

    def receive(self, lines: Sequence[Line], now: float) -> list[Line]:
        """What may pass now, of the lines held back and then these."""
        self._held += lines
        self._free_at = max(self._free_at, now - max(SAVED_SECONDS, 1 / self._per_second))
        # A billionth of a line is forgiven: at `resume_at` there is one to pass, whatever the rounding.
        number = min(len(self._held), int((now - self._free_at) * self._per_second + 1e-9))
        self._free_at += number / self._per_second
        return [self._held.popleft() for _ in range(number)]

    def release(self) -> list[Line]:
        """Everything that is held back: the room ends."""
        held, self._held = list(self._held), deque()
        return held
