"""One thread that serves connections: a selector, an inbox, a turn.

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

from chatkit.events import Notice
from chatkit.limits import Limits
from chatkit.net.sockets import LONGEST_WAIT_SECONDS, Address, Waker
from chatkit.protocol.formats import TEXT
from chatkit.room.batch import Batch, Encoded, Received, Subscribe
from chatkit.room.members import Member
from chatkit.room.room import Room
from chatkit.room.turn import SHUTDOWN
from chatkit.server.connection import Connection
from chatkit.server.connections import Connections
from chatkit.server.login import Logins, PasswordAuth
from chatkit.server.replays import Replays
from chatkit.server.stats import Counters

logger = logging.getLogger("chatkit")

# One turn reads so much, shared among those who are ready: far below what may be pending for a member,
# so that a turn alone never makes a slow consumer of anyone. One member alone gets a small part of that: what it says
# is over in two or three milliseconds, and whoever waited for its turn is received.
TURN_BYTES = 1024 * 1024
MAX_READ_BYTES = 32 * 1024
MIN_READ_BYTES = 512

# While the publisher is full a worker only hands out what comes of it; it is woken when that is something.
FULL_SECONDS = 0.05

Call = Callable[[], None]


class Worker(threading.Thread):
    """Runs turns until `stop`, then ends its connections.

    accept_waiting(): called before lines are published, so that whoever was connected before hears them.
    failed(error): called in the thread when it dies of an error; its connections are closed then.
    auth: what asks for the room's password, if it has one.
    """

    def __init__(
        self,
        name: str,
        room: Room,
        limits: Limits,
        accept_waiting: Callable[[], object],
        failed: Callable[[BaseException], None],
        auth: PasswordAuth | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._room = room
        self._accept_waiting = accept_waiting
        self._failed = failed
        self._inbox: deque[Batch | Subscribe | Call] = deque()
        self._selector = selectors.DefaultSelector()
        self._waker = Waker(self._selector)
        self._connections = Connections(limits, self._selector)
        self._subscribers = self._connections.subscribers
        self._replays = Replays(room.publisher, limits, self._connections, self.post)
        self._logins = Logins(room, limits, auth, self._connections, self.admit)
        self._stopping: tuple[float, threading.Barrier] | None = None
        room.add_subscriber(self.post)

    @property
    def load(self) -> int:
        """How many connections it owns, those on their way included."""
        return len(self._connections)

    @property
    def counters(self) -> Counters:
        """What it counts."""
        return self._connections.counters

    def post(self, item: Batch | Subscribe | Call) -> None:
        """Leave a batch to deliver or something to call; handled in the order of the posts. Never blocks."""
        self._inbox.append(item)
        if threading.get_ident() != self.ident:
            self._waker.wake()

    def admit(self, connection: Connection, member: Member) -> None:
        """Own a member's connection from now on. Inside the room's lock: its `Subscribe` comes later."""
        connection.member = member
        self._subscribers.joining[member] = connection
        self._connections.add(connection)

    def enter(self, connection: Connection, address: Address) -> None:
        """Own the connection of a peer that has to log in, and has a place."""
        self._connections.add(connection)
        self.post(partial(self._logins.begin, connection, address, time.monotonic()))

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
        self._connections.close_all()
        self._waker.close()
        self._selector.close()

    def run(self) -> None:
        try:
            while not self._stopping:
                self._turn(self._patience())
            self._finish(*self._stopping)
        except BaseException as error:
            logger.critical("%s died", self.name, exc_info=True)
            self._failed(error)
            self._connections.close_all()

    def _turn(self, patience: float | None) -> bool:
        """Read, publish, deliver, look at the clock; whether there was anything to read."""
        has_read = self._wait_for_publisher() if self._room.publisher.is_backlogged else self._read(patience)
        if received := self._connections.received:
            self._connections.received = []
            self._accept_waiting()
            self._room.receive(received)
        self._take_inbox()
        self._replays.tick()
        self._connections.tick()
        return has_read

    def _patience(self) -> float | None:
        """How long the selector may wait: until something is due, None for ever."""
        if self._inbox or self._connections.received or self._replays.is_ready:
            return 0
        due = self._connections.next_due
        return None if due == math.inf else min(max(0, due - time.monotonic()), LONGEST_WAIT_SECONDS)

    def _wait_for_publisher(self) -> bool:
        """There is more to read, but what was read before has to be kept first; whoever has done that wakes us."""
        self._waker.wait(FULL_SECONDS)
        return True

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
                self._connections.receive(connection, connection.receive(max_bytes))
            if connection.interest != key.events:
                self._connections.watch(connection)
        return has_read

    def _take_inbox(self) -> None:
        batches, newcomers = list[Batch](), dict[Member, int]()
        for _ in range(len(self._inbox)):
            item = self._inbox.popleft()
            if isinstance(item, Batch):
                batches.append(item)
            elif isinstance(item, Subscribe) and item.format is TEXT:
                if self._replays.admit(item):
                    newcomers[item.member] = len(batches)
            else:
                self._deliver(batches, newcomers)
                batches, newcomers = [], {}
                self._replays.switch(item) if isinstance(item, Subscribe) else item()
        self._deliver(batches, newcomers)

    def _deliver(self, batches: list[Batch], newcomers: dict[Member, int]) -> None:
        """Write once to each member, however many batches there are.

        Args:
            newcomers: members that joined after so many of the batches.
        """
        if not batches:
            return
        batch, subscribers, counters = Batch.merged(batches, newcomers), self._subscribers, self.counters
        counters.deliveries += len(batch.messages) * len(subscribers)
        counters.deliveries -= sum(len(early.messages) for number in newcomers.values() for early in batches[:number])
        for format, members in subscribers.by_format.items():
            if members and format in batch.encoded:
                self._write(batch.encoded[format], members)
        for member, connection in subscribers.replaying.items():
            if connection.replay:
                connection.replay.hold(batches[newcomers.get(member, 0) :])
        for member, _ in batch.left:
            if leaver := subscribers.find(member):
                self._connections.end(leaver)

    def _write(self, lines: Encoded, members: dict[Member, Connection]) -> None:
        data, edits, mark_behind = lines.data, lines.edits, self._connections.mark_behind
        if data:
            shared = len(members)
            for member, connection in members.items():
                if member in edits:
                    shared -= 1
                elif not connection.write(data):
                    mark_behind(connection)
            self.counters.sent_bytes += len(data) * shared
        for member in edits:
            if connection := members.get(member):  # type: ignore[assignment]  # or None
                self._connections.write_pieces(connection, lines.pieces_for(member))

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._connections.write(connection, TEXT.encode(Notice(reason)))
        self._connections.end(connection)

    def _finish(self, deadline: float, all_read: threading.Barrier) -> None:
        """The way of `stop`."""
        reading = (time.monotonic() + deadline) / 2
        self._logins.close()
        self._connections.release_throttled()
        while self._turn(0) and time.monotonic() < reading:
            pass
        with suppress(threading.BrokenBarrierError):
            all_read.wait(min(max(0, deadline - time.monotonic()), LONGEST_WAIT_SECONDS))
        self._take_inbox()
        self._room.receive([Received(member, [], SHUTDOWN) for member in self._subscribers.members])
        self._take_inbox()
        while len(self._connections) and (left := deadline - time.monotonic()) > 0:
            patience = self._patience()
            self._turn(min(left, LONGEST_WAIT_SECONDS if patience is None else patience))
        self._connections.close_all()
