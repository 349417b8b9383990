"""What is between a room and a member that is told what was said before."""

from __future__ import annotations

from collections.abc import Sequence

from chatkit.batch import Switch
from chatkit.connection import Connection


class StandIn:
    """Stands in for a connection while its member is told what was said before: what is live is held back meanwhile.

    after, upto: the ids that are still to be told, without the lowest one. last: what comes after them.
    awaits: whether more is on its way. leaving: whether the conversation ends with that.
    """

    __slots__ = ("after", "awaits", "connection", "held", "held_bytes", "json", "last", "leaving", "member", "upto")

    def __init__(self, connection: Connection, switch: Switch) -> None:
        self.connection = connection
        self.member, self.json, self.last = switch.member, switch.json, switch.last
        self.after, self.upto = switch.after, switch.upto
        self.awaits = self.leaving = False
        self.held: list[bytes | memoryview] = []
        self.held_bytes = 0

    def write(self, data: bytes) -> bool:
        return self.write_pieces([data])

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> bool:
        """Nothing is behind by this: it is looked at when the replay goes on."""
        self.held += pieces
        self.held_bytes += sum(map(len, pieces))
        return True
