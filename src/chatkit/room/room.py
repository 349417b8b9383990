"""The room: lines in, one order for everyone, batches out. Knows no sockets.

Worker threads call `join` and `receive`. What the room then has for the members goes, as one `Batch`,
to each worker's outlet, inside the room's only lock: so every worker sees the same batches in the same order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from chatkit.events import Error, Event
from chatkit.limits import Limits
from chatkit.protocol.lines import BadLine, Foreign
from chatkit.protocol.replies import HANDLER_FAILED
from chatkit.room import commands
from chatkit.room.batch import Arrival, Member
from chatkit.room.hooks import HookFailed
from chatkit.room.members import Roster
from chatkit.room.publisher import Outlet, Record
from chatkit.room.turn import Floor


class Room:
    """Members, names, order.

    handler: an object with any of the methods that `Server` lists.
        They are called one at a time, in the room's order, inside its lock: keep them quick.
        What a hook raises is logged and ends that member's conversation, nothing else.
    announce: whether members with plain text are told who joins, leaves or changes its name.
    record: keeps what is said and hands it out; None for one in memory. replay: how much of it newcomers are told.
    """

    def __init__(
        self,
        handler: object = None,
        limits: Limits = Limits(),
        record: Record | None = None,
        *,
        announce: bool = False,
        replay: int = 0,
    ) -> None:
        self.record = record or Record(limits.history_size)
        self._lock = threading.Lock()
        self._floor = Floor(handler, limits, self.record, announce=announce, replay=replay)

    @property
    def roster(self) -> Roster:
        """Who is here."""
        return self._floor.roster

    @property
    def newest_id(self) -> int:
        """The id of the last message, 0 before the first."""
        return self.record.newest_id

    def add_outlet(self, outlet: Outlet) -> None:
        """From now on `outlet(batch)` is called for each batch, `outlet(switch)` when a member joins or changes to JSON.

        It must not block.
        """
        self.record.outlets.append(outlet)

    def reserve(self, address: tuple[str, int]) -> None:
        """Keep a place for the peer at `address`, to be followed by `join` or `release`. JoinRefused: there is none."""
        with self._lock:
            self.roster.reserve(address)

    def release(self, address: tuple[str, int]) -> None:
        """The peer went away before it joined."""
        with self._lock:
            self.roster.release(address)

    def join(self, address: tuple[str, int], admitted: Callable[[Member], None]) -> None:
        """Make the peer that has a place a member and tell the caller through `admitted(member)`.

        A `Switch` follows in the room's order: the batches after that are for the new member, none before.
        JoinRefused: the handler failed.
        """
        with self._lock:
            self._floor.join(address, admitted)

    def receive(self, arrivals: Iterable[Arrival]) -> None:
        """Put what arrived in the room's order and hand it out, as one batch."""
        with self._lock:
            self._floor.begin()
            for arrival in arrivals:
                if arrival.member.present:
                    self._hear(arrival)
            self._floor.commit()

    def say(self, event: Event) -> None:
        """Something from the room itself, to every member."""
        with self._lock:
            self._floor.announce(event)
            self._floor.commit()

    def tell(self, member: Member, event: Event) -> None:
        """Something from the room itself, to one member, if it is still there."""
        with self._lock:
            if member.present:
                self._floor.tell(member, event)
                self._floor.commit()

    def remove(self, member: Member, last: Event, reason: str) -> None:
        """End a member's conversation; `last` is what it gets at the end."""
        with self._lock:
            if member.present:
                self._floor.tell(member, last)
                self._floor.leave(member, reason)
                self._floor.commit()

    def _hear(self, arrival: Arrival) -> None:
        try:
            end = self._hear_lines(arrival) or arrival.end
        except HookFailed:
            end = "handler error"
            self._floor.tell(arrival.member, HANDLER_FAILED)
        if end:
            self._floor.leave(arrival.member, end)

    def _hear_lines(self, arrival: Arrival) -> str | None:
        """What a member said and asked; why that ends its conversation, or None."""
        member, say = arrival.member, self._floor.say
        for line in arrival.lines:
            if isinstance(line, BadLine):
                self._floor.tell(member, Error(f"not sent: {line.reason}", line.code))
            elif isinstance(line, Foreign):
                self._floor.tell(member, line.reply)
                return f"spoke {line.protocol}"
            elif line.startswith("/"):
                commands.run(self._floor, member, line)
            elif line.strip() == "exit":
                return "exit"
            elif line:
                say(member, line)
        return None
