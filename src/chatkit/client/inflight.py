"""The memory that a reconnecting client has of its own lines. No sockets, no waiting."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from chatkit.client.protocol import command_name, expected_echo
from chatkit.events import Event, Message, Unconfirmed
from chatkit.protocol.names import MAX_NAME_CHARACTERS

# As much as the server keeps for a slow consumer (max_pending_bytes), and in the same way: of memory as it is held.
MAX_REMEMBERED_BYTES = 8 * 1024 * 1024
# The memory for a line besides its own: a place in the deque (8 bytes), one in the index (8), another and an int while
# that is sorted (40), and the rounding of the allocator.
LINE_OVERHEAD = 72
# Of the names in sent `/nick` lines the newest are kept at a loss.
MAX_REQUESTED_NAMES = 1000
# Lines of more lost connections than this are only counted.
MAX_LOST_CONNECTIONS = 100
# The caller's own `/sync` lines are tracked one by one up to this number, later ones together.
MAX_PENDING_SYNCS = 1000
# In the index: 2^24 lines are 1.5 GiB at least, far more than are remembered.
PLACE_BITS = (1 << 24) - 1
HASH_BITS = (1 << 64) - 1 - PLACE_BITS


class _EchoIndex:
    """The messages that lines become, by hash, for the lines of a lost connection.

    Operations: `find` the places of the lines that a message may be the echo of. Goal: a place for each line, and no
    search through all of them. A dict with a deque for each message takes ten times the memory of a short line.
    Plan: one sorted array of integers. The upper bits of each are those of a hash, the lower bits the place of a line,
    so that lines with one hash are neighbours, in order. The hash is short: the caller compares the text.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        entries = array("Q")
        for place, line in enumerate(lines):
            if echo := expected_echo(line.decode()):
                entries.append(hash_of(*echo) | place)
        self._entries = array("Q", sorted(entries))

    def find(self, message: Message, after: int) -> Iterable[int]:
        """Return the places of possible lines, oldest first, from `after` on."""
        key = hash_of(type(message), message.text)
        at = bisect_left(self._entries, key | after)
        while at < len(self._entries) and self._entries[at] & HASH_BITS == key:
            yield self._entries[at] & PLACE_BITS
            at += 1


@dataclass(slots=True)
class _SentLines:
    """Lines sent on one connection and not yet acknowledged, oldest first.

    Attributes:
        first: the number of the oldest line here. All lines of a connection are numbered from 0.
        acknowledged: how many lines of the connection the room has acknowledged; at most `first`.
        senders: set when the connection is lost: the names under which the room may have relayed the lines.
        echoes: set when the connection is lost: the index of the messages that the lines become.
        indexed_from: the number of the first line in the index.
    """

    senders: set[str] = field(default_factory=set)
    echoes: _EchoIndex | None = None
    lines: deque[bytes] = field(default_factory=deque)  # bytes, whose size is known: a str may grow by its UTF-8 form
    first: int = 0
    acknowledged: int = 0
    indexed_from: int = 0

    @property
    def end(self) -> int:
        """Return the number of the next line."""
        return self.first + len(self.lines)

    @property
    def dropped(self) -> int:
        """Return how many unacknowledged lines are no longer remembered."""
        return self.first - self.acknowledged

    def number_of(self, message: Message) -> int | None:
        """Return the number of the oldest line here that the room turns into `message`."""
        for place in self.echoes.find(message, self.first - self.indexed_from) if self.echoes else ():
            number = self.indexed_from + place
            if number < self.end and expected_echo(self._line(number)) == (type(message), message.text):
                return number
        return None

    def requested_names(self) -> Iterable[str]:
        """Return the names in `/nick` lines, the newest ones."""
        asked = (line for line in map(bytes.decode, self.lines) if command_name(line) == "nick")
        names = (line.split(maxsplit=1)[-1].strip() for line in asked)
        return deque((name for name in names if len(name) <= MAX_NAME_CHARACTERS), MAX_REQUESTED_NAMES)

    def connection_lost(self, names: set[str]) -> None:
        """Prepare the look-up of echoes, by messages from these names or from requested ones."""
        self.senders = names.union(self.requested_names())
        self.echoes, self.indexed_from = _EchoIndex(self.lines), self.first

    def _line(self, number: int) -> str:
        return self.lines[number - self.first].decode()


@dataclass(slots=True)
class _PendingSync:
    """One `/sync` without an answer yet, or several of the caller's.

    Attributes:
        upto: their last answer acknowledges the lines with numbers below this one.
        is_ours: False for the caller's own.
        answers: how many are missing.
    """

    upto: int
    is_ours: bool
    answers: int = 1


