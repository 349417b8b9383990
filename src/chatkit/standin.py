"""What is between a room and a member that is told what was said before."""

from __future__ import annotations

from chatkit.batch import Batch, Switch
from chatkit.connection import Connection


class StandIn:
    """Stands in for a connection while its member is told what was said before: what is live is held back meanwhile.

    after, upto: the ids that are still to be told, without the lowest one. last: what comes after them.
    awaits: whether more is on its way. leaving: whether the conversation ends with that.
    held: what is live, `held_bytes` of it.
    """

    __slots__ = (
        *("_asides", "_newest_id", "after", "awaits", "connection", "held", "held_bytes"),
        *("json", "last", "leaving", "member", "upto"),
    )

    def __init__(self, connection: Connection, switch: Switch) -> None:
        self.connection = connection
        self.member, self.json, self.last = switch.member, switch.json, switch.last
        self.after, self.upto = switch.after, switch.upto
        self.awaits = self.leaving = False
        self.held: list[bytes | memoryview] = []
        self.held_bytes = 0
        self._asides: list[bytes | memoryview] = []  # those of `held` that no history has
        self._newest_id = 0

    def hold(self, batch: Batch) -> None:
        """Nobody is behind by this: it is looked at when the replay goes on."""
        if self.leaving:
            return
        lines = batch.json if self.json else batch.text
        pieces = lines.pieces_for(self.member)
        self.held += pieces
        self.held_bytes += sum(map(len, pieces))
        private = [line for _, _, line in lines.edits.get(self.member, ())]
        self._asides += [line for line in (lines.asides, *private) if line]
        self._newest_id = batch.newest_id or self._newest_id

    def leave_to_history(self) -> None:
        """Hold no messages: they are told as those before. What else happened comes after all of them."""
        self.upto = max(self.upto, self._newest_id)
        self.held = self._asides.copy()
        self.held_bytes = sum(map(len, self.held))
