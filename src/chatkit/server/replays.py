"""Replays: a member receives earlier messages, page by page, as fast as it reads, and only then live batches.

Operations: `admit` and `switch` begin a replay, `tick` continues all of them, `Replay.hold` holds live batches.
Goal: each message once and in order, with bounded memory for members that don't read. Plan: the next page is requested
when the kernel has taken the one before. Held messages that the history also has are dropped when they become many; the
replay then reads them from the history, and the lines that no history has are delivered after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from chatkit.limits import Limits
from chatkit.protocol.formats import TEXT
from chatkit.room.batch import Batch, IdRange, Subscribe
from chatkit.room.listing import Listing
from chatkit.room.pages import PageRequest
from chatkit.room.publisher import Publisher
from chatkit.server.budget import Share
from chatkit.server.connection import Connection, ConnectionState
from chatkit.server.connections import Connections
from chatkit.server.pending import unpinned

# The memory of one range of ids.
RANGE_BYTES = 100

# The maximum size of a page, and of all pages together: ten thousand members that ask for a replay and don't read must
# not fill the memory.
MAX_PAGE_BYTES = 64 * 1024
ALL_PAGES_BYTES = 16 * 1024 * 1024


class Replay:
    """A member's replay: old messages, page by page. Live batches wait behind it.

    Attributes:
        member: the member that receives the replay.
        format: the format of its lines.
        after: the remaining ids are above this one (exclusive) ...
        upto: ... and up to this one (inclusive).
        private_bytes: the bytes that it shares with no other member, charged to `share`.
        last: lines to deliver after the remaining messages.
        exclude: ranges of ids to leave out: messages that it received before, and its own unless it wants them.
        own: ranges of ids of its own messages, if it wants them.
        is_awaiting: whether a page is requested and not delivered yet.
        leaving: whether the conversation ends after the replay.
        held: live pieces, to be delivered after the replay.
        held_bytes: the size of `held`.
        message_bytes: the size of the messages in `held`.
        live_after: messages above this id are live; those of them up to `upto` are no longer held.
    """

    __slots__ = (
        *("_ephemeral", "_newest_id", "_own_ids", "after", "exclude", "format", "held", "held_bytes", "is_awaiting"),
        *("last", "leaving", "live_after", "member", "message_bytes", "own", "private_bytes", "share", "upto"),
    )

    def __init__(self, subscribe: Subscribe, share: Share) -> None:
        self.member, self.format, self.last = subscribe.member, subscribe.format, subscribe.last
        self.after, self.upto = subscribe.after, subscribe.upto
        self.live_after = subscribe.upto
        self.exclude: list[IdRange] = []
        self.own: list[IdRange] = []
        self.is_awaiting = self.leaving = False
        self.held: list[bytes | memoryview] = []
        self.held_bytes = self.message_bytes = 0
        self.share, self.private_bytes = share, 0
        self._own_ids: list[IdRange] = []  # of the member's own messages since the replay began
        self._ephemeral: list[bytes | memoryview] = []  # the pieces of `held` that are not in any history
        self._newest_id = 0

    def hold(self, batch: Batch, first: int = 0, last: int | None = None) -> None:
        """Hold the live lines of these parts of a batch. The limit is checked in `Replays.tick`, not here."""
        if self.leaving or first == last:
            return
        lines = batch.lines(self.format)
        whole = lines.pieces_for(self.member, first, last)
        pieces = [lines.view if piece is lines.data else unpinned(piece) for piece in whole]
        ephemeral = list(map(unpinned, lines.ephemeral_for(self.member, first, last)))
        size = sum(map(len, pieces))
        self.held += pieces
        self.held_bytes += size
        self.message_bytes += size - sum(map(len, ephemeral))
        self._ephemeral += ephemeral
        self._newest_id = batch.newest_id or self._newest_id
        self._note_own(batch.sent_ids.get(self.member, ()))
        self._charge(sum([len(piece) for piece in pieces if isinstance(piece, bytes)]))

    def hold_listing(self, listing: Listing) -> None:
        """Hold the lines of a listing."""
        if not self.leaving:
            lines = listing.take_all()
            self.held.append(lines)
            self._ephemeral.append(lines)
            self.held_bytes += len(lines)
            self._charge(len(lines))

    def _note_own(self, sent: Iterable[IdRange]) -> None:
        """Note the ids of the member's own messages; ranges that follow each other are one."""
        for ids in sent:
            if ids[0] <= self.live_after:
                continue
            if self._own_ids and self._own_ids[-1][1] + 1 == ids[0]:
                self._own_ids[-1] = self._own_ids[-1][0], ids[1]
            else:
                self._own_ids.append(ids)
                self.held_bytes += RANGE_BYTES
                self._charge(RANGE_BYTES)

    def release(self) -> None:
        """Give back its part of the budget: the held pieces belong to the connection now, or to nobody."""
        self._charge(-self.private_bytes)

    def _charge(self, number: int) -> None:
        self.private_bytes += number
        self.share.private_bytes += number

    def leave_to_history(self) -> None:
        """Drop the held messages, and read them from the history instead. Other held lines come after all of them."""
        self.upto = max(self.upto, self._newest_id)
        has_echo = self.member.echo and self.format is not TEXT
        (self.own if has_echo else self.exclude).extend(self._own_ids)
        self.own = [ids for ids in self.own if ids[1] > self.after]
        self.exclude = [ids for ids in self.exclude if ids[1] > self.after]
        self._own_ids = []
        self.held = self._ephemeral.copy()
        range_bytes = RANGE_BYTES * (len(self.exclude) + len(self.own))
        self.held_bytes = sum(map(len, self.held)) + range_bytes
        self.message_bytes = 0
        private = sum([len(piece) for piece in self.held if isinstance(piece, bytes)])
        self._charge(private + range_bytes - self.private_bytes)

    @property
    def owes_live(self) -> bool:
        """Whether live messages were dropped from `held` and are not delivered yet."""
        return max(self.after, self.live_after) < self.upto

    def take_over(self, unfinished: Replay) -> None:
        """Take over the remaining ids of an unfinished replay; its held pieces are written already."""
        begin = min(self.after, self.upto)
        self.after = min(begin, max(unfinished.after, unfinished.live_after))
        delivered = [*unfinished.exclude, (unfinished.upto + 1, begin)]
        self.exclude = [(first, min(last, begin)) for first, last in delivered if first <= begin]


