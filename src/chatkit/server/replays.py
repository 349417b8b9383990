"""Replays: members are told what was said before, page by page, as fast as they read, and only then what is live."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from chatkit.limits import Limits
from chatkit.room.batch import Batch, IdRange, Subscribe
from chatkit.room.pages import PageRequest
from chatkit.room.publisher import Publisher
from chatkit.server.connection import Connection, State
from chatkit.server.connections import Connections

# The memory that Python needs for a range.
RANGE_BYTES = 100

# A member that reads gets so much at a time; all replays together share the second figure, so that ten thousand
# members that ask, and don't read, don't fill the memory.
MAX_PAGE_BYTES = 64 * 1024
ALL_PAGES_BYTES = 16 * 1024 * 1024


class Replay:
    """A member's replay. Live batches are held until it has caught up.

    Attributes:
        after, upto: the remaining ids (`after` exclusive, `upto` inclusive).
        last: lines that follow the last of them.
        exclude: ranges of ids that aren't told: the member's own of this time, those that it was told otherwise.
        awaits: whether a page is on its way.
        leaving: whether the conversation ends with the replay.
        held: live pieces, `held_bytes` in all; `message_bytes` of these are messages.
        live_after: messages with higher ids are live; of these, those up to `upto` are no longer held.
    """

    __slots__ = (
        *("_ephemeral", "_newest_id", "_own_ids", "after", "awaits", "exclude", "held", "held_bytes"),
        *("format", "last", "leaving", "live_after", "member", "message_bytes", "upto"),
    )

    def __init__(self, subscribe: Subscribe) -> None:
        self.member, self.format, self.last = subscribe.member, subscribe.format, subscribe.last
        self.after, self.upto = subscribe.after, subscribe.upto
        self.live_after = subscribe.upto
        self.exclude: list[IdRange] = []
        self.awaits = self.leaving = False
        self.held: list[bytes | memoryview] = []
        self.held_bytes = self.message_bytes = 0
        self._own_ids: list[IdRange] = []  # ids of the member's own messages meanwhile
        self._ephemeral: list[bytes | memoryview] = []  # the pieces of `held` that no history has
        self._newest_id = 0

    def hold(self, batch: Batch, first: int = 0, last: int | None = None) -> None:
        """Hold what is live, in these parts of a batch. This makes nobody a slow consumer: a later turn judges it."""
        if self.leaving or first == last:
            return
        lines = batch.lines(self.format)
        pieces, ephemeral = lines.pieces_for(self.member, first, last), lines.ephemeral_for(self.member, first, last)
        size = sum(map(len, pieces))
        self.held += pieces
        self.held_bytes += size
        self.message_bytes += size - sum(map(len, ephemeral))
        self._ephemeral += ephemeral
        self._own_ids += [ids for ids in batch.sent_ids.get(self.member, ()) if ids[0] > self.live_after]
        self._newest_id = batch.newest_id or self._newest_id

    def leave_to_history(self) -> None:
        """Drop the held messages: the history tells them, too. Everything else that is held comes after all of them."""
        self.upto = max(self.upto, self._newest_id)
        self.exclude = [span for span in (*self.exclude, *self._own_ids) if span[1] > self.after]
        self._own_ids = []
        self.held = self._ephemeral.copy()
        self.held_bytes = sum(map(len, self.held)) + RANGE_BYTES * len(self.exclude)
        self.message_bytes = 0

    @property
    def owes_live(self) -> bool:
        """Whether messages that were live aren't held any more, and not told yet."""
        return max(self.after, self.live_after) < self.upto

    def take_over(self, unfinished: Replay) -> None:
        """Take over the remaining ids of an unfinished replay, whose held pieces have been written."""
        begin = min(self.after, self.upto)
        self.after = min(begin, max(unfinished.after, unfinished.live_after))
        told = [*unfinished.exclude, (unfinished.upto + 1, begin)]
        self.exclude = [(first, min(last, begin)) for first, last in told if first <= begin]


