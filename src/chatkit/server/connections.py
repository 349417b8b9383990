"""Looks after the connections of one worker: what each waits for, for how long, and how it ends."""

from __future__ import annotations

import logging
import math
import selectors
import time
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

from chatkit.events import Error
from chatkit.limits import Limits
from chatkit.net.sockets import reset_on_close
from chatkit.protocol.formats import FORMATS, TEXT, Format
from chatkit.protocol.lines import Line
from chatkit.protocol.replies import CUT_OFF
from chatkit.room.batch import Received
from chatkit.room.members import Member
from chatkit.server.connection import Connection
from chatkit.server.deadlines import Deadlines

if TYPE_CHECKING:
    from chatkit.server.subscribers import Replay

logger = logging.getLogger("chatkit")

SLOW_CONSUMER = "slow consumer"


class Connections:
    """The connections of one worker, in its selector. Used by that worker's thread alone, but for `add`.

    subscribers: for each format, the members that get what is said in it.
    joining: members that don't get it yet. replaying: who is told what was said before that, and gets it afterwards.
    received: what arrived, for the worker to publish. receive_login(connection, lines): what isn't a member yet is received
    there; gives the lines that are for the room, if it has become one.
    """

    def __init__(self, limits: Limits, selector: selectors.BaseSelector) -> None:
        self.subscribers: dict[Format, dict[Member, Connection]] = {format: {} for format in FORMATS}
        self.joining: dict[Member, Connection] = {}
        self.replaying: dict[Member, Replay] = {}
        self.received: list[Received] = []
        self.receive_login: Callable[[Connection, list[Line]], list[Line]] = lambda connection, lines: []
        self.slow_consumers = 0
        self.bytes = 0  # handed to connections
        self._limits = limits
        self._selector = selector
        self._all: set[Connection] = set()
        self._behind: set[Connection] = set()
        self._endings = Deadlines[Connection]()  # when one that is ending is closed the hard way
        self._stalls = Deadlines[Connection]()  # when one that is behind must have taken a byte
        self._lines = Deadlines[Connection]()  # when a line that has begun must have ended
        self._pauses = Deadlines[Connection]()  # when one that talked too fast is received again

    def __len__(self) -> int:
        return len(self._all)

    @property
    def next_due(self) -> float:
        """When (`time.monotonic`) to call `tick` at the latest."""
        return min(self._endings.next, self._stalls.next, self._lines.next, self._pauses.next)

    def add(self, connection: Connection) -> None:
        """Keep this connection from now on; safe from any thread."""
        self._all.add(connection)

    @property
    def members(self) -> list[Member]:
        """All that get what is said, now or later."""
        return [
            *chain.from_iterable(self.subscribers.values()),
            *(member for member, replay in self.replaying.items() if not replay.leaving),
        ]

    def find(self, member: Member) -> Connection | None:
        """Its connection, if it is one of these."""
        if (replay := self.replaying.get(member)) and not replay.leaving:
            return replay.connection
        return next((members[member] for members in self.subscribers.values() if member in members), None)

    def unsubscribe(self, member: Member) -> None:
        """From now on it gets nothing that is said."""
        for subscribers in self.subscribers.values():
            subscribers.pop(member, None)

    def receive(self, connection: Connection, lines: list[Line]) -> None:
        """Keep what arrived for the next batch; set the clock for what didn't arrive yet."""
        if not connection.member:
            lines = self.receive_login(connection, lines)
        end = connection.end
        if (resume_at := connection.resume_at) is not None:
            self._pauses.set(connection, resume_at)
            end = None  # the end comes after the lines that are held back
        if (lines or end) and connection.member:
            self.received.append(Received(connection.member, lines, end))
        if connection.line_due != math.inf and connection.member:
            self._lines.set(connection, connection.line_due)

    def write(self, connection: Connection, data: bytes) -> None:
        """Lines for this one alone."""
        self.bytes += len(data)
        if not connection.write(data):
            self.mark_behind(connection)

    def mark_behind(self, connection: Connection) -> None:
        """The kernel didn't take all of a write: from now on this one is judged."""
        if connection not in self._behind:
            self._behind.add(connection)
            self._stalls.set(connection, connection.last_sent + self._limits.stall_seconds)

    def end(self, connection: Connection) -> None:
        """Write what is pending, then the end of stream; close it when the peer has ended too, or takes too long."""
        if connection.member:
            self.unsubscribe(connection.member)
            if connection.cut:
                self.replaying.pop(connection.member, None)
        self._lines.clear(connection)
        self._pauses.clear(connection)
        now = time.monotonic()
        if replay := self._replay(connection):
            replay.leaving = True
            self._endings.set(connection, now + self._limits.stall_seconds)
            return
        if not connection.ending:
            connection.finish()
            connection.give_up_at = now + (0 if connection.cut else self._limits.stall_seconds)
        self._endings.set(connection, now + self._limits.drain_seconds)
        self.watch(connection)

    def watch(self, connection: Connection) -> None:
        """Wait for what the connection needs next; close it when it needs nothing more."""
        if connection not in self._all:  # closed already
            return
        key = self._selector.get_map().get(connection.transport)
        if connection.finished:
            self._close(connection)
        elif not key and connection.interest:
            self._selector.register(connection.transport, connection.interest, connection)
        elif key and not connection.interest:
            self._selector.unregister(connection.transport)
        elif key and key.events != connection.interest:
            self._selector.modify(connection.transport, connection.interest, connection)

    def tick(self) -> None:
        """See to those who are behind, and to what is due."""
        self._tick_behind()
        self._tick_deadlines(time.monotonic())

    def release_throttled(self) -> None:
        """Hear what the members' rates hold back: it has arrived, too."""
        for connection in list(self._all):
            self.receive(connection, connection.release())
            self.watch(connection)

    def close_all(self) -> None:
        for connection in list(self._all):
            self._close(connection)

    def _tick_behind(self) -> None:
        """Append, flush, and only then judge: who still has too much pending is cut off."""
        for connection in list(self._behind):
            if connection.pending_bytes > self._limits.max_pending_bytes:
                connection.flush()
            if not connection.pending_bytes:
                self._behind.remove(connection)
                self._stalls.clear(connection)
            if connection.ending and not connection.pending_bytes:
                self.end(connection)
            elif self._has_too_much(connection):
                self.disconnect(connection, f"more than {self._limits.max_pending_bytes} bytes were waiting")
            else:
                self.watch(connection)

    def _tick_deadlines(self, now: float) -> None:
        for connection in self._endings.due(now):
            self._end_or_close(connection, now)
        for connection in self._stalls.due(now):
            connection.flush()  # the selector calls a socket writable only when a third of its buffer is free
            stalls = connection.last_sent + self._limits.stall_seconds
            if not connection.pending_bytes or stalls > now:
                self._stalls.set(connection, stalls)
            elif not self._is_leaving(connection):
                self.disconnect(connection, f"nothing was read for {self._limits.stall_seconds:g} seconds")
        for connection in self._lines.due(now):
            if connection.line_due > now:  # that line has ended; another may have begun
                self._lines.set(connection, connection.line_due)
            elif not self._is_leaving(connection):
                self.disconnect(connection, connection.line_fault, "endless line")
        for connection in self._pauses.due(now):
            self.receive(connection, connection.resume())
            self.watch(connection)

    def _has_too_much(self, connection: Connection) -> bool:
        """A replay doesn't count: it is never more than a page."""
        over = connection.pending_bytes > self._limits.max_pending_bytes
        return over and not self._is_leaving(connection) and not self._replay(connection)

    def _is_leaving(self, connection: Connection) -> bool:
        """Whether it is ending, or will when it has been told what was said before."""
        replay = self._replay(connection)
        return connection.ending or (replay is not None and replay.leaving)

    def _replay(self, connection: Connection) -> Replay | None:
        return self.replaying.get(connection.member) if connection.member else None

    def disconnect(self, connection: Connection, reason: str, kind: str = SLOW_CONSUMER) -> None:
        """End a conversation that went over a limit: after what is pending the reason. Nobody else notices."""
        if not connection.member:  # the logins has its own clock
            return
        self.slow_consumers += kind == SLOW_CONSUMER
        connection.cut = reason
        self.received.append(Received(connection.member, connection.release(), kind))
        last = Error(f"{CUT_OFF}: {reason}", kind.replace(" ", "_"))
        self.write(connection, self._format_of(connection.member).encode(last))
        self.end(connection)

    def _format_of(self, member: Member) -> Format:
        """The format that it reads at this moment; `member.format` may be one that it gets from the next batch on."""
        if replay := self.replaying.get(member):
            return replay.format
        return next((format for format, members in self.subscribers.items() if member in members), TEXT)

    def _end_or_close(self, connection: Connection, now: float) -> None:
        """It had `drain_seconds`. Who has read in that time, and wasn't cut off, has more of it."""
        connection.flush()
        if self._replay(connection):
            self._close(connection)
            return
        reads_until = min(connection.last_sent + self._limits.drain_seconds, connection.give_up_at)
        if connection.pending_bytes and reads_until > now:
            self._endings.set(connection, reads_until)
        else:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection.transport in self._selector.get_map():
            self._selector.unregister(connection.transport)
        self._all.remove(connection)
        if connection.member and self.replaying.pop(connection.member, None):
            reset_on_close(connection.transport)  # there would have been more: it must not look like a whole end
        self._behind.discard(connection)
        for deadlines in (self._endings, self._stalls, self._lines, self._pauses):
            deadlines.clear(connection)
        if connection.member and (connection.cut or connection.pending_bytes):
            reason = connection.cut or "it read too slowly at its end"
            logger.warning("%s: %d lines undelivered: %s", connection.member.name, connection.undelivered, reason)
        connection.close()
