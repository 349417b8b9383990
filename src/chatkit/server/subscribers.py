"""The members of one worker, by their stage and by the format in which they receive batches."""

from __future__ import annotations

from itertools import chain

from chatkit.protocol.formats import FORMATS, Format
from chatkit.room.members import Member
from chatkit.server.connection import Connection


class Subscribers:
    """The members of one worker, with their connections. Used by its thread alone, except `joining`.

    A member is first in `joining`, then, if there is a replay, in `replaying`, then in `by_format`.

    Attributes:
        by_format: the members that receive batches live, in each format.
        joining: the members that are admitted and receive nothing yet.
        replaying: the members that receive a replay; live batches are held for them.
    """

    def __init__(self) -> None:
        self.by_format: dict[Format, dict[Member, Connection]] = {format: {} for format in FORMATS}
        self.joining: dict[Member, Connection] = {}
        self.replaying: dict[Member, Connection] = {}

    def __len__(self) -> int:
        """The number of members that receive batches, now or after their replay."""
        replaying = sum([not connection.is_leaving for connection in self.replaying.values()])
        return sum(map(len, self.by_format.values())) + replaying

    @property
    def members(self) -> list[Member]:
        """All members that are admitted and not leaving."""
        replaying = [member for member, connection in self.replaying.items() if not connection.is_leaving]
        return [*chain.from_iterable(self.by_format.values()), *replaying, *self.joining]

    def find(self, member: Member) -> Connection | None:
        """Return the connection of a member that receives batches, now or after its replay, or None."""
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
        """Stop the live batches of a member; its replay continues."""
        for members in self.by_format.values():
            members.pop(member, None)

    def end_replay(self, connection: Connection) -> bool:
        """Remove the replay of a connection. Returns whether there was one."""
        if not connection.replay or not connection.member:
            return False
        connection.replay.release()
        connection.replay = None
        del self.replaying[connection.member]
        return True
