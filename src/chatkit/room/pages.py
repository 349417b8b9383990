"""Earlier messages, as pages of encoded lines for replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from chatkit.events import Event, Gap, Message
from chatkit.history.base import History
from chatkit.history.memory import MemoryHistory
from chatkit.protocol.formats import Format
from chatkit.room.batch import IdRange, contains

# A page is encoded once for all requests of the same page, until there is a new message: usually 4 MiB at most.
MAX_PAGES = 64

# deliver(lines, upto): the next lines of a replay, which cover the ids up to this one (inclusive).
Deliver = Callable[[bytes, int], None]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for the next page of a replay.

    Attributes:
        after: return messages with ids above this one (exclusive).
        upto: return messages with ids up to this one (inclusive).
        max_bytes: end the page at about this size.
        format: the format of the lines.
        exclude: ranges of ids to leave out.
        own: ranges of ids to mark as the reader's own.
    """

    after: int
    upto: int
    max_bytes: int
    format: Format
    exclude: Sequence[IdRange] = ()
    own: Sequence[IdRange] = ()

    @property
    def is_shared(self) -> bool:
        """Whether every reader gets the same page."""
        return not self.exclude and not self.own


ReadOlder = Callable[[PageRequest, Callable[[list[Message]], None]], None]


class Pages:
    """Pages of the newest messages, from memory, and of older ones, from a history.

    Args:
        size: the number of messages that are kept in memory.
        history: the history of older messages, or None.
        read_older: the function that reads from `history`, in a thread of its own.
    """

    def __init__(self, size: int, history: History | None = None, read_older: ReadOlder | None = None) -> None:
        self.recent = MemoryHistory(size)
        self.history = history or self.recent  # without a history, memory has all there is
        self._read_older = read_older
        # After a restart of the server all clients ask for the same pages.
        self._encoded: dict[tuple[int, int, Format], tuple[bytes, int]] = {}

    def append(self, messages: Sequence[Message]) -> None:
        """Keep messages in memory."""
        self.recent.append(messages)
        self._encoded.clear()

    def forget(self, upto: int) -> None:
        """Drop the messages with ids up to this one (inclusive), which were pruned."""
        self.recent.forget(upto)
        self._encoded.clear()

    def read(self, request: PageRequest, deliver: Deliver) -> None:
        """Call deliver(lines, upto) with the next page, now or later, in any thread."""
        page = self._encoded.get((request.after, request.max_bytes, request.format))
        if page and page[1] <= request.upto and request.is_shared:  # a page that ended earlier is only shorter
            deliver(*page)
            return
        messages = self.recent.read(request.after, request.upto, request.max_bytes)
        oldest = (
            self.recent.oldest_id
        )  # looked up after reading: if nothing was dropped meanwhile, the page is complete
        if not self._read_older or request.after + 1 >= oldest:
            deliver(*self._page(messages, request))
        else:
            older = replace(request, upto=min(request.upto, oldest - 1))
            self._read_older(older, lambda messages: deliver(*self._page(messages, older)))

    def _page(self, messages: list[Message], request: PageRequest) -> tuple[bytes, int]:
        """Encode messages, with a gap in place of lost ones. Returns (lines, last id)."""
        events, last = list[Event](), messages[-1].id or 0 if messages else request.upto
        ids = [request.after, *[message.id or 0 for message in messages]]
        for message, (previous, number) in zip(messages, pairwise(ids), strict=True):
            if number > previous + 1 and (missing := self.history.missing(previous + 1, number - 1)):
                events.append(Gap(missing))
            if request.own and contains(request.own, number):
                events.append(replace(message, own=True))
            elif not request.exclude or not contains(request.exclude, number):
                events.append(message)
        if not messages and (missing := self.history.missing(request.after + 1, request.upto)):
            events.append(Gap(missing))
        page = request.format.encode(*events), last
        if len(self._encoded) >= MAX_PAGES:
            self._encoded.clear()
        if len(events) == len(messages) > 0 and request.is_shared:  # missing messages may be found the next time
            self._encoded[request.after, request.max_bytes, request.format] = page
        return page
