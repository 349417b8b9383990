"""Messages that were said before, as pages of lines for replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from chatkit.events import Event, Gap, Message
from chatkit.history.base import History
from chatkit.history.memory import MemoryHistory
from chatkit.protocol.formats import Format
from chatkit.room.batch import IdRange, contains

# Encoded once for all that ask for the same, until something new is said: 4 MiB at the most, as a rule.
MAX_PAGES = 64

# What a replay is told next, and up to which id that goes.
Deliver = Callable[[bytes, int], None]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Messages with ids above `after`, up to `upto` or about `max_bytes`, without those of `exclude`."""

    after: int
    upto: int
    max_bytes: int
    format: Format
    exclude: Sequence[IdRange] = ()


ReadOlder = Callable[[PageRequest, Callable[[list[Message]], None]], None]


class Pages:
    """The newest messages in memory, the others from the history, encoded.

    Args:
        size: how many messages are kept in memory.
        history: the others; None where there are none.
        read_older: reads from `history`, in a thread of its own.
    """

    def __init__(self, size: int, history: History | None = None, read_older: ReadOlder | None = None) -> None:
        self.recent = MemoryHistory(size)
        self.history = history or self.recent  # that has all there is
        self._read_older = read_older
        # When a server starts anew, everyone asks for the same.
        self._encoded: dict[tuple[int, int, Format], tuple[bytes, int]] = {}

    def append(self, messages: Sequence[Message]) -> None:
        """Keep messages in memory."""
        self.recent.append(messages)
        self._encoded.clear()

    def forget(self, upto: int) -> None:
        """Drop the messages with ids up to this one (inclusive): they were pruned."""
        self.recent.forget(upto)
        self._encoded.clear()

    def read(self, request: PageRequest, deliver: Deliver) -> None:
        """Call deliver(lines, id) with the next page, up to that id; now or later, in any thread."""
        page = self._encoded.get((request.after, request.max_bytes, request.format))
        if page and page[1] <= request.upto and not request.exclude:  # a page that ended earlier is only shorter
            deliver(*page)
            return
        found = self.recent.read(request.after, request.upto, request.max_bytes)
        oldest = self.recent.oldest_id  # looked at afterwards: what was read is whole if it is still there
        if not self._read_older or request.after + 1 >= oldest:
            deliver(*self._page(found, request))
        else:
            older = replace(request, upto=min(request.upto, oldest - 1))
            self._read_older(older, lambda found: deliver(*self._page(found, older)))

    def _page(self, found: list[Message], request: PageRequest) -> tuple[bytes, int]:
        """Encode what was found, with a gap where messages that there were are missing."""
        events, last = list[Event](), found[-1].id or 0 if found else request.upto
        ids = [request.after, *[message.id or 0 for message in found]]
        for message, (before, number) in zip(found, pairwise(ids), strict=True):
            if number > before + 1 and (missing := self.history.missing(before + 1, number - 1)):
                events.append(Gap(missing))
            if not request.exclude or not contains(request.exclude, number):
                events.append(message)
        if not found and (missing := self.history.missing(request.after + 1, request.upto)):
            events.append(Gap(missing))
        page = request.format.encode(*events), last
        if len(self._encoded) >= MAX_PAGES:
            self._encoded.clear()
        if len(events) == len(found) > 0 and not request.exclude:  # what is missing may be there the next time
            self._encoded[request.after, request.max_bytes, request.format] = page
        return page
