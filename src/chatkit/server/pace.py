"""How much work a worker takes on in one turn, so that nobody waits long for the next one."""

from __future__ import annotations

import time

# A member's line waits for the turn in progress, and for its own. Longer turns cost fewer writes per line.
INPUT_SECONDS = 0.01
# The most expensive lines, a hundred names for each, take about that long for the lowest number.
MIN_LINES, FIRST_LINES, MAX_LINES = 64, 2048, 16384


class Pace:
    """The budget of a turn's input, in lines and in time.

    Operations: `begin`, `share` and `use` for the connections in turn, `end` when their lines are published. Goal: that
    takes about INPUT_SECONDS for lines of any cost: two bytes that become a hundred in JSON, a hundred names, an RSA
    handshake. Plan: if it took longer, the next turn gets half of the lines; if it was short and left something unread,
    twice as many; reading stops when the time is over. Input beyond the budget stays in the kernel, or undecoded.
    Delivery isn't part of it: it takes the same time for few lines.
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
        return self._used >= self._lines or time.monotonic() - self._began > INPUT_SECONDS

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
        if seconds > INPUT_SECONDS:
            self._lines = max(MIN_LINES, self._lines // 2)
        elif seconds < INPUT_SECONDS / 2 and has_more:
            self._lines = min(MAX_LINES, self._lines * 2)
