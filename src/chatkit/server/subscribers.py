"""Members that are told what was said before: page by page, as fast as they read, and only then what is live."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from chatkit.limits import Limits
from chatkit.room.batch import Batch, IdRange, Subscribe
from chatkit.room.pages import PageRequest
from chatkit.room.publisher import Publisher
from chatkit.server.connection import Connection
from chatkit.server.connections import Connections

# What Python needs for a span.
RANGE_BYTES = 100


class Replay:
    """Stands in for a connection while its member is told what was said before: what is live is held back meanwhile.

    after, upto: the ids that are still to be told, without the lowest one. last: what comes after them.
    exclude: spans of ids that aren't told: what the member said itself meanwhile, what it was told otherwise.
    awaits: whether more is on its way. leaving: whether the conversation ends with that.
    held: what is live, `held_bytes` of it; `message_bytes` are messages.
    live_after: messages with higher ids are live; of these, those up to `upto` are no longer held.
    """

    __slots__ = (
        *("_ephemeral", "_newest_id", "_said", "after", "awaits", "exclude", "connection", "held", "held_bytes"),
        *("format", "last", "leaving", "live_after", "member", "message_bytes", "upto"),
    )

    def __init__(self, connection: Connection, subscribe: Subscribe) -> None:
        self.connection = connection
        self.member, self.format, self.last = subscribe.member, subscribe.format, subscribe.last
        self.after, self.upto = subscribe.after, subscribe.upto
        self.live_after = subscribe.upto
        self.exclude: list[IdRange] = []
        self.awaits = self.leaving = False
        self.held: list[bytes | memoryview] = []
        self.held_bytes = self.message_bytes = 0
        self._said: list[IdRange] = []  # by the member, in between
        self._ephemeral: list[bytes | memoryview] = []  # those of `held` that no history has
        self._newest_id = 0

    def hold(self, batches: Iterable[Batch]) -> None:
        """Nobody is behind by this: it is looked at when the replay goes on."""
        if self.leaving:
            return
        for batch in batches:
            lines = batch.lines(self.format)
            pieces, ephemeral = lines.pieces_for(self.member), lines.ephemeral_for(self.member)
            size = sum(map(len, pieces))
            self.held += pieces
            self.held_bytes += size
            self.message_bytes += size - sum(map(len, ephemeral))
            self._ephemeral += ephemeral
            self._said += batch.said.get(self.member, ())
            self._newest_id = batch.newest_id or self._newest_id

    def leave_to_history(self) -> None:
        """Hold no messages: they are told as those before. What else happened comes after all of them."""
        self.upto = max(self.upto, self._newest_id)
        self.exclude = [span for span in (*self.exclude, *self._said) if span[1] > self.after]
        self._said = []
        self.held = self._ephemeral.copy()
        self.held_bytes = sum(map(len, self.held)) + RANGE_BYTES * len(self.exclude)
        self.message_bytes = 0

    @property
    def owes_live(self) -> bool:
        """Whether messages that were live aren't held any more, and not told yet."""
        return max(self.after, self.live_after) < self.upto

    def take_over(self, unfinished: Replay) -> None:
        """Tell what another one owes as well; what that one held has been told."""
        begin = min(self.after, self.upto)
        self.after = min(begin, max(unfinished.after, unfinished.live_after))
        told = [*unfinished.exclude, (unfinished.upto + 1, begin)]
        self.exclude = [(first, min(last, begin)) for first, last in told if first <= begin]


# A member that reads gets so much at a time; all that are told something share the second figure, so that
# ten thousand members that ask, and don't read, don't fill the memory.
MAX_PAGE_BYTES = 64 * 1024
ALL_PAGES_BYTES = 16 * 1024 * 1024


