"""The way of what happens from the room to its workers: kept, then handed out; and how it is told again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chatkit.events import Event, Gap, Message
from chatkit.history.base import History
from chatkit.history.memory import MemoryHistory
from chatkit.protocol.formats import Format
from chatkit.room.batch import Batch, IdRange, Subscribe, contains

# So many are encoded once for all who ask for the same, until something new is said: 4 MiB at the most, as a rule.
MAX_PAGES = 64

Subscriber = Callable[[Batch | Subscribe], None]
# What a replay is told next, and up to which id that goes.
Page = Callable[[bytes, int], None]
OnFailure = Callable[[BaseException], None]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What to tell again: messages with ids after `after`, up to about so many bytes or `upto`, but none of `exclude`."""

    after: int
    upto: int
    max_bytes: int
    format: Format
    exclude: Sequence[IdRange] = ()


class Publisher:
    """Keeps the newest messages in memory, and hands out at once.

    size: how many messages. history: what else there is, for whoever keeps it.
    newest_id: of the messages that were given an id. subscribers: called with what is handed out, in order.
    messages: how many were handed out. unstored: how many messages a history that should outlive the process doesn't have.
    """

    required = False  # whether a message that can't be kept is refused
    failure = ""  # why messages can't be kept at the moment
    is_backlogged = False  # whether whoever brings more should wait
    messages = unstored = 0

    def __init__(self, size: int, history: History | None = None) -> None:
        self.newest_id = 0
        self.subscribers: list[Subscriber] = []
        self._recent = MemoryHistory(size)
        self._history = history or self._recent  # that has all there is
        self._pages: dict[
            tuple[int, int, Format], tuple[bytes, int]
        ] = {}  # when a server starts anew, everyone asks the same

    @property
    def epoch(self) -> str:
        """The run of ids: those of another epoch mean nothing here."""
        return self._history.epoch

    def start(self, failed: OnFailure) -> None:
        """Before the first `put`. failed(error): called if it ends by an error of its own."""

    def end(self, seconds: float) -> None:
        """After the last `put`; takes at most so long."""

    def publish(self, item: Batch | Subscribe, messages: Sequence[Message] = ()) -> None:
        """Keep the messages, then hand the item out. Inside the room's lock; never waits."""
        self._fan_out(item, messages)

    def cursor_before_last(self, number: int) -> int:
        """The id after which the last `number` messages come, as far as they are kept."""
        return min(
            self.newest_id, max(self._history.cursor_before_last(self.newest_id, number), self._history.pruned_upto)
        )

    def can_replay_after(self, after: int) -> bool:
        """Whether all that was handed out after this id can be told again, also later: what is in memory may be gone then."""
        return False

    def read(self, request: PageRequest, deliver: Page) -> None:
        """deliver(lines, id): what is request, up to that id; now or later, in any thread."""
        page = self._pages.get((request.after, request.max_bytes, request.format))
        if page and page[1] <= request.upto and not request.exclude:  # a page that ended earlier is only shorter
            deliver(*page)
        else:
            self._read(request, deliver)

    def _read(self, request: PageRequest, deliver: Page) -> None:
        deliver(*self._page(self._recent.read(request.after, request.upto, request.max_bytes), request))

    def _forget(self, upto: int) -> None:
        """Messages with ids up to this one are not kept any more."""
        self._recent.forget(upto)
        self._pages.clear()

    def _fan_out(self, item: Batch | Subscribe, messages: Sequence[Message]) -> None:
        if messages:
            self._recent.append(messages)
            self.messages += len(messages)
            self._pages.clear()
        for subscriber in self.subscribers:
            subscriber(item)

    def _page(self, found: list[Message], request: PageRequest) -> tuple[bytes, int]:
        """The lines that tell what was found; a gap where some that there were aren't among them."""
        events, last = list[Event](), found[-1].id or 0 if found else request.upto
        ids = [request.after, *[message.id or 0 for message in found]]
        for message, (before, number) in zip(found, pairwise(ids), strict=True):
            if number > before + 1 and (missing := self._history.missing(before + 1, number - 1)):
                events.append(Gap(missing))
            if not request.exclude or not contains(request.exclude, number):
                events.append(message)
        if not found and (missing := self._history.missing(request.after + 1, request.upto)):
            events.append(Gap(missing))
        page = request.format.encode(*events), last
        if len(self._pages) >= MAX_PAGES:
            self._pages.clear()
        if len(events) == len(found) > 0 and not request.exclude:  # what is missing may be there the next time
            self._pages[request.after, request.max_bytes, request.format] = page
        return page
