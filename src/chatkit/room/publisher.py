"""The way of a turn to the workers: ids are given, lines encoded once per format, kept, and then fanned out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from chatkit.events import Synced, Welcome
from chatkit.protocol.formats import TEXT
from chatkit.protocol.replies import REPLAY_BEGINS, REPLAY_ENDS
from chatkit.room.batch import Batch, BatchBuilder, Subscribe
from chatkit.room.entries import Announce, Entry, Leave, Start, Sync, Tell
from chatkit.room.pages import Pages

if TYPE_CHECKING:
    from chatkit.room.committer import Committer

Subscriber = Callable[[Batch | Subscribe], None]


class Publisher:
    """Everything that happens in a room passes here, in one order.

    Args:
        size: how many messages are kept in memory.
        committer: keeps messages in a history before they are fanned out; None for a room in memory.
        replay: how many of the last messages a newcomer is told.

    Attributes:
        newest_id: the id given last, 0 before the first.
        messages: how many messages were fanned out.
        subscribers: called with each batch and each `Subscribe`, in order; they must not block.
        pages: what was said before.
    """

    def __init__(self, size: int, committer: Committer | None = None, *, replay: int = 0) -> None:
        self.newest_id = 0
        self.messages = 0
        self.subscribers: list[Subscriber] = []
        self._committer = committer
        self._replay = replay
        self._readers = Counter({TEXT: 1})  # text is always encoded: anyone may join
        self.pages = Pages(size, committer.history, committer.read_older) if committer else Pages(size)
        if committer:
            committer.attach(self.pages, self._fan_out)

    @property
    def epoch(self) -> str:
        """The run of ids: those of another epoch mean nothing here."""
        return self.pages.history.epoch

    @property
    def is_refusing(self) -> bool:
        """Whether messages are refused, because they have to be kept and can't be."""
        return bool(self._committer and self._committer.required and self._committer.failure)

    @property
    def is_backlogged(self) -> bool:
        """Whether the history is so far behind that workers wait before they read more."""
        return self._committer is not None and self._committer.is_backlogged

    @property
    def unstored(self) -> int:
        """How many messages a history that should outlive the process lacks."""
        return self._committer.unstored if self._committer else 0

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Begin, before the first `publish`.

        Args:
            failed: called with the error when a thread of the history dies of one.

        Raises:
            HistoryError: the history can't be opened.
        """
        if self._committer:
            self.newest_id = self._committer.start(failed)

    def end(self, seconds: float) -> None:
        """Keep and fan out what was published, then end, within so many seconds."""
        if self._committer and self._committer.end(seconds):
            self.subscribers.clear()  # a thread that hangs may wake up later

    def publish(self, entries: Iterable[Entry]) -> None:
        """Give ids, encode, keep and fan out, in order. Called inside the room's lock; never waits."""
        alone = self._committer is not None and self._committer.required  # what may have to be refused goes alone
        builder = BatchBuilder(self._readers)
        for entry in entries:
            if isinstance(entry, tuple):
                if alone and builder.has_more:
                    builder = self._flush(builder)
                self.newest_id += 1
                object.__setattr__(entry[1], "id", self.newest_id)  # nobody else has seen the message yet
                builder.say(*entry)
            elif isinstance(entry, Start):
                self._flush(builder)
                self._start(entry)
                builder = BatchBuilder(self._readers)
            else:
                if alone and builder.has_messages:
                    builder = self._flush(builder)
                self._add(builder, entry)
        self._flush(builder)

    def can_replay_after(self, after: int) -> bool:
        """Tell whether everything fanned out after this id can be replayed, also later: memory may have lost it then."""
        return self._committer is not None and self._committer.can_replay_after(after)

    def cursor_before_last(self, number: int) -> int:
        """Return the id after which the last `number` messages come, as far as they are kept."""
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
                self._readers[entry.member.format] -= 1
                self._readers += Counter()  # a format without readers isn't encoded

    def _start(self, start: Start) -> None:
        """Have a member receive from here on, after a replay."""
        after, newest = start.after, self.newest_id
        if after is None:
            after = self.cursor_before_last(self._replay)
        elif start.epoch not in (None, self.epoch):
            after = 0
        first = last = b""
        if start.format is not TEXT:
            self._readers[start.format] += 1
            first = start.format.encode(Welcome(start.name, newest, self.epoch))
        elif after < newest:
            first, last = TEXT.encode(REPLAY_BEGINS), TEXT.encode(REPLAY_ENDS)
        self._hand_on(Subscribe(start.member, start.format, first, after, newest, last))

    def _flush(self, builder: BatchBuilder) -> BatchBuilder:
        if batch := builder.batch():
            self._hand_on(batch)
        return BatchBuilder(self._readers)

    def _hand_on(self, item: Batch | Subscribe) -> None:
        if self._committer:
            self._committer.put(item)
        else:
            self._fan_out(item)

    def _fan_out(self, item: Batch | Subscribe) -> None:
        if isinstance(item, Batch) and item.messages:
            self.pages.append(item.messages)
            self.messages += len(item.messages)
        for subscriber in self.subscribers:
            subscriber(item)
