"""The interface of every history, and the arithmetic of ids that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from chatkit.errors import HistoryError
from chatkit.events import Message

__all__ = ["History", "HistoryError", "estimated_bytes"]


class History(ABC):
    """An ordered store of messages by id: the base class of every history that a server can keep.

    Ids ascend, and none is given twice in one epoch. docs/history.md says how a server uses a history, and
    tests/helpers/history_contract.py has the tests that a subclass must pass.

    Attributes:
        epoch: a name for the run of ids; an id means nothing in another epoch. A store that a backup may replace begins
            a new epoch at each `open`: its next ids may have been given before.
        earlier_epochs: the epochs that led to this one, each with its last id: ids up to that mean the same.
        newest_id: the highest id that was given, 0 before the first. A server raises it before `close`, if it gave
            ids to messages that the history couldn't keep.
        unused: the ranges of ids that no message has, ascending, as (first, last), both inclusive. Assign all of them
            at once, or call `add_unused`; the list that you get is a copy.
        pruned_upto: the highest id that was pruned, 0 if none was.

    Raises:
        HistoryError: every method that needs the disk (or another host) may raise it; the text says why.

    Threads: after `open`, one thread calls `read` while another calls the other abstract methods.
        `missing` and `cursor_before_last` are called from any thread, also meanwhile.
    """

    epoch: str
    earlier_epochs: Mapping[str, int] = MappingProxyType({})
    newest_id: int
    pruned_upto = 0
    _unused: UnusedIds

    @property
    def unused(self) -> list[tuple[int, int]]:
        return list(self._unused.ranges)

    @unused.setter
    def unused(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._unused = UnusedIds(ranges)

    @abstractmethod
    def open(self) -> None:
        """Get ready to read and to append.

        Raises:
            HistoryError: the history can't even be read.
        """

    @abstractmethod
    def append(self, messages: Sequence[Message]) -> None:
        """Keep all of these messages. In a durable history they survive a crash of the process from here on.

        Args:
            messages: messages with ascending ids, above `newest_id`. If empty: check whether an append would work now.

        Raises:
            HistoryError: none of them is kept.
        """

    @abstractmethod
    def skip(self, first: int, last: int) -> None:
        """Mark ids as `unused`: their messages were refused. The next `append`, or `close`, makes that durable.

        A durable history then also removes messages with these ids: their `append` ended too late.

        Args:
            first, last: the range of ids, both inclusive; above all ids that were kept or skipped in time.
        """

    @abstractmethod
    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        """Return the first kept messages of a range of ids.

        Args:
            after, upto: the range of ids (`after` exclusive, `upto` inclusive).
            max_bytes: about how many bytes of lines to return; above 0.

        Returns:
            Messages by ascending id; at least one, however long, if there is one.

        Raises:
            HistoryError: the messages can't be read now.
        """

    @abstractmethod
    def maintain(self, *, idle: bool) -> float:
        """Do one short step of maintenance: prune, index, checkpoint.

        Args:
            idle: nothing waits to be appended, so the step may also do work that can wait.

        Returns:
            The delay until the next call in seconds: 0.0 if there is more to do, infinity if nothing is left.

        Raises:
            HistoryError: the step failed; it is tried again later.
        """

    @abstractmethod
    def close(self) -> None:
        """Free every resource. The history may be opened again."""

    def add_unused(self, first: int, last: int) -> tuple[int, int]:
        """Add a range of ids above all earlier ones to `unused`, for `skip`.

        Returns:
            The range that has them now: it begins earlier where they continue the last one.
        """
        return self._unused.add(first, last)

    def missing(self, first: int, last: int) -> int:
        """Return the number of messages in a gap from `first` to `last` (inclusive): its ids that aren't unused."""
        return max(0, self._unused.used_upto(last) - self._unused.used_upto(first - 1))

    def cursor_before_last(self, newest: int, number: int) -> int:
        """Return the id (exclusive) before the last `number` messages up to `newest`; 0 if there are fewer."""
        if number <= 0:
            return newest
        return self._unused.before_used(self._unused.used_upto(newest) - number + 1)


class UnusedIds:
    """Ranges of ids that no message has.

    Operations: add a range above all others; count the other ids, called used, and find one by its count. Goal: as fast
    with many ranges as with few, for a disk that fails now and then adds one each time. Plan: the ids in the ranges
    before each one are counted when it is added. It is only ever extended, so these counts stay.

    Threads: one may call `add` while others call the other methods.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.ranges: list[tuple[int, int]] = []
        self._before: list[int] = []  # of each range: the number of ids in those before it
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int) -> tuple[int, int]:
        """Add a range. Return the range that has its ids now: it begins earlier if it continues the last one."""
        if self.ranges and self.ranges[-1][1] >= first - 1:
            first, last = self.ranges[-1][0], max(last, self.ranges[-1][1])
            self.ranges[-1] = first, last
        else:
            self._before.append(self._ids_in(len(self.ranges)))  # first: each range that is there has its count
            self.ranges.append((first, last))
        return first, last

    def used_upto(self, number: int) -> int:
        """Return the number of used ids from 1 to `number` (inclusive)."""
        index = bisect_right(self.ranges, number, key=lambda ids: ids[0])
        if not index:
            return number
        first, last = self.ranges[index - 1]
        return number - self._before[index - 1] - (min(last, number) - first + 1)

    def before_used(self, count: int) -> int:
        """Return the id before the used one with this count (1 is the lowest); 0 if `count` isn't above zero."""
        index = bisect_right(range(len(self.ranges)), count - 1, key=self._used_before)
        return max(0, count + self._ids_in(index) - 1)

    def _used_before(self, index: int) -> int:
        """Return the number of used ids before a range."""
        return self.ranges[index][0] - 1 - self._before[index]

    def _ids_in(self, number: int) -> int:
        """Return the number of ids in the first `number` ranges."""
        if not number:
            return 0
        first, last = self.ranges[number - 1]
        return self._before[number - 1] + last - first + 1


def estimated_bytes(message: Message) -> int:
    """Return about how many bytes the message's line takes: its text, and a hundred around that."""
    return len(message.text) + 100
