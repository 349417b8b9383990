"""A limit on the rate of lines: lines beyond it are held back. No clock, no socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from chatkit.protocol.lines import Line

# The maximum of silent time that a member saves up: after a silence, lines for one second pass at once.
SAVED_SECONDS = 1.0


class Throttle:
    """The budget of one member. No line is dropped: while lines are held back, its owner stops reading.

    Args:
        per_second: the number of lines per second.
    """

    __slots__ = ("_free_at", "_held", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._held: deque[Line] = deque()
        self._free_at = 0.0

    @property
    def resume_at(self) -> float | None:
        """The time when the next line may pass, or None if no line is held."""
        return self._free_at + 1 / self._per_second if self._held else None

    def receive(self, lines: Sequence[Line], now: float) -> list[Line]:
        """Return the lines that may pass now: held ones first, then these."""
        self._held += lines
        self._free_at = max(self._free_at, now - max(SAVED_SECONDS, 1 / self._per_second))
        # A billionth of a line absorbs rounding errors: at `resume_at` one line must pass.
        number = min(len(self._held), int((now - self._free_at) * self._per_second + 1e-9))
        self._free_at += number / self._per_second
        return [self._held.popleft() for _ in range(number)]

    def release(self) -> list[Line]:
        """Return all held lines, at the end of the room."""
        held, self._held = list(self._held), deque()
        return held
