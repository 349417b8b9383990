"""The answer to `/who` in JSON: a list of all members, however many."""

from __future__ import annotations

from collections.abc import Sequence

from chatkit.protocol.formats import members_line
from chatkit.room.members import Member

# As many as a line of text shows.
MEMBERS_PER_LINE = 100

_ENVELOPE_BYTES = len(members_line([], more=True))
_LAST_LINE_BYTES = len(members_line([], more=False)) - _ENVELOPE_BYTES
_REFERENCE_BYTES = 8


class Listing:
    """The members at one moment, in lines for one of them that are made when they are written.

    Operations: `len`, the number of bytes that are left; `take` the next line. Goal: a question of a few bytes may have
    an answer of a megabyte. So that must cost little until its reader takes it, and count in full. Plan: each member
    keeps its JSON; a listing refers to these, and knows its size.

    Args:
        member: the member that asked.
        entries: the JSON of each member, see `member_entry`; the one that asked is among them.
        size: the number of their bytes.
    """

    __slots__ = ("_entries", "_size", "_taken", "member")

    def __init__(self, member: Member, entries: Sequence[bytes], size: int) -> None:
        self.member = member
        self._entries = entries
        self._taken = 0
        commas = len(entries) - self.lines
        self._size = size + commas + self.lines * _ENVELOPE_BYTES + _LAST_LINE_BYTES

    def __len__(self) -> int:
        return self._size

    @property
    def lines(self) -> int:
        """The number of lines that are left."""
        return max(0, -((self._taken - len(self._entries)) // MEMBERS_PER_LINE))

    @property
    def held_bytes(self) -> int:
        """The memory that it takes."""
        return _REFERENCE_BYTES * len(self._entries)

    def take(self) -> bytes:
        """Return the next line."""
        after = self._taken + MEMBERS_PER_LINE
        line = members_line(self._entries[self._taken : after], more=after < len(self._entries))
        self._taken = after
        self._size -= len(line)
        return line

    def take_all(self) -> bytes:
        """Return all lines that are left."""
        return b"".join([self.take() for _ in range(self.lines)])