class Replays:
    """The replays of one worker; used by its thread alone.

    Args:
        publisher: has the pages.
        post: has the worker call something; safe from any thread.
    """

    def __init__(
        self, publisher: Publisher, limits: Limits, connections: Connections, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self._publisher = publisher
        self._limits = limits
        self._connections = connections
        self._subscribers = connections.subscribers
        self._post = post

    @property
    def is_ready(self) -> bool:
        """Whether one can go on now."""
        replaying = self._subscribers.replaying.values()
        return any(not each.pending_bytes and each.replay and not each.replay.awaits for each in replaying)

    def tick(self) -> None:
        """Go on with the members that have read what they were told."""
        for connection, replay in self._all():
            if self._holds_much(replay) and self._publisher.can_replay_after(replay.upto):
                replay.leave_to_history()
            if connection.state is State.BROKEN:
                self._finish(connection, replay)
            elif replay.held_bytes > self._limits.max_pending_bytes and not replay.leaving:
                reason = f"more than {self._limits.max_pending_bytes} bytes were waiting behind what was said before"
                self._connections.disconnect(connection, reason)
            elif not replay.awaits and not connection.pending_bytes:
                self._ask(connection, replay) if replay.after < replay.upto else self._finish(connection, replay)

    def _all(self) -> list[tuple[Connection, Replay]]:
        found = [(connection, connection.replay) for connection in self._subscribers.replaying.values()]
        return [(connection, replay) for connection, replay in found if replay]

    def begin(self, connection: Connection, subscribe: Subscribe) -> None:
        """Have a member receive in a format from here on, after a replay if there is anything to tell."""
        member, unfinished = subscribe.member, connection.replay
        is_new = self._subscribers.joining.pop(member, None) is not None
        self._subscribers.remove(member)
        if unfinished:
            self._subscribers.end_replay(connection)
            self._release(connection, unfinished)
        if subscribe.first:
            self._connections.write(connection, subscribe.first)
        replay = Replay(subscribe)
        if unfinished and unfinished.owes_live:
            replay.take_over(unfinished)
        if replay.after < replay.upto:
            connection.replay = replay
            self._subscribers.replaying[member] = connection
        else:
            self._subscribers.by_format[subscribe.format][member] = connection
        if is_new:
            self._connections.watch(connection)

    def _holds_much(self, replay: Replay) -> bool:
        """Tell whether half of what may be pending is held, so that after the replay there is room for what follows."""
        limit = self._limits.max_pending_bytes
        # Leaving messages to the history copies all that is private: not again for the next few of them.
        return replay.held_bytes > limit // 2 and replay.message_bytes > limit // 8 and not replay.leaving

    def _ask(self, connection: Connection, replay: Replay) -> None:
        replay.awaits = True
        share = ALL_PAGES_BYTES // len(self._subscribers.replaying)
        max_bytes = min(MAX_PAGE_BYTES, 1 << share.bit_length() - 1)  # of few sizes, so that pages can be shared
        request = PageRequest(replay.after, replay.upto, max_bytes, replay.format, replay.exclude)
        self._publisher.pages.read(request, partial(self._arrived, connection, replay))

    def _arrived(self, connection: Connection, replay: Replay, lines: bytes, upto: int) -> None:
        self._post(partial(self._tell, connection, replay, lines, upto))

    def _tell(self, connection: Connection, replay: Replay, lines: bytes, upto: int) -> None:
        if connection.replay is replay:
            replay.awaits = False
            replay.after = upto
            if lines:
                self._connections.write(connection, lines)

    def _finish(self, connection: Connection, replay: Replay) -> None:
        """Go on with what is live: first with what was held."""
        leaving = replay.leaving
        self._subscribers.end_replay(connection)
        if replay.last:
            self._connections.write(connection, replay.last)
        self._release(connection, replay)
        if leaving:
            self._connections.end(connection)
        else:
            self._subscribers.by_format[replay.format][replay.member] = connection

    def _release(self, connection: Connection, replay: Replay) -> None:
        self._connections.write_pieces(connection, replay.held)
