"""A thread that serves connections, turn by turn, with a selector and an inbox.

A turn reads every ready socket, hands all lines to the room at once, handles the batches and calls in the inbox, and
writes once to each member. Nothing in a turn waits for a peer.
"""

from __future__ import annotations

import logging
import math
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from itertools import accumulate

from chatkit.events import Notice
from chatkit.limits import Limits
from chatkit.net.descriptors import MAX_ENDING
from chatkit.net.sockets import LONGEST_WAIT_SECONDS, Address, Waker
from chatkit.protocol.formats import TEXT
from chatkit.room.batch import Batch, Encoded, Item, Received, Subscribe
from chatkit.room.listing import Listing
from chatkit.room.members import Member
from chatkit.room.room import Room
from chatkit.room.turn import SHUTDOWN
from chatkit.server.budget import Budget, Share
from chatkit.server.connection import Connection
from chatkit.server.connections import Connections
from chatkit.server.login import Logins, PasswordAuth
from chatkit.server.pace import Pace
from chatkit.server.replays import Replays
from chatkit.server.stats import Counters

logger = logging.getLogger("chatkit")

# One turn reads TURN_BYTES at most, shared among the ready connections. That is far below `max_pending_bytes`, so that
# one turn never makes a slow consumer of a member that reads. One connection alone may use only MAX_READ_BYTES: its
# lines take two or three milliseconds, and then the others are served.
TURN_BYTES = 1024 * 1024
MAX_READ_BYTES = 32 * 1024
MIN_READ_BYTES = 512

# While the publisher is backlogged a worker doesn't read; it is woken by each batch, and looks again after this time.
BACKLOG_SECONDS = 0.05

Call = Callable[[], None]

# For each member that doesn't simply receive all batches: after how many batches, and what comes there. It begins to
# receive batches, or receives them in another format; it receives a listing; or (None) it receives no more.
Point = tuple[int, Subscribe | Listing | None]
Points = dict[Member, list[Point]]


