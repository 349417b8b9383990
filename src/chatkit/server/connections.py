"""The connections of one worker: their selector events, deadlines and ends."""

from __future__ import annotations

import logging
import math
import selectors
import time
from collections.abc import Sequence
from itertools import islice

from chatkit.events import Error
from chatkit.limits import Limits
from chatkit.net.sockets import reset_on_close
from chatkit.protocol.formats import TEXT
from chatkit.protocol.lines import Line
from chatkit.protocol.replies import CUT_OFF
from chatkit.room.batch import Received
from chatkit.room.listing import Listing
from chatkit.server.acknowledgements import Acknowledgements
from chatkit.server.budget import Share
from chatkit.server.connection import Connection
from chatkit.server.deadlines import Deadlines
from chatkit.server.stats import Counters
from chatkit.server.subscribers import Subscribers
from chatkit.server.unframed import HINT

logger = logging.getLogger("chatkit")

SLOW_CONSUMER = "slow consumer"

# When its memory for TCP is used up, the kernel calls a socket writable and takes nothing: ask again after this time.
RETRY_SECONDS = 0.5


class Connections:
    """The connections of one worker, in its selector. Used by the worker's thread alone, except `add`.

    Attributes:
        subscribers: the members among the connections.
        received: received lines, for the worker to publish.
        touched: the connections that a write, a flush or a page has changed since the last `tick`: these are judged.
        with_input: the connections with undecoded input that is wanted now: the selector doesn't know of it.
        counters: the worker's counters, changed here and by the worker.
        share: the private bytes of its members, as part of the server's budget.
    """

    def __init__(self, limits: Limits, selector: selectors.BaseSelector, share: Share) -> None:
        self.subscribers = Subscribers()
        self.received: list[Received] = []
        self.touched: dict[Connection, None] = {}
        self.with_input: dict[Connection, None] = {}
        self.counters = Counters()
        self._limits = limits
        self._selector = selector
        self.share = share
        self._all: set[Connection] = set()
        self._ending: dict[Connection, None] = {}  # those that are about to end, the oldest first
        self._behind: set[Connection] = set()
        self._cut: dict[Connection, str] = {}  # those that the server disconnected, and why
        self._dropped: dict[Connection, str] = {}  # the number of lines that some of these had to give up at once
        self._give_up_at: dict[Connection, float] = {}  # when a closing one is closed although its peer reads
        self._deadlines = Deadlines[Connection]()
        self._acknowledgements = Acknowledgements(min(limits.unacknowledged_seconds, limits.silent_seconds))

    def __len__(self) -> int:
        return len(self._all)

    @property
    def pending_logins(self) -> list[Connection]:
        """The connections that have to log in."""
        return [connection for connection in list(self._all) if connection.login]

    @property
    def next_due(self) -> float:
        """The time (`time.monotonic`) when `tick` must be called at the latest."""
        return min(self._deadlines.next, self._acknowledgements.next)

    def add(self, connection: Connection, *, is_ending: bool = False) -> None:
        """Own a connection; safe from any thread."""
        self._all.add(connection)
        if is_ending:
            self._ending[connection] = None

    @property
    def ending(self) -> int:
        """The number of connections that are about to end."""
        return len(self._ending)

    def close_oldest(self, number: int) -> None:
        """Close connections that are about to end, the oldest first, until at most so many are left."""
        for connection in list(islice(self._ending, max(0, len(self._ending) - number))):
            self._close(connection)

    def arm(self, connection: Connection) -> None:
        """Set the deadline of a connection from its `due`, unless it is closed: a refusal may close it at once."""
        if connection in self._all and (due := connection.due) != math.inf:
            self._deadlines.arm(connection, due)

    def receive(self, connection: Connection, lines: list[Line]) -> None:
        """Queue received lines for the worker to publish, or hand them to the login."""
        if connection.input.answers:
            self._answer(connection)
        if connection.login:
            self.note_write(connection)  # TLS may have answered
            lines = connection.login.receive(lines)
        # The end counts after the lines that the rate holds back.
        resume_at = connection.input.resume_at
        end = connection.peer_end if resume_at is None else None
        if (lines or end) and connection.member:
            self.received.append(Received(connection.member, lines, end))
        if resume_at is not None or connection.input.line_due != math.inf or connection.login:
            self.arm(connection)

    def write(self, connection: Connection, data: bytes) -> None:
        """Write lines to one connection alone."""
        self.write_pieces(connection, [data])

    def write_pieces(self, connection: Connection, pieces: Sequence[bytes | memoryview]) -> None:
        """Write lines for one connection alone, in several pieces."""
        self.counters.sent_bytes += sum(map(len, pieces))
        if not connection.write_pieces(pieces):
            self.note_write(connection)

    def write_listing(self, connection: Connection, listing: Listing) -> None:
        """Write a listing to one connection, as fast as it reads."""
        self.counters.sent_bytes += len(listing)
        if not connection.write_listing(listing):
            self.note_write(connection)

    def note_write(self, connection: Connection) -> None:
        """Await acknowledgements of a write, and have the connection judged if the kernel didn't take all of it."""
        if not connection.awaits_ack:
            self._acknowledgements.add(connection, time.monotonic())
        if not connection.pending_bytes:
            return
        self.touched[connection] = None
        if connection not in self._behind:
            self._behind.add(connection)
            self.arm(connection)

    def flush(self, connection: Connection) -> None:
        """Write pending bytes of a connection that the selector calls writable."""
        self.touched[connection] = None
        if not connection.flush():
            connection.write_at = time.monotonic() + RETRY_SECONDS
            self.arm(connection)

    def end(self, connection: Connection) -> None:
        """Write the pending bytes, then the end of stream; close after the peer's end or a deadline.

        If a replay is unfinished, the conversation ends after it.
        """
        if connection not in self._all:  # closed already
            return
        self._ending[connection] = None
        if connection.member:
            self.subscribers.remove(connection.member)
            if connection in self._cut:
                self.subscribers.end_replay(connection)
        now = time.monotonic()
        if connection.replay:
            connection.replay.leaving = True
            connection.close_at = now + self._limits.stall_seconds
            self.arm(connection)
            return
        if not connection.is_closing:
            connection.begin_end()
            self._give_up_at[connection] = now + (0 if connection in self._cut else self._limits.stall_seconds)
        connection.close_at = now + self._limits.drain_seconds
        self.arm(connection)
        self.watch(connection)

    def watch(self, connection: Connection) -> None:
        """Wait for the events that the connection needs next; close it when it needs nothing more."""
        if connection not in self._all:  # closed already
            return
        if connection.has_input and connection.takes_input:
            self.with_input[connection] = None
        key = self._selector.get_map().get(connection.transport)
        if connection.may_close:
            self._close(connection)
        elif not key and connection.interest:
            self._selector.register(connection.transport, connection.interest, connection)
        elif key and not connection.interest:
            self._selector.unregister(connection.transport)
        elif key and key.events != connection.interest:
            self._selector.modify(connection.transport, connection.interest, connection)

    def tick(self, looked_at: float) -> None:
        """Judge the connections that are behind and were touched, and handle those whose deadline has come.

        Args:
            looked_at: the time (`time.monotonic`) when the selector was asked last. Later deadlines wait for the next
                look, however late it is: the bytes that keep them may have arrived since.
        """
        touched, self.touched = self.touched, {}
        if self.share.budget.is_exceeded:
            while self.share.budget.is_exceeded and self._disconnect_largest():
                pass
            touched |= dict.fromkeys(self._behind)  # some may be read again
        for connection in touched:
            if connection in self._behind:
                self._judge(connection)
        for connection in self._deadlines.due(looked_at):
            self._handle_due(connection, looked_at)
            self.arm(connection)
        for connection in self._acknowledgements.look(time.monotonic()):
            connection.lose()
            self.touched[connection] = None
            self.watch(connection)

    def release_throttled(self) -> None:
        """Receive the lines that the members' rates hold back: at the end they count as arrived."""
        for connection in list(self._all):
            self.receive(connection, connection.input.release())
            self.watch(connection)

    def close_all(self) -> None:
        """Close every connection at once."""
        for connection in list(self._all):
            self._close(connection)

    def close_in_child(self) -> None:
        """Close a forked child's copies of the sockets, without a word to their peers or to the selector."""
        for connection in self._all:
            connection.transport.close()

    def disconnect(self, connection: Connection, reason: str, kind: str = SLOW_CONSUMER) -> None:
        """End a conversation that exceeded a limit; the reason is written after the pending bytes.

        Args:
            reason: the reason, in words for the member and the log.
            kind: the reason of the leave, for the room; with underscores, the code of the error.
        """
        if not connection.member:  # a login has its own bounds
            return
        self.counters.slow_consumers += kind == SLOW_CONSUMER
        self._cut[connection] = reason
        self.received.append(Received(connection.member, connection.input.release(), kind))
        last = Error(f"{CUT_OFF}: {reason}", kind.replace(" ", "_"))
        self.write(connection, (self.subscribers.format_of(connection.member) or TEXT).encode(last))
        self.end(connection)

    def _disconnect_largest(self) -> bool:
        """Disconnect the member that holds the most private bytes. Returns whether there is one."""
        replaying = self.subscribers.replaying.values()
        holders = [
            each for each in {*self._behind, *replaying} if each.member and each.private_bytes and each not in self._cut
        ]
        if not holders:
            return False
        largest = max(holders, key=lambda connection: connection.private_bytes)
        limit = self._limits.max_private_bytes
        self._dropped[largest] = largest.undelivered
        largest.truncate()
        self.disconnect(largest, f"all members together held more than {limit} private bytes, and you the most")
        return True

    def _judge(self, connection: Connection) -> None:
        """Flush a connection that is behind, and disconnect it if it still has too much pending.

        The order is append, flush, then judge: judged before the flush, a member that reads would be disconnected, too.
        """
        if connection.pending_bytes > self._limits.max_pending_bytes:
            connection.flush()
        if not connection.pending_bytes:
            self._behind.remove(connection)
        if connection.is_closing and not connection.pending_bytes:
            self.end(connection)
        elif self._exceeds_limit(connection):
            self.disconnect(connection, f"more than {self._limits.max_pending_bytes} bytes were waiting")
        else:
            self.watch(connection)

    def _handle_due(self, connection: Connection, now: float) -> None:
        """Handle the deadline of a connection, if it has come."""
        if connection.write_at <= now:
            connection.flush()
            self.touched[connection] = None
            self.watch(connection)
        elif connection.close_at <= now:
            self._end_or_close(connection, now)
        elif connection.login and connection.login.due <= now and connection.is_read_up():
            connection.login.tick(now)
            self.watch(connection)
        elif connection.is_leaving:
            return
        elif connection.member and connection.input.line_due <= now and connection.is_line_late():
            self.disconnect(connection, connection.input.line_fault, "endless line")
        elif connection.input.resume_at is not None and connection.input.resume_at <= now:
            self.receive(connection, connection.input.resume())
            self.watch(connection)
        elif connection.input.quiet_due <= now and connection.is_read_up():
            self._end_quiet(connection, now)
        elif connection.pending_bytes:
            connection.flush()  # the kernel reports a socket as writable only when a third of its buffer is free
            self.touched[connection] = None
            if connection.pending_bytes and connection.last_sent + self._limits.stall_seconds <= now:
                self.disconnect(connection, f"nothing was read for {self._limits.stall_seconds:g} seconds")

    def _answer(self, connection: Connection) -> None:
        """Answer telnet's commands."""
        answers, connection.input.answers = connection.input.answers, b""
        self.write(connection, answers)

    def _end_quiet(self, connection: Connection, now: float) -> None:
        """Receive the text of a peer that ends no line, or tell it how to end one."""
        lines, hints = connection.input.end_quiet(now)
        if hints:
            self.write(connection, HINT)
        if lines:
            self.receive(connection, lines)
        self.watch(connection)

    def _exceeds_limit(self, connection: Connection) -> bool:
        """Tell whether too much is pending. A replay doesn't count: at most one page of it is pending."""
        over = connection.pending_bytes > self._limits.max_pending_bytes
        return over and not connection.is_leaving and not connection.replay

    def _end_or_close(self, connection: Connection, now: float) -> None:
        """Close after `drain_seconds`; a peer that reads, and wasn't disconnected for a limit, has more time."""
        connection.flush()
        reads_until = min(connection.last_sent + self._limits.drain_seconds, self._give_up_at.get(connection, now))
        if connection.pending_bytes and reads_until > now and not connection.replay:
            connection.close_at = reads_until
            self.watch(connection)
        else:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection.transport in self._selector.get_map():
            self._selector.unregister(connection.transport)
        self._all.remove(connection)
        if self.subscribers.end_replay(connection):
            reset_on_close(connection.transport)  # the rest of the replay is missing: a reset shows that
        self._behind.discard(connection)
        self._ending.pop(connection, None)
        self._deadlines.clear(connection)
        self._acknowledgements.forget(connection)
        cut = self._cut.pop(connection, None)
        self._give_up_at.pop(connection, None)
        if connection.member and (cut or connection.pending_bytes):
            reason = cut or "the rest was read too slowly after the end of the conversation"
            undelivered = self._dropped.pop(connection, connection.undelivered)
            logger.warning("%s: %s lines undelivered: %s", connection.member.name, undelivered, reason)
        connection.close()
