"""What was said, kept in order, to be told again: what every kind of history has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from chatkit.errors import HistoryError
from chatkit.events import Message

__all__ = ["History", "HistoryError", "bytes_of"]


class History(ABC):
    """Messages by id. After `open`, `read` may be called in one thread while another calls the rest.

    epoch: the run of ids; those of another epoch mean nothing here.
    newest_id: no message was ever given a higher one.
    unused: (first, last) of ids that no message has, ascending. pruned_upto: none is kept up to this id.
    HistoryError: from every method that has to do with the disk, or where else it is.
    """

    epoch: str
    newest_id: int
    unused: list[tuple[int, int]]
    pruned_upto = 0

    @abstractmethod
    def open(self) -> None:
        """Be ready. HistoryError: it can't be had, not even to read."""

    @abstractmethod
    def append(self, messages: Sequence[Message]) -> None:
        """Keep all of these, whose ids are above all before, or (HistoryError) none. Without messages: try whether it could.

        When it returns they are kept, whatever happens to this process.
        """

    @abstractmethod
    def skip(self, first: int, last: int) -> None:
        """These ids, above all before, are no messages: they count as `unused`, from the next `append` on for good."""

    @abstractmethod
    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        """The first kept messages above `after`, up to `upto`: at least one, if there is one, and about so many bytes."""

    @abstractmethod
    def maintain(self, *, idle: bool) -> float:
        """A small step of what else there is to do; more of it where `idle`. In how many seconds to call again."""

    @abstractmethod
    def close(self) -> None:
        """Free it. It may be opened again."""

    def add_unused(self, first: int, last: int) -> tuple[int, int]:
        """For `skip`: the span that these ids, above all before, are in now."""
        if self.unused and self.unused[-1][1] == first - 1:
            first = self.unused.pop()[0]
        self.unused.append((first, last))
        return first, last

    def missing(self, first: int, last: int) -> int:
        """How many messages there were from `first` to `last`, where none is kept."""
        overlaps = [min(last, end) - max(first, start) + 1 for start, end in self.unused]
        return max(0, last - first + 1) - sum(overlap for overlap in overlaps if overlap > 0)

    def cursor_before_last(self, newest: int, number: int) -> int:
        """The id after which `number` messages come up to `newest`, as far as there are so many."""
        for start, end in reversed(self.unused):
            end = min(end, newest)
            if start <= end:
                if newest - end >= number:
                    break
                number -= newest - end
                newest = start - 1
        return max(0, newest - number)


def bytes_of(message: Message) -> int:
    """About how long the line is that tells it."""
    return len(message.text) + 100
