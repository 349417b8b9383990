"""The work of an SQLite history beside appending: checkpoints, pruning, the search index. Done in short steps."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Sequence
from datetime import timedelta

from chatkit.events import Message
from chatkit.history.base import estimated_bytes
from chatkit.history.sqlite import queries

logger = logging.getLogger("chatkit")

# With sync="normal" a power failure loses at most the commits since the last checkpoint.
CHECKPOINT_SECONDS = 10.0
# SQLite's own default, 1000 pages of 4 KiB: with more the log is slow to read, with less the disk is busy.
CHECKPOINT_BYTES = 4 * 1024 * 1024
# A message waits for a step that has begun, so a step is short. In a flood it still prunes twice as many messages as
# came since the last step, in few large statements: each may have to wait for the interpreter's lock.
MIN_ROWS, MAX_ROWS = 250, 20_000
STEP_SECONDS = 0.005
# How often to look for messages older than `days`.
AGE_SECONDS = 60.0
# A clock that is set by so much at once has jumped. Less is followed: a message is pruned that much earlier.
JUMP_SECONDS = 60.0
JUMPED_AHEAD = "the system's clock jumped ahead by %s: messages grow old by the time before that, until the next start"
JUMPED_BACK = "the system's clock jumped back by %s: messages grow old that much later"
STEADY_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
# How long to leave the index to the next pause of the chat.
PAUSE_SECONDS = 0.1


class AgeClock:
    """The time by which messages grow old: the system's, except that it never jumps ahead.

    A clock that jumps ahead would make messages old that aren't. So it goes on from its time before, until the next
    start or until the system's jumps back. A jump back is followed: messages only stay longer. The log says it once.
    """

    def __init__(self) -> None:
        self._offset = time.time() - steady_time()  # before any jump
        self._has_warned = False

    def now(self) -> float:
        """Return the Unix time in seconds."""
        steady = steady_time()
        offset = time.time() - steady
        jump = offset - self._offset
        if abs(jump) <= JUMP_SECONDS:
            self._offset = offset
        elif not self._has_warned:
            self._has_warned = True
            logger.warning(JUMPED_AHEAD if jump > 0 else JUMPED_BACK, timedelta(seconds=round(abs(jump))))
        return steady + min(offset, self._offset)


def steady_time() -> float:
    """Return the seconds since some moment, also those while the machine slept, where it counts them."""
    return time.monotonic() if STEADY_CLOCK is None else time.clock_gettime(STEADY_CLOCK)


class Maintenance:
    """The maintenance of one open file.

    Args:
        writer: the only connection that writes to the file.
        days: the age in days at which messages are pruned, None for never.
        clock: the time by which that is judged.

    Attributes:
        pruned_upto: the highest id that was pruned, 0 if none was.
    """

    def __init__(self, writer: sqlite3.Connection, days: float | None, clock: AgeClock) -> None:
        self._writer = writer
        self._days = days
        self._clock = clock
        self._log_bytes = 0  # committed since the last checkpoint
        self._log_since = math.inf
        self._appended = 0  # messages since the last step that pruned
        self.pruned_upto = 0
        self._can_index: bool | None = None
        self._is_indexed = False

    def count(self, messages: Sequence[Message]) -> None:
        """Take note of messages that were committed."""
        self._appended += len(messages)
        self._log_bytes += sum(map(estimated_bytes, messages))
        self._log_since = min(self._log_since, time.monotonic())
        self._is_indexed = False

    def step(self, *, idle: bool, oldest_to_keep: int | None) -> float:
        """Do one short step. Return the delay until the next one in seconds: 0.0 if there is more to do.

        Args:
            idle: also do work that can wait for a pause: the index.
            oldest_to_keep: prune messages with lower ids.
        """
        until = time.monotonic() + STEP_SECONDS
        has_more = self._prune(oldest_to_keep, until)
        if idle and not has_more:
            has_more = self._index(until)
        now = time.monotonic()
        if self._log_bytes >= CHECKPOINT_BYTES or now - self._log_since >= CHECKPOINT_SECONDS:
            self._checkpoint()
        if has_more:
            return 0.0
        delay = PAUSE_SECONDS if not idle else AGE_SECONDS if self._days else math.inf
        return min(delay, max(0.0, self._log_since + CHECKPOINT_SECONDS - now))

    def _checkpoint(self) -> None:
        """Move the log into the file, as far as no reader needs it."""
        queries.checkpoint(self._writer, "PASSIVE")
        self._log_bytes, self._log_since = 0, math.inf

    def _prune(self, oldest_to_keep: int | None, until: float) -> bool:
        """Prune until the given time. Tell whether there is more to prune."""
        if oldest_to_keep is None and self._days is None:
            return False
        now = self._clock.now() if self._days else math.inf
        oldest_time = now - self._days * 86400 if self._days else -math.inf
        rows = max(MIN_ROWS, min(2 * self._appended, MAX_ROWS))
        self._appended = 0
        while time.monotonic() < until:
            upto = queries.last_to_prune(self._writer, rows, oldest_to_keep or 0, oldest_time, now)
            if upto is None:
                return False
            queries.prune(self._writer, upto, has_index=self._has_index())
            self.pruned_upto = upto
        return True

    def _index(self, until: float) -> bool:
        """Index messages until the given time. Tell whether there are more."""
        if self._is_indexed or not self._has_index():
            return False
        while time.monotonic() < until:
            if not queries.index_next(self._writer, MIN_ROWS):
                self._is_indexed = True
                return False
        return True

    def _has_index(self) -> bool:
        """Make the index at the first call. Tell whether this SQLite can have one."""
        if self._can_index is None:
            self._can_index = queries.make_index(self._writer)
        return self._can_index
