"""Which members of one worker receive what is published, and in which format."""

from __future__ import annotations

from itertools import chain

from chatkit.protocol.formats import FORMATS, Format
from chatkit.room.members import Member
from chatkit.server.connection import Connection


class Subscribers:
    """The members of one worker; used by its thread alone, but for `joining`.

    A member is first joining, then, perhaps after a replay, it receives batches in its format.

    Attributes:
        by_format: the members that receive each batch.
        joining: members that were admitted and receive nothing yet.
        replaying: members that are told first what was said before.
    """

    def __init__(self) -> None:
        self.by_format: dict[Format, dict[Member, Connection]] = {format: {} for format in FORMATS}
        self.joining: dict[Member, Connection] = {}
        self.replaying: dict[Member, Connection] = {}

    def __len__(self) -> int:
        """The number of those that receive batches, now or after their replay."""
        replaying = sum([not connection.is_leaving for connection in self.replaying.values()])
        return sum(map(len, self.by_format.values())) + replaying

    @property
    def members(self) -> list[Member]:
        """All that were admitted and don't leave."""
        replaying = [member for member, connection in self.replaying.items() if not connection.is_leaving]
        return [*chain.from_iterable(self.by_format.values()), *replaying, *self.joining]

    def find(self, member: Member) -> Connection | None:
        """Return the connection of a member that receives batches, now or after its replay."""
        connection = self.replaying.get(member)
        if connection and not connection.is_leaving:
            return connection
        return next((members[member] for members in self.by_format.values() if member in members), None)

    def format_of(self, member: Member) -> Format | None:
        """Return the format that it receives at this moment; `member.format` may be that of a later batch."""
        if (connection := self.replaying.get(member)) and connection.replay:
            return connection.replay.format
        return next((format for format, members in self.by_format.items() if member in members), None)

    def remove(self, member: Member) -> None:
        """Have a member receive no more batches; its replay goes on."""
        for members in self.by_format.values():
            members.pop(member, None)

    def end_replay(self, connection: Connection) -> bool:
        """Forget the replay of a connection. Returns whether there was one."""
        if not connection.replay or not connection.member:
            return False
        connection.replay = None
        del self.replaying[connection.member]
        return True