class Subscribers:
    """The replays of one worker; used by its thread alone.

    post(call): has the worker call it; safe from any thread.
    """

    def __init__(
        self, publisher: Publisher, limits: Limits, connections: Connections, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self._publisher = publisher
        self._limits = limits
        self._connections = connections
        self._post = post

    @property
    def is_ready(self) -> bool:
        """Whether one can go on now."""
        replaying = self._connections.replaying
        return bool(replaying) and any(
            not replay.awaits and not replay.connection.pending_bytes for replay in replaying.values()
        )

    def admit(self, subscribe: Subscribe) -> bool:
        """From here on a member that joined gets what is said, and is read; whether it is one of ours."""
        connection = self._connections.joining.pop(subscribe.member, None)
        if not connection or connection.ending:
            return False
        self._begin(connection, subscribe)
        self._connections.watch(connection)
        return True

    def subscribe(self, subscribe: Subscribe) -> None:
        """From here on a member, if it is one of ours, gets what is said in another encoding."""
        if connection := self._connections.find(subscribe.member):
            self._begin(connection, subscribe)

    def _begin(self, connection: Connection, subscribe: Subscribe) -> None:
        """First what was said before."""
        connections, member = self._connections, subscribe.member
        connections.unsubscribe(member)
        if unfinished := connections.replaying.pop(member, None):
            self._release(unfinished)
        if subscribe.first:
            connections.write(connection, subscribe.first)
        replay = Replay(connection, subscribe)
        if unfinished and unfinished.owes_live:
            replay.take_over(unfinished)
        if replay.after < replay.upto:
            connections.replaying[member] = replay
        else:
            connections.subscribers[subscribe.format][member] = connection

    def tick(self) -> None:
        """Go on with those that have read what they were told."""
        most = self._limits.max_pending_bytes
        for replay in list(self._connections.replaying.values()):
            if self._holds_much(replay) and self._publisher.can_replay_after(replay.upto):
                replay.leave_to_history()
            if replay.connection.is_broken:
                self._finish(replay)
            elif replay.held_bytes > most and not replay.leaving:
                reason = f"more than {most} bytes were waiting behind what was said before"
                self._connections.disconnect(replay.connection, reason)
            elif not replay.awaits and not replay.connection.pending_bytes:
                self._ask(replay) if replay.after < replay.upto else self._finish(replay)

    def _holds_much(self, replay: Replay) -> bool:
        """Half of what may be pending, so that at the end of the replay there is room for what follows."""
        most = self._limits.max_pending_bytes
        # Leaving messages to the history copies all that is private: not again for the next few of them.
        return replay.held_bytes > most // 2 and replay.message_bytes > most // 8 and not replay.leaving

    def _ask(self, replay: Replay) -> None:
        replay.awaits = True
        share = ALL_PAGES_BYTES // len(self._connections.replaying)
        max_bytes = min(MAX_PAGE_BYTES, 1 << share.bit_length() - 1)  # of few sizes, so that pages can be shared
        request = PageRequest(replay.after, replay.upto, max_bytes, replay.format, replay.exclude)
        self._publisher.pages.read(request, partial(self._arrived, replay))

    def _arrived(self, replay: Replay, lines: bytes, upto: int) -> None:
        self._post(partial(self._tell, replay, lines, upto))

    def _tell(self, replay: Replay, lines: bytes, upto: int) -> None:
        if self._connections.replaying.get(replay.member) is replay:
            replay.awaits = False
            replay.after = upto
            if lines:
                self._connections.write(replay.connection, lines)

    def _finish(self, replay: Replay) -> None:
        """It has been told everything: what is live meanwhile, and from now on, is next."""
        connections = self._connections
        del connections.replaying[replay.member]
        if replay.last:
            connections.write(replay.connection, replay.last)
        self._release(replay)
        if replay.leaving:
            connections.end(replay.connection)
        else:
            connections.subscribers[replay.format][replay.member] = replay.connection

    def _release(self, replay: Replay) -> None:
        self._connections.bytes += sum(map(len, replay.held))
        if not replay.connection.write_pieces(replay.held):
            self._connections.mark_behind(replay.connection)