class Worker(threading.Thread):
    """A worker thread. It runs turns until `stop`, then ends its connections.

    Args:
        name: the name of the thread.
        room: the room of its members.
        limits: the limits of its connections.
        accept_waiting: called before lines are published: peers that connected before receive them.
        failed: called as failed(error) in this thread when an exception ends it; its connections are closed then.
        auth: the room's password, or None.
        share: its share of the server's budget of private bytes.

    Attributes:
        max_ending: how many connections that are about to end it keeps, until the room ends.
    """

    def __init__(
        self,
        name: str,
        room: Room,
        limits: Limits,
        accept_waiting: Callable[[], object],
        failed: Callable[[BaseException], None],
        auth: PasswordAuth | None = None,
        share: Share | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._room = room
        self._accept_waiting = accept_waiting
        self._failed = failed
        self._inbox: deque[Item | Call] = deque()
        self.share = share or Budget(limits).share()
        self.max_ending = MAX_ENDING
        self._pace = Pace()
        self._waiting: dict[Connection, None] = {}  # those that the last turn had no time for
        self._looked_at = -math.inf  # when the selector was asked last
        self._stopping: tuple[float, threading.Barrier] | None = None
        with ExitStack() as stack:
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._waker = Waker(self._selector)
            stack.callback(self._waker.close)
            self._connections = Connections(limits, self._selector, self.share)
            self._subscribers = self._connections.subscribers
            self._replays = Replays(room.publisher, limits, self._connections, self.post)
            self._logins = Logins(room, limits, auth, self._connections, self.admit)
            room.add_inbox(self.post)
            self._resources = stack.pop_all()

    @property
    def load(self) -> int:
        """The number of connections that it owns, including those that aren't members yet."""
        return len(self._connections)

    @property
    def ending(self) -> int:
        """The number of connections that are about to end."""
        return self._connections.ending

    @property
    def counters(self) -> Counters:
        """Its counters."""
        return self._connections.counters

    def post(self, item: Item | Call) -> None:
        """Put an item of the room's output or a call into the inbox; safe from any thread, never blocks."""
        self._inbox.append(item)
        if threading.get_ident() != self.ident:
            self._waker.wake()

    def admit(self, connection: Connection, member: Member) -> None:
        """Take over the connection of a new member. Called under the room's lock; its `Subscribe` follows."""
        connection.member = member
        self._subscribers.joining[member] = connection
        self._connections.add(connection)

    def enter(self, connection: Connection, address: Address) -> None:
        """Take over the connection of a peer that has a reserved place and must log in."""
        self._connections.add(connection)
        self.post(partial(self._logins.begin, connection, address))

    def refuse(self, connection: Connection, reason: str) -> None:
        """Take over a refused connection: it receives the reason and the end of stream."""
        self._connections.add(connection, is_ending=True)
        self.post(partial(self._refuse, connection, reason))

    def stop(self, deadline: float, all_read: threading.Barrier) -> None:
        """Have the thread end: it reads everything that has arrived, delivers it, and ends every connection.

        Args:
            deadline: the time (`time.monotonic`) when open connections are closed by force.
            all_read: where the workers wait for each other after reading, so that each delivers the lines of all.
        """
        self._stopping = deadline, all_read  # directly: behind a full inbox it would come too late
        self._waker.wake()

    def release(self) -> None:
        """Free the connections, the waker and the selector, after every thread that may post has ended."""
        self._connections.close_all()
        self._resources.close()

    def close_in_child(self) -> None:
        """Close a forked child's copies of the descriptors."""
        self._connections.close_in_child()
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
        """Read, publish, deliver, handle deadlines. Returns whether there was anything to read."""
        has_read = self._wait_for_publisher() if self._room.publisher.is_backlogged else self._read(patience)
        if received := self._connections.received:
            self._connections.received = []
            self._accept_waiting()
            self._room.receive(received)
        self._pace.end(has_more=bool(self._connections.with_input or self._waiting))
        if (now := time.monotonic()) >= self._room.next_due:
            self._accept_waiting()
            self._room.announce_due(now)
        self._take_inbox()
        self._replays.tick()
        self._connections.tick(self._looked_at)
        if not self._stopping:
            self._connections.close_oldest(self.max_ending)
        return has_read

    def _patience(self) -> float | None:
        """Return how many seconds the selector may wait; None if nothing is due."""
        connections = self._connections
        if self._inbox or connections.received or connections.with_input or connections.touched:
            return 0
        due = min(self._connections.next_due, self._room.next_due)
        return None if due == math.inf else min(max(0, due - time.monotonic()), LONGEST_WAIT_SECONDS)

    def _wait_for_publisher(self) -> bool:
        """Wait, instead of reading, until the history has caught up; each batch wakes the worker. Returns True."""
        self._waker.wait(BACKLOG_SECONDS)
        return True

    def _read(self, patience: float | None) -> bool:
        """Read from connections, as far as the turn's budget goes. Returns whether there was anything to read."""
        self._looked_at = time.monotonic()
        selected = self._selector.select(patience)
        self._pace.begin()
        readable, self._connections.with_input = self._connections.with_input, {}
        for key, events in selected:
            connection: Connection | None = key.data
            if connection is None:
                self._waker.clear()
                continue
            if events & selectors.EVENT_WRITE:
                self._connections.flush(connection)
            if events & selectors.EVENT_READ:
                readable[connection] = None
        self._receive_all(readable)
        for key, _ in selected:
            if key.data and key.data not in self._waiting and key.data.interest != key.events:
                self._connections.watch(key.data)
        return bool(readable)

    def _receive_all(self, readable: dict[Connection, None]) -> None:
        """Receive from connections in turn. Connections that the last turn had no time for come first."""
        number = len(readable) or 1
        max_bytes = min(MAX_READ_BYTES, max(MIN_READ_BYTES, TURN_BYTES // number))
        max_lines = self._pace.share(number)
        first, handshakes = [each for each in self._waiting if each in readable], list[Connection]()
        self._waiting = {}
        for connection in dict.fromkeys([*first, *readable]):
            if not connection.transport.is_ready:
                handshakes.append(connection)
            elif self._pace.is_over:
                self._put_off(connection)
            else:
                self._receive(connection, max_bytes, max_lines)
        # A handshake may take milliseconds: one a turn, others if there is time.
        for number, connection in enumerate(handshakes):
            if number and self._pace.is_over:
                self._put_off(connection)
            else:
                self._receive(connection, max_bytes, max_lines)

    def _put_off(self, connection: Connection) -> None:
        """Leave a connection to the next turn."""
        connection.has_unread = True
        self._waiting[connection] = None
        if connection.has_input:
            self._connections.with_input[connection] = None

    def _receive(self, connection: Connection, max_bytes: int, max_lines: int) -> None:
        if not connection.takes_input:
            return
        lines = connection.receive(max_bytes, max_lines)
        self._pace.use(len(lines) or 1)
        if connection.replay:  # the read may have broken the connection
            self._connections.touched[connection] = None
        self._connections.receive(connection, lines)
        if connection.has_input:
            self._connections.watch(connection)

    def _take_inbox(self) -> None:
        """Deliver the batches of the inbox, and do its calls, in order."""
        batches, points = list[Batch](), Points()
        for _ in range(len(self._inbox)):
            item = self._inbox.popleft()
            if isinstance(item, Batch):
                batches.append(item)
                for member, _ in item.left:
                    points.setdefault(member, []).append((len(batches), None))
            elif isinstance(item, Subscribe | Listing):
                points.setdefault(item.member, []).append((len(batches), item))
            else:
                self._deliver(batches, points)
                batches, points = [], {}
                item()
        self._deliver(batches, points)

    def _deliver(self, batches: list[Batch], points: Points) -> None:
        """Write once to each member, however many batches there are.

        Args:
            points: for the members that receive something else from some batch on.
        """
        if not batches and not points:
            return
        batch, subscribers = Batch.merged(batches, in_parts=bool(points)), self._subscribers
        self._count_deliveries(batches, points)
        for format, members in subscribers.by_format.items():
            if members and format in batch.encoded:
                self._write(batch.encoded[format], members, points)
        self._hold(batch, points)
        for member in points:
            self._deliver_in_parts(member, points[member], batch)
        for member, _ in batch.left:
            if leaver := subscribers.find(member):
                self._connections.end(leaver)

    def _hold(self, batch: Batch, points: Points) -> None:
        """Have the members' replays hold a batch, as far as it has anything for them."""
        replaying, encoded = self._subscribers.replaying, batch.encoded.values()
        is_shared = any(lines.data for lines in encoded)
        concerned = replaying if is_shared else {each for lines in encoded for each in lines.edits if each in replaying}
        for member in concerned:
            connection = replaying[member]
            if connection.replay and member not in points:
                connection.replay.hold(batch)
                self._connections.touched[connection] = None

    def _count_deliveries(self, batches: list[Batch], points: Points) -> None:
        joining = [points[member][0][0] for member in points if member in self._subscribers.joining]
        messages = [0, *accumulate([len(batch.messages) for batch in batches])]
        self.counters.deliveries += messages[-1] * (len(self._subscribers) + len(joining))
        self.counters.deliveries -= sum([messages[number] for number in joining])

    def _write(self, lines: Encoded, members: dict[Member, Connection], points: Points) -> None:
        """Write the same bytes to all these members, and others to those that have edits; `points` get theirs later."""
        data, note_write = lines.data, self._connections.note_write
        apart = {**lines.edits, **points} if points else lines.edits
        if data:
            shared = len(members)
            for member, connection in members.items():
                if member in apart:
                    shared -= 1
                elif not connection.write(data):
                    note_write(connection)
            self.counters.sent_bytes += len(data) * shared
        for member in lines.edits:
            if member in members and member not in points:
                self._connections.write_pieces(members[member], lines.pieces_for(member))

    def _deliver_in_parts(self, member: Member, points: list[Point], batch: Batch) -> None:
        """Deliver to one member: up to each point as before, then as the point says.

        Later batches may lack its format, once it has left: it must not receive some of them and not others.
        """
        connection = self._subscribers.joining.get(member) or self._subscribers.find(member)
        if not connection or connection.is_leaving:  # another worker's, or gone meanwhile
            return
        first = 0
        for number, item in points:
            self._deliver_parts(connection, member, batch, first, number)
            if isinstance(item, Subscribe):
                self._replays.begin(connection, item)
            elif isinstance(item, Listing):
                self._replays.write_listing(connection, item)
            else:
                return
            first = number
        self._deliver_parts(connection, member, batch, first, None)

    def _deliver_parts(
        self, connection: Connection, member: Member, batch: Batch, first: int, last: int | None
    ) -> None:
        if connection.replay:
            connection.replay.hold(batch, first, last)
            self._connections.touched[connection] = None
        elif (format := self._subscribers.format_of(member)) and first != last:
            self._connections.write_pieces(connection, batch.lines(format).pieces_for(member, first, last))

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._connections.write(connection, TEXT.encode(Notice(reason)))
        self._connections.end(connection)

    def _finish(self, deadline: float, all_read: threading.Barrier) -> None:
        """End, as `stop` says. At most half of the time is for reading."""
        read_until = (time.monotonic() + deadline) / 2
        self._logins.close()
        self._connections.release_throttled()
        while time.monotonic() < read_until and self._turn(0):
            pass
        with suppress(threading.BrokenBarrierError):
            all_read.wait(min(max(0, deadline - time.monotonic()), LONGEST_WAIT_SECONDS))
        self._take_inbox()
        self._room.receive([Received(member, [], SHUTDOWN) for member in self._subscribers.members])
        self._take_inbox()
        while len(self._connections) and (seconds := deadline - time.monotonic()) > 0:
            patience = self._patience()
            self._turn(min(seconds, LONGEST_WAIT_SECONDS if patience is None else patience))
        self._connections.close_all()
