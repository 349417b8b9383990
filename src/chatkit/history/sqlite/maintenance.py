"""What an SQLite history has to do exclude keeping messages: checkpoints, pruning, the index. In small steps."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Sequence

from chatkit.events import Message
from chatkit.history.base import bytes_of
from chatkit.history.sqlite.queries import checkpoint, index_next, last_to_prune, make_index, prune

# What a power failure may take, at the most (`sync="normal"`): what was committed since the last checkpoint.
CHECKPOINT_SECONDS = 10.0
# SQLite's own default, 1000 pages of 4 KiB: later the log is slow to read, sooner the disk is busy.
CHECKPOINT_BYTES = 4 * 1024 * 1024
# A step is short: whoever speaks meanwhile waits for it. But it prunes twice what was said since the last one, in a flood
# too: each statement may have to wait for the interpreter's lock, so it is a few large ones then.
ROWS_AT_ONCE, MOST_ROWS_AT_ONCE = 250, 20_000
STEP_SECONDS = 0.005
# How often to look for messages that are too old.
DAYS_SECONDS = 60.0
# The index can wait until nobody speaks for a moment.
PAUSE_SECONDS = 0.1


class Upkeep:
    """days: for how many days messages are kept, None for ever.

    pruned_upto: messages up to this id were removed.
    """

    def __init__(self, connection: sqlite3.Connection, days: float | None) -> None:
        self._connection = connection
        self._days = days
        self._unsaved_bytes = 0
        self._unsaved_since = math.inf
        self._said = 0
        self.pruned_upto = 0
        self._has_search: bool | None = None
        self._is_indexed = False

    def count(self, messages: Sequence[Message]) -> None:
        """These were committed."""
        self._said += len(messages)
        self._unsaved_bytes += sum(map(bytes_of, messages))
        self._unsaved_since = min(self._unsaved_since, time.monotonic())
        self._is_indexed = False

    def step(self, *, idle: bool, oldest_to_keep: int | None) -> float:
        """Do some of what there is to do; in how many seconds there will be more.

        oldest_to_keep: messages with lower ids are pruned.
        """
        until = time.monotonic() + STEP_SECONDS
        has_more = self._prune(oldest_to_keep, until)
        if idle and not has_more:
            has_more = self._index(until)
        now = time.monotonic()
        if self._unsaved_bytes >= CHECKPOINT_BYTES or now - self._unsaved_since >= CHECKPOINT_SECONDS:
            self._checkpoint()
        if has_more:
            return 0.0
        waits = PAUSE_SECONDS if not idle else DAYS_SECONDS if self._days else math.inf
        return min(waits, max(0.0, self._unsaved_since + CHECKPOINT_SECONDS - now))

    def _checkpoint(self) -> None:
        """Move what the log has into the file itself; the kernel writes both to the disk first."""
        checkpoint(self._connection, "PASSIVE")
        self._unsaved_bytes, self._unsaved_since = 0, math.inf

    def _prune(self, oldest_to_keep: int | None, until: float) -> bool:
        """Remove what isn't to be kept; whether there is more of it."""
        if oldest_to_keep is None and self._days is None:
            return False
        before = time.time() - self._days * 86400 if self._days else -math.inf
        number = max(ROWS_AT_ONCE, min(2 * self._said, MOST_ROWS_AT_ONCE))
        self._said = 0
        while time.monotonic() < until:
            oldest = last_to_prune(self._connection, number, oldest_to_keep or 0, before)
            if oldest is None:
                return False
            prune(self._connection, oldest, has_index=self._searches)
            self.pruned_upto = oldest
        return True

    def _index(self, until: float) -> bool:
        """Make some more messages known to the index; whether there are more."""
        if self._is_indexed or not self._searches:
            return False
        while time.monotonic() < until:
            if not index_next(self._connection, ROWS_AT_ONCE):
                self._is_indexed = True
                return False
        return True

    @property
    def _searches(self) -> bool:
        if self._has_search is None:
            self._has_search = make_index(self._connection)
        return self._has_search