class InFlight:
    """Lines that the room hasn't acknowledged, on the current connection and on lost ones.

    Operations: `add` a line that is sent, `acknowledge` lines by the answer to a `/sync`, or one by `receive_echo`,
    `match_echo` a message of the replay with a line of a lost connection, `report_unknown` for the lines that nothing
    can acknowledge any more.

    The memory is bounded by MAX_REMEMBERED_BYTES, or by the newest line if that is longer, before and after a loss.
    Beyond it the oldest lines are dropped and only their number is kept.
    """

    def __init__(self) -> None:
        self._sent = _SentLines()  # on the current connection
        self._syncs = deque[_PendingSync]()  # on the current connection
        self._lost = list[_SentLines]()  # on earlier connections
        self._dropped = 0  # lines of still earlier connections
        self._size = 0

    # The current connection

    @property
    def unacknowledged(self) -> int:
        """Return the number of lines, dropped ones included."""
        return self._sent.dropped + len(self._sent.lines)

    @property
    def is_sync_pending(self) -> bool:
        """Tell whether a `/sync` is without an answer."""
        return bool(self._syncs)

    @property
    def has_uncovered_lines(self) -> bool:
        """Tell whether there are lines that no pending `/sync` will acknowledge."""
        covered = self._syncs[-1].upto if self._syncs else self._sent.acknowledged
        return covered < self._sent.end

    def add(self, line: str) -> None:
        """Remember a line that is about to be sent."""
        data = line.encode()
        self._sent.lines.append(data)
        self._size += size_of(data)
        if command_name(line) == "sync":
            self.add_sync(is_ours=False)
        while self._size > max(MAX_REMEMBERED_BYTES, size_of(data)):
            self._drop_oldest()

    def retract(self) -> None:
        """Forget the newest line, which could not be sent. The connection may be known as lost by now."""
        if self._sent.lines:
            self._size -= size_of(self._sent.lines.pop())
        elif self._lost:
            self._size -= size_of(self._lost[-1].lines.pop())

    def add_sync(self, *, is_ours: bool) -> None:
        """Remember a `/sync` that is sent after the newest line.

        Args:
            is_ours: False for the caller's own. The caller receives its answer.
        """
        if is_ours or len(self._syncs) < MAX_PENDING_SYNCS or self._syncs[-1].is_ours:
            self._syncs.append(_PendingSync(self._sent.end, is_ours))
        else:
            self._syncs[-1].upto = self._sent.end
            self._syncs[-1].answers += 1

    def acknowledge(self) -> bool:
        """Apply the answer to the oldest `/sync`. Return whether that was the caller's own."""
        if not self._syncs:
            return True
        sync = self._syncs[0]
        sync.answers -= 1
        if not sync.answers:
            self._syncs.popleft()
            self._acknowledge(self._sent, sync.upto)
        return not sync.is_ours

    def receive_echo(self, message: Message) -> None:
        """Acknowledge the current connection's oldest line if it became this message, which came back."""
        if self._sent.lines and expected_echo(self._sent.lines[0].decode()) == (type(message), message.text):
            self._acknowledge(self._sent, self._sent.first + 1)

    def connection_lost(self, names: set[str]) -> None:
        """Keep the lines until an echo in the replay acknowledges them, or nothing can.

        Args:
            names: the names under which the room may have relayed the lines. Names in sent `/nick` lines are added.
        """
        sent, self._sent = self._sent, _SentLines()
        self._syncs.clear()
        if sent.lines or sent.dropped:
            sent.connection_lost(names)
            self._lost.append(sent)
        while len(self._lost) > MAX_LOST_CONNECTIONS:
            self._drop_oldest()

    # Lost connections

    @property
    def has_lost_lines(self) -> bool:
        """Tell whether lines of a lost connection wait for an echo."""
        return bool(self._lost)

    def match_echo(self, message: Message) -> bool:
        """Tell whether a message is the echo of a lost connection's line; if so, acknowledge the lines up to it."""
        for lost in self._lost:
            if message.sender in lost.senders and (number := lost.number_of(message)) is not None:
                self._acknowledge(lost, number + 1)
                return True
        return False

    def report_unknown(self) -> list[Event]:
        """Return an event for each lost connection's line, and one for all dropped lines; then forget them."""
        dropped = self._dropped + sum(lost.dropped for lost in self._lost)
        many = f"the room may not have received {dropped} earlier lines, too many to remember"
        events = list[Event]([Unconfirmed(many, "")] if dropped else [])
        for lost in self._lost:
            while lost.lines:  # each is freed before the next event is made
                line = self._pop(lost).decode()
                events.append(Unconfirmed(f"the room may not have received: {line}", line))
        self._lost.clear()
        self._dropped = 0
        return events

    def _acknowledge(self, sent: _SentLines, upto: int) -> None:
        """Forget the lines of a connection with numbers below `upto`."""
        while sent.lines and sent.first < upto:
            self._pop(sent)
        # The last line may have been retracted; an echo may have come before the answer to an earlier `/sync`.
        sent.acknowledged = max(sent.acknowledged, min(upto, sent.first))

    def _drop_oldest(self) -> None:
        """Forget the oldest line, but keep count of it."""
        oldest = self._lost[0] if self._lost else self._sent
        if oldest.lines:
            self._pop(oldest)
        else:
            self._dropped += self._lost.pop(0).dropped

    def _pop(self, sent: _SentLines) -> bytes:
        line = sent.lines.popleft()
        self._size -= size_of(line)
        sent.first += 1
        return line


def size_of(line: bytes) -> int:
    """Return the memory that a remembered line takes, in bytes."""
    return sys.getsizeof(line) + LINE_OVERHEAD


def hash_of(kind: type[Message], text: str) -> int:
    """Return the upper bits of an entry of the index."""
    return hash((kind, text)) & HASH_BITS
