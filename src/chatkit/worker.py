"""One thread that owns connections: a selector, an inbox, a turn.

A turn reads every ready socket, puts all of it into the room as one batch, takes the batches and calls that
are in the inbox, and writes once to each member. Nothing in a turn waits for a peer.
"""

from __future__ import annotations

import logging
import math
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from chatkit.connection import Connection
from chatkit.deadlines import Deadlines
from chatkit.events import Notice
from chatkit.limits import Limits
from chatkit.protocol import Line, encode_text
from chatkit.room import Arrival, Batch, Member, Room
from chatkit.waker import Waker

logger = logging.getLogger("chatkit")

# One turn reads so much, shared among those who are ready: far below what may be pending for a member,
# so that a turn alone never makes a slow consumer of anyone.
TURN_BYTES = 1024 * 1024
MAX_READ_BYTES = 64 * 1024
MIN_READ_BYTES = 512

# Selectors refuse to wait for more than some weeks; who waits so long may look up once an hour.
LONGEST_WAIT_SECONDS = 3600.0

Call = Callable[[], None]

SLOW_CONSUMER = "slow consumer"


class Worker(threading.Thread):
    """Runs turns until `stop`, then ends its connections.

    accept_waiting(): called before lines are published, so that whoever was connected before hears them.
    failed(error): called in the thread when it dies of an error; its connections are closed then.
    """

    def __init__(
        self,
        name: str,
        room: Room,
        limits: Limits,
        accept_waiting: Callable[[], object],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.deliveries = 0
        self.slow_consumers = 0
        self._room = room
        self._limits = limits
        self._accept_waiting = accept_waiting
        self._failed = failed
        self._inbox: deque[Batch | Call] = deque()
        self._selector = selectors.DefaultSelector()
        self._waker = Waker(self._selector)
        self._connections: set[Connection] = set()
        self._members: dict[Member, Connection] = {}
        self._behind: set[Connection] = set()
        self._heard: list[Arrival] = []  # for the next batch
        self._endings = Deadlines[Connection]()  # when one that is ending is closed the hard way
        self._stalls = Deadlines[Connection]()  # when one that is behind must have taken a byte
        self._lines = Deadlines[Connection]()  # when a line that has begun must have ended
        self._pauses = Deadlines[Connection]()  # when one that talked too fast is heard again
        self._stopping: tuple[float, threading.Barrier] | None = None
        room.add_outlet(self.post)

    # From any thread

    @property
    def load(self) -> int:
        """How many connections it owns, those on their way included."""
        return len(self._connections)

    def post(self, item: Batch | Call) -> None:
        """Leave a batch to deliver or something to call; handled in the order of the posts. Never blocks."""
        self._inbox.append(item)
        if threading.get_ident() != self.ident:
            self._waker.wake()

    def admit(self, connection: Connection, member: Member) -> None:
        """Own a member's connection from now on. Inside the room's lock: what is in the inbox is older than the member."""
        connection.member = member
        self._connections.add(connection)
        self.post(partial(self._admit, connection, member))

    def refuse(self, connection: Connection, reason: str) -> None:
        """Own a connection that gets no more than this reason and its end."""
        self._connections.add(connection)
        self.post(partial(self._refuse, connection, reason))

    def stop(self, deadline: float, all_read: threading.Barrier) -> None:
        """Read what has arrived, meet the other workers at `all_read`, deliver, end every connection.

        deadline: `time.monotonic` when what is still open is closed the hard way.
        """
        self.post(partial(setattr, self, "_stopping", (deadline, all_read)))

    def release(self) -> None:
        """Free what is left, after every thread that may post is gone."""
        for connection in self._connections:
            connection.close()
        self._waker.close()
        self._selector.close()

    # The thread

    def run(self) -> None:
        try:
            while not self._stopping:
                self._turn(self._patience())
            self._finish(*self._stopping)
        except BaseException as error:
            logger.critical("%s died", self.name, exc_info=True)
            self._failed(error)
            for connection in list(self._connections):
                connection.close()

    def _turn(self, patience: float | None) -> bool:
        """Read, publish, deliver, look at the clock; whether there was anything to read."""
        has_read = self._read(patience)
        if self._heard:
            arrivals, self._heard = self._heard, []
            self._accept_waiting()
            self._room.receive(arrivals)
        self._take_inbox()
        self._look_after_those_behind()
        self._look_at_the_clock(time.monotonic())
        return has_read

    def _patience(self) -> float | None:
        """How long the selector may wait: until something is due, None for ever."""
        if self._inbox or self._heard:
            return 0
        due = min(self._endings.next, self._stalls.next, self._lines.next, self._pauses.next)
        return None if due == math.inf else min(max(0, due - time.monotonic()), LONGEST_WAIT_SECONDS)

    def _read(self, patience: float | None) -> bool:
        ready = self._selector.select(patience)
        max_bytes = min(MAX_READ_BYTES, max(MIN_READ_BYTES, TURN_BYTES // (len(ready) or 1)))
        has_read = False
        for key, events in ready:
            connection: Connection | None = key.data
            if connection is None:
                self._waker.clear()
                continue
            if events & selectors.EVENT_WRITE:
                connection.flush()
            if events & selectors.EVENT_READ:
                has_read = True
                self._hear(connection, connection.receive(max_bytes))
            if connection.interest != key.events:
                self._watch(connection)
        return has_read

    def _hear(self, connection: Connection, lines: list[Line]) -> None:
        """Keep what arrived for the next batch; set the clock for what didn't arrive yet."""
        end = connection.end
        if (resume_at := connection.resume_at) is not None:
            self._pauses.set(connection, resume_at)
            end = None  # the end comes after the lines that are held back
        if (lines or end) and connection.member:
            self._heard.append(Arrival(connection.member, lines, end))
        if connection.line_due != math.inf:
            self._lines.set(connection, connection.line_due)

    def _take_inbox(self) -> None:
        batches: list[Batch] = []
        for _ in range(len(self._inbox)):
            item = self._inbox.popleft()
            if isinstance(item, Batch):
                batches.append(item)
            else:
                self._deliver(batches)
                batches = []
                item()
        self._deliver(batches)

    def _deliver(self, batches: list[Batch]) -> None:
        """One write per member, however many batches."""
        if not batches:
            return
        batch = Batch.merged(batches)
        text, own = batch.text, batch.own
        if text:
            self.deliveries += batch.messages * len(self._members)
            for member, connection in self._members.items():
                if member not in own:
                    taken = connection.write(text)
                else:
                    taken = connection.write_pieces(batch.text_for(member))
                if not taken:
                    self._fall_behind(connection)
        for member, line in batch.private:
            if reader := self._members.get(member):
                self._write(reader, line)
        for member, _ in batch.left:
            if leaver := self._members.get(member):
                self._end(leaver)

    def _look_after_those_behind(self) -> None:
        """Append, flush, and only then judge: who still has too much pending is cut off."""
        for connection in list(self._behind):
            if connection.pending_bytes > self._limits.max_pending_bytes:
                connection.flush()
            if not connection.pending_bytes:
                self._behind.remove(connection)
                self._stalls.clear(connection)
            if connection.ending and not connection.pending_bytes:
                self._end(connection)
            elif connection.pending_bytes > self._limits.max_pending_bytes and not connection.ending:
                self._cut_off(connection, f"more than {self._limits.max_pending_bytes} bytes were waiting")
            else:
                self._watch(connection)

    def _look_at_the_clock(self, now: float) -> None:
        for connection in self._endings.due(now):
            self._end_or_close(connection, now)
        for connection in self._stalls.due(now):
            connection.flush()  # the selector calls a socket writable only when a third of its buffer is free
            stalls = connection.last_sent + self._limits.stall_seconds
            if not connection.pending_bytes or stalls > now:
                self._stalls.set(connection, stalls)
            elif not connection.ending:
                self._cut_off(connection, f"nothing was read for {self._limits.stall_seconds:g} seconds")
        for connection in self._lines.due(now):
            if connection.line_due > now:  # that line has ended; another may have begun
                self._lines.set(connection, connection.line_due)
            elif not connection.ending:
                self._cut_off(connection, connection.line_fault, "endless line")
        for connection in self._pauses.due(now):
            self._hear(connection, connection.resume())
            self._watch(connection)

    # One connection

    def _admit(self, connection: Connection, member: Member) -> None:
        self._members[member] = connection
        self._watch(connection)

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._write(connection, encode_text(Notice(reason)))
        self._end(connection)

    def _write(self, connection: Connection, data: bytes) -> None:
        if not connection.write(data):
            self._fall_behind(connection)

    def _fall_behind(self, connection: Connection) -> None:
        if connection not in self._behind:
            self._behind.add(connection)
            self._stalls.set(connection, connection.last_sent + self._limits.stall_seconds)

    def _cut_off(self, connection: Connection, reason: str, kind: str = SLOW_CONSUMER) -> None:
        """End a conversation that went over a limit: after what is pending the reason. Nobody else notices."""
        assert connection.member
        self.slow_consumers += kind == SLOW_CONSUMER
        connection.cut = reason
        self._heard.append(Arrival(connection.member, connection.release(), kind))
        self._write(connection, encode_text(Notice(f"you were cut off: {reason}")))
        self._end(connection)

    def _end(self, connection: Connection) -> None:
        """Write what is pending, then the end of stream; close it when the peer has ended too, or takes too long."""
        if connection.member:
            self._members.pop(connection.member, None)
        self._lines.clear(connection)
        self._pauses.clear(connection)
        now = time.monotonic()
        if not connection.ending:
            connection.finish()
            connection.give_up_at = now + (0 if connection.cut else self._limits.stall_seconds)
        self._endings.set(connection, now + self._limits.drain_seconds)
        self._watch(connection)

    def _end_or_close(self, connection: Connection, now: float) -> None:
        """It had `drain_seconds`. Who has read in that time, and wasn't cut off, has more of it."""
        connection.flush()
        reads_until = min(connection.last_sent + self._limits.drain_seconds, connection.give_up_at)
        if connection.pending_bytes and reads_until > now:
            self._endings.set(connection, reads_until)
        else:
            self._close(connection)

    def _watch(self, connection: Connection) -> None:
        """Wait for what the connection needs next; close it when it needs nothing more."""
        if connection not in self._connections:  # closed already
            return
        key = self._selector.get_map().get(connection.sock)
        if connection.finished:
            self._close(connection)
        elif not key and connection.interest:
            self._selector.register(connection.sock, connection.interest, connection)
        elif key and not connection.interest:
            self._selector.unregister(connection.sock)
        elif key and key.events != connection.interest:
            self._selector.modify(connection.sock, connection.interest, connection)

    def _close(self, connection: Connection) -> None:
        if connection.sock in self._selector.get_map():
            self._selector.unregister(connection.sock)
        self._connections.remove(connection)
        self._behind.discard(connection)
        for deadlines in (self._endings, self._stalls, self._lines, self._pauses):
            deadlines.clear(connection)
        if connection.member and (connection.cut or connection.pending_bytes):
            reason = connection.cut or "it read too slowly at its end"
            logger.warning("%s: %d lines undelivered: %s", connection.member.name, connection.undelivered, reason)
        connection.close()

    # The end

    def _finish(self, deadline: float, all_read: threading.Barrier) -> None:
        """The way of `stop`."""
        reading = (time.monotonic() + deadline) / 2
        self._release_all()
        while self._turn(0) and time.monotonic() < reading:
            pass
        with suppress(threading.BrokenBarrierError):
            all_read.wait(max(0, deadline - time.monotonic()))
        self._take_inbox()
        self._room.receive([Arrival(member, [], "shutdown") for member in self._members])
        self._take_inbox()
        while self._connections and (left := deadline - time.monotonic()) > 0:
            patience = self._patience()
            self._turn(left if patience is None else min(left, patience))
        for connection in list(self._connections):
            self._close(connection)

    def _release_all(self) -> None:
        """What a member's rate holds back has arrived, too."""
        for connection in self._connections:
            self._hear(connection, connection.release())
            self._watch(connection)
