"""The path of a turn to the workers: give ids, encode once per format, commit to the history, fan out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from chatkit.events import Synced, Welcome
from chatkit.protocol.formats import TEXT
from chatkit.protocol.replies import REPLAY_BEGINS, REPLAY_ENDS
from chatkit.room.batch import Batch, BatchBuilder, Item, Subscribe
from chatkit.room.entries import Announce, Entry, Leave, Subscription, Sync, Tell
from chatkit.room.listing import Listing
from chatkit.room.pages import Pages

if TYPE_CHECKING:
    from chatkit.room.committer import Committer

Inbox = Callable[[Item], None]


class Publisher:
    """The one place that orders the events of a room, and delivers them to the workers.

    Args:
        size: the number of messages that are kept in memory.
        committer: commits messages to a history before they are fanned out; None for a room in memory.
        replay: the number of the last messages that a new member receives.

    Attributes:
        newest_id: the last id that was given, 0 before the first.
        messages: the number of messages that were fanned out.
        inboxes: called with each batch, `Subscribe` and `Listing`, in order; they must not block.
        pages: earlier messages, for replays.
    """

    def __init__(self, size: int, committer: Committer | None = None, *, replay: int = 0) -> None:
        self.newest_id = 0
        self.messages = 0
        self.inboxes: list[Inbox] = []
        self._committer = committer
        self._replay = replay
        self._reader_counts = Counter({TEXT: 1})  # text is always encoded: a new member receives it
        self.pages = Pages(size, committer.history, committer.read_older) if committer else Pages(size)
        if committer:
            committer.attach(self.pages, self._fan_out)

    @property
    def epoch(self) -> str:
        """The run of ids; ids of another epoch mean nothing here, unless `History.earlier_epochs` has it."""
        return self.pages.history.epoch

    @property
    def is_refusing(self) -> bool:
        """Whether messages are refused, because they must be stored and can't be."""
        return bool(self._committer and self._committer.required and self._committer.failure)

    @property
    def is_backlogged(self) -> bool:
        """Whether the history is so far behind that workers should stop reading."""
        return self._committer is not None and self._committer.is_backlogged

    @property
    def unstored(self) -> int:
        """The number of messages that were fanned out but not stored."""
        return self._committer.unstored if self._committer else 0

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Open the history, if there is one, before the first `publish`.

        Args:
            failed: called with the exception that ends a thread of the history, if there is one.

        Raises:
            HistoryError: the history can't be opened.
        """
        if self._committer:
            self.newest_id = self._committer.start(failed)

    def end(self, seconds: float) -> None:
        """Commit and fan out everything published, then end, within `seconds`."""
        if self._committer and self._committer.end(seconds):
            self.inboxes.clear()  # a thread that hangs may wake up later

    def publish(self, entries: Iterable[Entry]) -> None:
        """Give ids, encode, commit and fan out, in order. Called under the room's lock; never waits."""
        # Messages that may be refused get a batch of their own: the other entries are delivered in any case.
        separate = self._committer is not None and self._committer.required
        builder = BatchBuilder(self._reader_counts)
        for entry in entries:
            if isinstance(entry, tuple):
                if separate and builder.has_other_entries:
                    builder = self._flush(builder)
                self.newest_id += 1
                object.__setattr__(
                    entry[1], "id", self.newest_id
                )  # a frozen object, but no other thread has seen it yet
                builder.say(*entry)
            elif isinstance(entry, Subscription):
                self._flush(builder)
                self._subscribe(entry)
                builder = BatchBuilder(self._reader_counts)
            elif isinstance(entry, Listing):
                builder = self._flush(builder)
                self._hand_on(entry)
            else:
                if separate and builder.has_messages:
                    builder = self._flush(builder)
                self._add(builder, entry)
        self._flush(builder)

    def can_replay_after(self, after: int) -> bool:
        """Tell whether everything after this id can be replayed even when memory has dropped it."""
        return self._committer is not None and self._committer.can_replay_after(after)

    def cursor_before_last(self, number: int) -> int:
        """Return the id before the last `number` messages that are stored."""
        history = self.pages.history
        return min(self.newest_id, max(history.cursor_before_last(self.newest_id, number), history.pruned_upto))

    def _add(self, builder: BatchBuilder, entry: Tell | Announce | Sync | Leave) -> None:
        if isinstance(entry, Tell):
            builder.tell(entry.member, entry.format, entry.line)
        elif isinstance(entry, Announce):
            builder.announce(entry.event, entry.formats, entry.exclude)
        elif isinstance(entry, Sync):
            builder.tell(entry.member, entry.format, entry.format.encode(Synced(self.newest_id)))
        else:
            builder.leave(entry.member, entry.reason)
            if entry.member.format is not TEXT:
                self._reader_counts[entry.member.format] -= 1
                self._reader_counts += Counter()  # drops zeros: a format without readers isn't encoded

    def _subscribe(self, start: Subscription) -> None:
        """Subscribe a member at this point, with a replay before it."""
        after, newest, common = start.after, self.newest_id, None
        if after is None:
            after = self.cursor_before_last(self._replay)
        elif start.epoch not in (None, self.epoch):
            common = self.pages.history.earlier_epochs.get(start.epoch)
            after = min(after, common or 0)
        first = last = b""
        if start.format is not TEXT:
            self._reader_counts[start.format] += 1
            first = start.format.encode(Welcome(start.name, newest, self.epoch, start.token, common))
        elif after < newest:
            first, last = TEXT.encode(REPLAY_BEGINS), TEXT.encode(REPLAY_ENDS)
        self._hand_on(Subscribe(start.member, start.format, first, after, newest, last))

    def _flush(self, builder: BatchBuilder) -> BatchBuilder:
        """Commit the batch of a builder. Returns a new, empty builder."""
        if batch := builder.batch():
            self._hand_on(batch)
        return BatchBuilder(self._reader_counts)

    def _hand_on(self, item: Item) -> None:
        """Fan out an item, after its messages are committed if there is a history."""
        if self._committer:
            self._committer.put(item)
        else:
            self._fan_out(item)

    def _fan_out(self, item: Item) -> None:
        if isinstance(item, Batch) and item.messages:
            self.pages.append(item.messages)
            self.messages += len(item.messages)
        for inbox in self.inboxes:
            inbox(item)
