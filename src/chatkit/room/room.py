"""The room: lines in, one order for everyone, batches out. No sockets.

Worker threads call `join` and `receive`. The output for the members goes to each worker's subscriber as batches,
under the room's only lock (with a history: in the committer's thread, in the order in which the room queued it). So
all workers see the same batches in the same order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from chatkit.events import Error, Event
from chatkit.limits import Limits
from chatkit.protocol.lines import EXIT, BadLine, Foreign, Line
from chatkit.protocol.replies import HANDLER_FAILED, NOT_SENT
from chatkit.room import commands
from chatkit.room.batch import Received
from chatkit.room.hooks import HookFailed
from chatkit.room.members import Member, Roster
from chatkit.room.publisher import Inbox, Publisher
from chatkit.room.turn import Turn


class Room:
    """A chat room: its members, their names, and the order of their messages.

    Args:
        handler: an object with some of the hooks of `chatkit.Handler`. They are called one at a time, in the room's
            order, under its lock. An exception in one is logged and ends the conversation of that member, nothing else.
        publisher: orders messages, keeps them and fans them out; None for one that keeps them in memory.
        announce: whether members that read plain text are told about joins, leaves and new names.
        replay: the number of the last messages that a new member receives, without a `publisher`.
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
        """The members."""
        return self._turn.roster

    @property
    def newest_id(self) -> int:
        """The last id that was given, 0 before the first message."""
        return self.publisher.newest_id

    def add_inbox(self, inbox: Inbox) -> None:
        """Call an inbox from now on with each batch, `Subscribe` (a join or a switch to JSON) and `Listing`.

        It must not block.
        """
        self.publisher.inboxes.append(inbox)

    def reserve(self, address: tuple[str, int]) -> None:
        """Reserve a place for the peer at `address`; `join` or `release` must follow.

        Raises:
            JoinRefused: the room is full, or the address has too many members.
        """
        with self._lock:
            self.roster.reserve(address)

    def release(self, address: tuple[str, int]) -> None:
        """Give back the place of a peer that doesn't join."""
        with self._lock:
            self.roster.release(address)

    def join(self, address: tuple[str, int], admitted: Callable[[Member], None]) -> None:
        """Make a peer with a reserved place a member.

        A `Subscribe` follows in the room's order: the new member receives the batches after it, none before.

        Args:
            address: the address of the peer.
            admitted: called with the member, under the room's lock, before the `Subscribe`.

        Raises:
            JoinRefused: the handler refused it, or failed.
        """
        with self._lock:
            self._turn.join(address, admitted)
            self._turn.publish()

    def receive(self, received: Iterable[Received]) -> None:
        """Process received lines in order, and publish the result, as one turn."""
        with self._lock:
            self._turn.begin()
            for part in received:
                if part.member.present:
                    self._receive(part)
            self._turn.publish()

    @property
    def next_due(self) -> float:
        """The time (`time.monotonic`) when `announce_due` must be called."""
        return self._turn.arrivals.next_due

    def announce_due(self, now: float) -> None:
        """Announce the joins that have waited long enough, as one turn.

        Args:
            now: the time (`time.monotonic`).
        """
        with self._lock:
            self._turn.announce_due_joins(now)
            self._turn.publish()

    def say(self, event: Event) -> None:
        """Send an event from the room itself to every member."""
        with self._lock:
            self._turn.announce(event)
            self._turn.publish()

    def tell(self, member: Member, event: Event) -> None:
        """Send an event from the room itself to one member, if it is still present."""
        with self._lock:
            if member.present:
                self._turn.tell(member, event)
                self._turn.publish()

    def remove(self, member: Member, last: Event, reason: str) -> None:
        """End a member's conversation; `last` is the last event that it receives."""
        with self._lock:
            if member.present:
                self._turn.tell(member, last)
                self._turn.leave(member, reason)
                self._turn.publish()

    def _receive(self, part: Received) -> None:
        try:
            end = self._receive_lines(part)
        except HookFailed:
            end = "handler error"
            self._turn.tell(part.member, HANDLER_FAILED)
        if reason := end or part.end:
            self._turn.leave(part.member, reason, is_lost=not end)

    def _receive_lines(self, part: Received) -> str | None:
        """Process the lines of one member. Returns the reason why they end its conversation, or None."""
        lines = part.lines
        if part.member in self._turn.arrivals:
            opening = commands.count_opening(lines)
            self._process(part.member, lines[:opening])
            lines = lines[opening:]
            if lines and not _ends(lines[0]):
                self._turn.announce_join(part.member)
        return self._process(part.member, lines)

    def _process(self, member: Member, lines: Sequence[Line]) -> str | None:
        say = self._turn.say
        for line in lines:
            if isinstance(line, BadLine):
                self._turn.tell(member, Error(f"{NOT_SENT}{line.reason}", line.code))
            elif isinstance(line, Foreign):
                self._turn.reply(member, line.reply)
                return f"spoke {line.protocol}"
            elif line.startswith("/"):
                commands.run(self._turn, member, line)
            elif line.strip() == EXIT:  # as `is_exit`, of a clean line
                return "exit"
            elif line:
                say(member, line)
        return None


def _ends(line: Line) -> bool:
    """Tell whether a line ends the conversation."""
    return isinstance(line, Foreign) or (isinstance(line, str) and line.strip() == EXIT)
