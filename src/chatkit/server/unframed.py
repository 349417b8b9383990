"""Peers that end no line: many programs of beginners send text without LF."""

from __future__ import annotations

import math

from chatkit.events import Notice
from chatkit.protocol.formats import TEXT

# Longer than a person pauses in a line, on a terminal that sends each key at once (telnet on Windows).
HINT_SECONDS = 5.0
HINT = TEXT.encode(Notice('your line isn\'t sent before it ends: press Enter, or send LF ("\\n") after it'))


class Unframed:
    """Watch one peer for quiet times until its first line end. Times are from `time.monotonic`.

    Operations: `note_text` after each read that brings text; when `due` has come, `begin_take` and `begin_hint`. Goal:
    the author of such a peer learns how to end a line, and with `Limits.unframed_seconds` its text counts as lines.
    Plan: one read may have the first part of a line; a second one without a line end makes it likely that none comes.
    A quiet time before the second one parts the text: the bytes before it are a line of their own.

    Attributes:
        is_parted: whether the text so far counts as a line if more text follows without a line end.
    """

    __slots__ = ("_hint_at", "_is_told", "_reads", "_take_at", "is_parted")

    def __init__(self) -> None:
        self.is_parted = False
        self._reads = 0
        self._is_told = False
        self._take_at = self._hint_at = math.inf

    @property
    def due(self) -> float:
        """The time when a quiet time is over."""
        return min(self._take_at, self._hint_at)

    def note_text(self, now: float, takes_after: float) -> None:
        """Begin a quiet time, after a read that brought text and no line end.

        Args:
            takes_after: the seconds of quiet after which text counts as a line.
        """
        self._reads += 1
        self.is_parted = False
        self._take_at = now + takes_after
        self._hint_at = now + HINT_SECONDS if self._reads > 1 and not self._is_told else math.inf

    def begin_take(self, now: float) -> bool:
        """Tell whether the text counts as a line now."""
        if self._take_at > now:
            return False
        self._take_at = math.inf
        self.is_parted = self._reads == 1
        return not self.is_parted

    def note_taken(self) -> None:
        """Note that no text is left."""
        self._hint_at = math.inf

    def begin_hint(self, now: float, *, at_once: bool) -> bool:
        """Tell whether the peer is told now how to end a line, which happens once.

        Args:
            at_once: whether its quiet time is over for another reason.
        """
        is_due = not self._is_told and (at_once or self._hint_at <= now)
        if is_due:
            self._is_told, self._hint_at = True, math.inf
        return is_due