class Replays:
    """The replays of one worker; used by its thread alone.

    Args:
        publisher: the source of pages.
        limits: the limit of held bytes.
        connections: the connections of the worker.
        post: has the worker make a call; safe from any thread.
    """

    def __init__(
        self, publisher: Publisher, limits: Limits, connections: Connections, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self._publisher = publisher
        self._limits = limits
        self._connections = connections
        self._subscribers = connections.subscribers
        self._post = post

    def tick(self) -> None:
        """Continue each replay that was touched, if the kernel has taken its last page."""
        for connection in list(self._connections.touched):
            if connection.replay:
                self._continue(connection, connection.replay)

    def _continue(self, connection: Connection, replay: Replay) -> None:
        if self._holds_many_messages(replay) and self._publisher.can_replay_after(replay.upto):
            replay.leave_to_history()
        if connection.state is ConnectionState.BROKEN:
            self._finish(connection, replay)
        elif replay.held_bytes > self._limits.max_pending_bytes and not replay.leaving:
            reason = f"more than {self._limits.max_pending_bytes} bytes were waiting behind the replay"
            self._connections.disconnect(connection, reason)
        elif not replay.is_awaiting and not connection.pending_bytes:
            if replay.after < replay.upto:
                self._request_page(connection, replay)
            else:
                self._finish(connection, replay)

    def begin(self, connection: Connection, subscribe: Subscribe) -> None:
        """Begin a replay, or deliver live batches at once if there is nothing to replay."""
        member, unfinished = subscribe.member, connection.replay
        is_new = self._subscribers.joining.pop(member, None) is not None
        self._subscribers.remove(member)
        if unfinished:
            self._subscribers.end_replay(connection)
            self._release(connection, unfinished)
        if subscribe.first:
            self._connections.write(connection, subscribe.first)
        replay = Replay(subscribe, self._connections.share)
        if unfinished and unfinished.owes_live:
            replay.take_over(unfinished)
        if replay.after < replay.upto:
            connection.replay = replay
            self._subscribers.replaying[member] = connection
            self._connections.touched[connection] = None
        else:
            self._subscribers.by_format[subscribe.format][member] = connection
        if is_new:
            self._connections.watch(connection)

    def write_listing(self, connection: Connection, listing: Listing) -> None:
        """Write a listing, after the replay if there is one."""
        if connection.replay:
            connection.replay.hold_listing(listing)
            self._connections.touched[connection] = None
        else:
            self._connections.write_listing(connection, listing)

    def _holds_many_messages(self, replay: Replay) -> bool:
        """Tell whether more than half of the limit is held: the rest is for live batches after the replay."""
        limit = self._limits.max_pending_bytes
        # `leave_to_history` copies all other lines: not worth it for a few messages.
        return replay.held_bytes > limit // 2 and replay.message_bytes > limit // 8 and not replay.leaving

    def _request_page(self, connection: Connection, replay: Replay) -> None:
        replay.is_awaiting = True
        share = ALL_PAGES_BYTES // len(self._subscribers.replaying)
        max_bytes = min(MAX_PAGE_BYTES, 1 << share.bit_length() - 1)  # a power of two: equal sizes share pages
        request = PageRequest(replay.after, replay.upto, max_bytes, replay.format, replay.exclude, replay.own)
        self._publisher.pages.read(request, partial(self._receive_page, connection, replay))

    def _receive_page(self, connection: Connection, replay: Replay, lines: bytes, upto: int) -> None:
        """Hand a page to the worker's thread; called in any thread."""
        self._post(partial(self._deliver_page, connection, replay, lines, upto))

    def _deliver_page(self, connection: Connection, replay: Replay, lines: bytes, upto: int) -> None:
        """Write a page, unless another replay has begun meanwhile."""
        if connection.replay is replay:
            replay.is_awaiting = False
            replay.after = upto
            self._connections.touched[connection] = None
            if lines:
                self._connections.write(connection, lines)

    def _finish(self, connection: Connection, replay: Replay) -> None:
        """End a replay: deliver its last lines and the held ones, then live batches."""
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
