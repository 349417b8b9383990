"""What is between a room and a member that is told what was said before."""

from __future__ import annotations

from collections.abc import Iterable

from chatkit.room.batch import Batch, Span, Switch
from chatkit.server.connection import Connection

# What Python needs for a span.
SPAN_BYTES = 100


class StandIn:
    """Stands in for a connection while its member is told what was said before: what is live is held back meanwhile.

    after, upto: the ids that are still to be told, without the lowest one. last: what comes after them.
    besides: spans of ids that aren't told: what the member said itself meanwhile, what it was told otherwise.
    awaits: whether more is on its way. leaving: whether the conversation ends with that.
    held: what is live, `held_bytes` of it; `message_bytes` are messages.
    live_after: messages with higher ids are live; of these, those up to `upto` are no longer held.
    """

    __slots__ = (
        *("_asides", "_newest_id", "_said", "after", "awaits", "besides", "connection", "held", "held_bytes"),
        *("json", "last", "leaving", "live_after", "member", "message_bytes", "upto"),
    )

    def __init__(self, connection: Connection, switch: Switch) -> None:
        self.connection = connection
        self.member, self.json, self.last = switch.member, switch.json, switch.last
        self.after, self.upto = switch.after, switch.upto
        self.live_after = switch.upto
        self.besides: list[Span] = []
        self.awaits = self.leaving = False
        self.held: list[bytes | memoryview] = []
        self.held_bytes = self.message_bytes = 0
        self._said: list[Span] = []  # by the member, in between
        self._asides: list[bytes | memoryview] = []  # those of `held` that no history has
        self._newest_id = 0

    def hold(self, batches: Iterable[Batch]) -> None:
        """Nobody is behind by this: it is looked at when the replay goes on."""
        if self.leaving:
            return
        for batch in batches:
            lines = batch.json if self.json else batch.text
            pieces, asides = lines.pieces_for(self.member), lines.asides_for(self.member)
            size = sum(map(len, pieces))
            self.held += pieces
            self.held_bytes += size
            self.message_bytes += size - sum(map(len, asides))
            self._asides += asides
            self._said += batch.said.get(self.member, ())
            self._newest_id = batch.newest_id or self._newest_id

    def leave_to_history(self) -> None:
        """Hold no messages: they are told as those before. What else happened comes after all of them."""
        self.upto = max(self.upto, self._newest_id)
        self.besides = [span for span in (*self.besides, *self._said) if span[1] > self.after]
        self._said = []
        self.held = self._asides.copy()
        self.held_bytes = sum(map(len, self.held)) + SPAN_BYTES * len(self.besides)
        self.message_bytes = 0

    @property
    def owes_live(self) -> bool:
        """Whether messages that were live aren't held any more, and not told yet."""
        return max(self.after, self.live_after) < self.upto

    def take_over(self, unfinished: StandIn) -> None:
        """Tell what another one owes as well; what that one held has been told."""
        begin = min(self.after, self.upto)
        self.after = min(begin, max(unfinished.after, unfinished.live_after))
        told = [*unfinished.besides, (unfinished.upto + 1, begin)]
        self.besides = [(first, min(last, begin)) for first, last in told if first <= begin]
