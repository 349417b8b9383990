"""How much work a worker takes on in one turn, so that nobody waits long for the next one."""

from __future__ import annotations

import time

# A member's line waits for the turn in progress, and for its own. Longer turns cost fewer writes per line.
TURN_SECONDS = 0.02
# Few enough at the beginning that the most expensive lines take no longer than that.
MIN_LINES, FIRST_LINES, MAX_LINES = 16, 512, 16384


class Pace:
    """The budget of a turn: lines to decode, and time to read.

    Operations: `begin`, `share` and `use` for the connections in turn, `end`. Goal: a turn takes about TURN_SECONDS,
    whatever the lines cost: two bytes to a thousand JSON readers, a hundred names, an RSA handshake. Plan: after a
    long turn the next one gets half of the lines, after a short one that left something unread twice as many; reading
    stops when half of the time is over. Input beyond the budget stays in the kernel, or undecoded.
    """

    def __init__(self) -> None:
        self._lines = FIRST_LINES
        self._used = 0
        self._began = 0.0

    def begin(self) -> None:
        """Begin a turn."""
        self._used = 0
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether this turn should read no more."""
        return self._used >= self._lines or time.monotonic() - self._began > TURN_SECONDS / 2

    def share(self, connections: int) -> int:
        """Return how many lines one of so many connections may bring."""
        return max(1, self._lines // connections)

    def use(self, lines: int) -> None:
        """Count lines that were decoded."""
        self._used += lines

    def end(self, *, has_more: bool) -> None:
        """End the turn: set the budget of the next one.

        Args:
            has_more: whether the budget left something unread.
        """
        seconds = time.monotonic() - self._began
        if seconds > TURN_SECONDS:
            self._lines = max(MIN_LINES, self._lines // 2)
        elif seconds < TURN_SECONDS / 2 and has_more:
            self._lines = min(MAX_LINES, self._lines * 2)
