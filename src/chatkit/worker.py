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
from chatkit.events import Notice
from chatkit.limits import Limits
from chatkit.protocol import encode_text
from chatkit.room import Arrival, Batch, Member, Room
from chatkit.waker import Waker

logger = logging.getLogger("chatkit")

# One turn reads so much, shared among those who are ready: far below what may be pending for a member,
# so that a turn alone never makes a slow consumer of anyone.
TURN_BYTES = 1024 * 1024
MAX_READ_BYTES = 64 * 1024
MIN_READ_BYTES = 512

Call = Callable[[], None]


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
        self._adopted = 0
        self._closed = 0
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
        self._ending: dict[Connection, float] = {}  # when each is closed the hard way
        self._next_close = math.inf
        self._cut: list[Arrival] = []
        self._next_stall = math.inf
        self._stopping: tuple[float, threading.Barrier] | None = None
        room.add_outlet(self.post)

    # From any thread

    @property
    def load(self) -> int:
        """How many connections it owns, those on their way included."""
        return self._adopted - self._closed

    def post(self, item: Batch | Call) -> None:
        """Leave a batch to deliver or something to call; handled in the order of the posts. Never blocks."""
        self._inbox.append(item)
        if threading.get_ident() != self.ident:
            self._waker.wake()

    def admit(self, connection: Connection, member: Member) -> None:
        """Own a member's connection from now on. Inside the room's lock: what is in the inbox is older than the member."""
        connection.member = member
        self._adopted += 1
        self.post(partial(self._admit, connection, member))

    def refuse(self, connection: Connection, reason: str) -> None:
        """Own a connection that gets no more than this reason and its end."""
        self._adopted += 1
        self.post(partial(self._refuse, connection, reason))

    def stop(self, deadline: float, all_read: threading.Barrier) -> None:
        """Read what has arrived, meet the other workers at `all_read`, deliver, end every connection.

        deadline: `time.monotonic` when what is still open is closed the hard way.
        """
        self.post(partial(setattr, self, "_stopping", (deadline, all_read)))

    def release(self) -> None:
        """Free the selector and the waker, after every thread that may post is gone."""
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
        finally:
            for connection in self._connections:
                connection.close()

    def _turn(self, patience: float | None) -> bool:
        """Read, publish, deliver; whether there was anything to read."""
        arrivals, self._cut = self._cut, []
        has_read = self._read(patience, arrivals)
        if arrivals:
            self._accept_waiting()
            self._room.receive(arrivals)
        self._take_inbox()
        self._judge()
        return has_read

    def _patience(self) -> float | None:
        """How long the selector may wait: until the next deadline, None for ever."""
        if self._inbox or self._cut:
            return 0
        due = min(self._next_stall, self._next_close)
        return None if due == math.inf else max(0, due - time.monotonic())

    def _read(self, patience: float | None, arrivals: list[Arrival]) -> bool:
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
                lines = connection.receive(max_bytes)
                has_read = True
                if connection.member and (lines or connection.end):
                    arrivals.append(Arrival(connection.member, lines, connection.end))
            if connection.interest != key.events:
                self._watch(connection)
        return has_read

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
                    self._behind.add(connection)
        for member, line in batch.private:
            if (to := self._members.get(member)) and not to.write(line):
                self._behind.add(to)
        for member, _ in batch.left:
            if leaver := self._members.get(member):
                self._end(leaver, time.monotonic() + self._limits.drain_seconds)

    def _judge(self) -> None:
        """Look after those who are behind, and close those whose time is over."""
        now, next_stall = time.monotonic(), math.inf
        for connection in list(self._behind):
            if connection.pending_bytes > self._limits.max_pending_bytes:
                connection.flush()
            if not connection.pending_bytes:
                self._behind.discard(connection)
                if connection.ending:
                    self._end(connection, now + self._limits.drain_seconds)
            elif not connection.ending:
                next_stall = min(next_stall, self._judge_slow(connection, now))
            self._watch(connection)
        self._next_stall = next_stall
        if now >= self._next_close:
            for overdue in [connection for connection, deadline in self._ending.items() if deadline <= now]:
                self._close(overdue)
            self._next_close = min(self._ending.values(), default=math.inf)

    def _judge_slow(self, connection: Connection, now: float) -> float:
        """Cut a slow consumer off; else the time when it will count as stalled."""
        stalls = connection.last_sent + self._limits.stall_seconds
        if connection.pending_bytes > self._limits.max_pending_bytes:
            self._cut_off(connection, f"more than {self._limits.max_pending_bytes} bytes were waiting")
        elif now >= stalls:
            self._cut_off(connection, f"nothing was read for {self._limits.stall_seconds:g} seconds")
        else:
            return stalls
        return math.inf

    # One connection

    def _admit(self, connection: Connection, member: Member) -> None:
        self._connections.add(connection)
        self._members[member] = connection
        self._watch(connection)

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._connections.add(connection)
        connection.write(encode_text(Notice(reason)))
        self._end(connection, time.monotonic() + self._limits.drain_seconds)

    def _cut_off(self, connection: Connection, reason: str) -> None:
        """End a slow consumer: after what is pending the reason, if it reads on. Nobody else notices."""
        assert connection.member
        self.slow_consumers += 1
        self._cut.append(Arrival(connection.member, [], "slow consumer"))
        connection.cut = reason
        connection.write(encode_text(Notice(f"you were cut off: {reason}")))
        self._end(connection, time.monotonic() + self._limits.drain_seconds)

    def _end(self, connection: Connection, deadline: float) -> None:
        if connection.member:
            self._members.pop(connection.member, None)
        self._ending[connection] = deadline
        self._next_close = min(self._next_close, deadline)
        connection.finish()
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Wait for what the connection needs next; close it when it needs nothing more."""
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
        self._closed += 1
        self._ending.pop(connection, None)
        self._behind.discard(connection)
        if connection.member and (connection.cut or connection.pending_bytes):
            reason = connection.cut or "it read too slowly at its end"
            logger.warning("%s: %d lines undelivered: %s", connection.member.name, connection.undelivered, reason)
        connection.close()

    # The end

    def _finish(self, deadline: float, all_read: threading.Barrier) -> None:
        """The way of `stop`."""
        reading = (time.monotonic() + deadline) / 2
        while self._turn(0) and time.monotonic() < reading:
            pass
        with suppress(threading.BrokenBarrierError):
            all_read.wait(max(0, deadline - time.monotonic()))
        self._take_inbox()
        self._room.receive([Arrival(member, [], "shutdown") for member in self._members])
        self._take_inbox()
        for connection in list(self._behind):
            self._end(connection, deadline)
        while self._connections and (left := deadline - time.monotonic()) > 0:
            self._turn(min(left, self._patience() or 0))
        for connection in list(self._connections):
            self._close(connection)
