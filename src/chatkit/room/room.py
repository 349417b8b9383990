"""The room: lines in, one order for everyone, batches out. Knows no sockets.

Worker threads call `join` and `receive`. What the room then has for the members goes, as one `Batch`,
to each worker's subscriber, inside the room's only lock: so every worker sees the same batches in the same order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from chatkit.events import Error, Event
from chatkit.limits import Limits
from chatkit.protocol.lines import BadLine, Foreign
from chatkit.protocol.replies import HANDLER_FAILED
from chatkit.room import commands
from chatkit.room.batch import Received
from chatkit.room.hooks import HookFailed
from chatkit.room.members import Member, Roster
from chatkit.room.publisher import Publisher, Subscriber
from chatkit.room.turn import Turn


class Room:
    """Members, names, order.

    handler: an object with any of the methods that `Server` lists.
        They are called one at a time, in the room's order, inside its lock: keep them quick.
        What a hook raises is logged and ends that member's conversation, nothing else.
    announce: whether members with plain text are told who joins, leaves or changes its name.
    publisher: keeps what is said and hands it out; None for one in memory. replay: how much of it newcomers are told.
    """

    def __init__(
        self,
        handler: object = None,
        limits: Limits = Limits(),
        publisher: Publisher | None = None,
        *,
        announce: bool = False,
        replay: int = 0,
    ) -> None:
        self.publisher = publisher or Publisher(limits.history_size, replay=replay)
        self._lock = threading.Lock()
        self._turn = Turn(handler, limits, self.publisher, announce=announce)

    @property
    def roster(self) -> Roster:
        """Who is here."""
        return self._turn.roster

    @property
    def newest_id(self) -> int:
        """The id of the last message, 0 before the first."""
        return self.publisher.newest_id

    def add_subscriber(self, subscriber: Subscriber) -> None:
        """From now on `subscriber(batch)` is called for each batch, `subscriber(subscribe)` when a member joins or changes to JSON.

        It must not block.
        """
        self.publisher.subscribers.append(subscriber)

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

        A `Subscribe` follows in the room's order: the batches after that are for the new member, none before.
        JoinRefused: the handler failed.
        """
        with self._lock:
            self._turn.join(address, admitted)
            self._turn.commit()

    def receive(self, received: Iterable[Received]) -> None:
        """Put what arrived in the room's order and hand it out, as one batch."""
        with self._lock:
            self._turn.begin()
            for part in received:
                if part.member.present:
                    self._receive(part)
            self._turn.commit()

    def say(self, event: Event) -> None:
        """Something from the room itself, to every member."""
        with self._lock:
            self._turn.announce(event)
            self._turn.commit()

    def tell(self, member: Member, event: Event) -> None:
        """Something from the room itself, to one member, if it is still there."""
        with self._lock:
            if member.present:
                self._turn.tell(member, event)
                self._turn.commit()

    def remove(self, member: Member, last: Event, reason: str) -> None:
        """End a member's conversation; `last` is what it gets at the end."""
        with self._lock:
            if member.present:
                self._turn.tell(member, last)
                self._turn.leave(member, reason)
                self._turn.commit()

    def _receive(self, part: Received) -> None:
        try:
            end = self._receive_lines(part) or part.end
        except HookFailed:
            end = "handler error"
            self._turn.tell(part.member, HANDLER_FAILED)
        if end:
            self._turn.leave(part.member, end)

    def _receive_lines(self, part: Received) -> str | None:
        """What a member said and asked; why that ends its conversation, or None."""
        member, say = part.member, self._turn.say
        for line in part.lines:
            if isinstance(line, BadLine):
                self._turn.tell(member, Error(f"not sent: {line.reason}", line.code))
            elif isinstance(line, Foreign):
                self._turn.reply(member, line.reply)
                return f"spoke {line.protocol}"
            elif line.startswith("/"):
                commands.run(self._turn, member, line)
            elif line.strip() == "exit":
                return "exit"
            elif line:
                say(member, line)
        return None
