"""The way of what happens from the room to its workers: kept, then handed out; and how it is told again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chatkit.events import Event, Gap, Message
from chatkit.history.base import History
from chatkit.history.memory import MemoryHistory
from chatkit.protocol.formats import encode_json, encode_text
from chatkit.room.batch import Batch, Span, Switch, contains

# So many are encoded once for all who ask for the same, until something new is said: 4 MiB at the most, as a rule.
MAX_PAGES = 64

Outlet = Callable[[Batch | Switch], None]
# What a replay is told next, and up to which id that goes.
Page = Callable[[bytes, int], None]
Failed = Callable[[BaseException], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to tell again: messages with ids after `after`, up to about so many bytes or `upto`, but none of `besides`."""

    after: int
    upto: int
    max_bytes: int
    as_json: bool
    besides: Sequence[Span] = ()


class Record:
    """Keeps the newest messages in memory, and hands out at once.

    size: how many messages. history: what else there is, for whoever keeps it.
    newest_id: of the messages that were given an id. outlets: called with what is handed out, in order.
    messages: how many were handed out. unstored: how many messages a history that should outlive the process doesn't have.
    """

    required = False  # whether a message that can't be kept is refused
    problem = ""  # why messages can't be kept at the moment
    is_full = False  # whether whoever brings more should wait
    messages = unstored = 0

    def __init__(self, size: int, history: History | None = None) -> None:
        self.newest_id = 0
        self.outlets: list[Outlet] = []
        self._recent = MemoryHistory(size)
        self._history = history or self._recent  # that has all there is
        self._pages: dict[
            tuple[int, int, bool], tuple[bytes, int]
        ] = {}  # when a server starts anew, everyone asks the same

    @property
    def room(self) -> str:
        """The name of what is kept: ids of another room mean nothing here."""
        return self._history.room

    def start(self, failed: Failed) -> None:
        """Before the first `put`. failed(error): called if it ends by an error of its own."""

    def end(self, seconds: float) -> None:
        """After the last `put`; takes at most so long."""

    def put(self, item: Batch | Switch, messages: Sequence[Message] = ()) -> None:
        """Keep the messages, then hand the item out. Inside the room's lock; never waits."""
        self._hand_out(item, messages)

    def before(self, number: int) -> int:
        """The id after which the last `number` messages come, as far as they are kept."""
        return min(self.newest_id, max(self._history.before(self.newest_id, number), self._history.pruned_upto))

    def keeps_all_after(self, after: int) -> bool:
        """Whether all that was handed out after this id can be told again, also later: what is in memory may be gone then."""
        return False

    def read(self, wanted: Wanted, then: Page) -> None:
        """then(lines, id): what is wanted, up to that id; now or later, in any thread."""
        page = self._pages.get((wanted.after, wanted.max_bytes, wanted.as_json))
        if page and page[1] <= wanted.upto and not wanted.besides:  # a page that ended earlier is only shorter
            then(*page)
        else:
            self._read(wanted, then)

    def _read(self, wanted: Wanted, then: Page) -> None:
        then(*self._page(self._recent.read(wanted.after, wanted.upto, wanted.max_bytes), wanted))

    def _forget(self, upto: int) -> None:
        """Messages with ids up to this one are not kept any more."""
        self._recent.forget(upto)
        self._pages.clear()

    def _hand_out(self, item: Batch | Switch, messages: Sequence[Message]) -> None:
        if messages:
            self._recent.append(messages)
            self.messages += len(messages)
            self._pages.clear()
        for outlet in self.outlets:
            outlet(item)

    def _page(self, found: list[Message], wanted: Wanted) -> tuple[bytes, int]:
        """The lines that tell what was found; a gap where some that there were aren't among them."""
        events, last = list[Event](), found[-1].id or 0 if found else wanted.upto
        ids = [wanted.after, *[message.id or 0 for message in found]]
        for message, (before, number) in zip(found, pairwise(ids), strict=True):
            if number > before + 1 and (missing := self._history.missing(before + 1, number - 1)):
                events.append(Gap(missing))
            if not wanted.besides or not contains(wanted.besides, number):
                events.append(message)
        if not found and (missing := self._history.missing(wanted.after + 1, wanted.upto)):
            events.append(Gap(missing))
        page = (encode_json if wanted.as_json else encode_text)(*events), last
        if len(self._pages) >= MAX_PAGES:
            self._pages.clear()
        if len(events) == len(found) > 0 and not wanted.besides:  # what is missing may be there the next time
            self._pages[wanted.after, wanted.max_bytes, wanted.as_json] = page
        return page
