"""What goes into the room in a turn, and what comes out of it for everyone."""

from __future__ import annotations

from dataclasses import dataclass, field

from chatkit.protocol import Line


class Member:
    """A connection in the room. name: unique among the living. address: (host, port) of the peer."""

    __slots__ = ("address", "name", "present")

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        self.name = name
        self.address = address
        self.present = True

    def __repr__(self) -> str:
        return f"<Member {self.name} {self.address}>"


@dataclass(slots=True)
class Batch:
    """What one turn brought, for all members of all workers.

    text: the lines for everyone, encoded once.
    messages: how many lines `text` holds.
    own: where in `text` each sender's own lines stand, which it doesn't get back.
    private: lines for one member only.
    left: members that are no longer in the room, and why.
    """

    text: bytes = b""
    messages: int = 0
    own: dict[Member, list[tuple[int, int]]] = field(default_factory=dict)
    private: list[tuple[Member, bytes]] = field(default_factory=list)
    left: list[tuple[Member, str]] = field(default_factory=list)

    def text_for(self, member: Member) -> list[memoryview]:
        """`text` without the member's own lines, in pieces that share its memory."""
        whole, pieces, position = memoryview(self.text), [], 0
        for start, end in self.own.get(member, ()):
            pieces.append(whole[position:start])
            position = end
        pieces.append(whole[position:])
        return [piece for piece in pieces if piece]

    @classmethod
    def merged(cls, batches: list[Batch]) -> Batch:
        """Several batches as one, so that each member still gets one write."""
        if len(batches) == 1:
            return batches[0]
        whole, offset = cls(b"".join(batch.text for batch in batches)), 0
        for batch in batches:
            for member, spans in batch.own.items():
                moved = [(start + offset, end + offset) for start, end in spans]
                whole.own.setdefault(member, []).extend(moved)
            whole.messages += batch.messages
            whole.private += batch.private
            whole.left += batch.left
            offset += len(batch.text)
        return whole


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came from one member in one turn. end: why this was the last of it, or None."""

    member: Member
    lines: list[Line]
    end: str | None = None
