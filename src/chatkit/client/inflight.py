"""The memory that a reconnecting client has of its own lines. No sockets, no waiting."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from chatkit.client.protocol import command_name, expected_echo
from chatkit.events import Event, Message, Unconfirmed

# As much as the server keeps for a slow consumer (max_pending_bytes), here in characters.
MAX_REMEMBERED_CHARACTERS = 8 * 1024 * 1024
# Python's overhead for a line, in characters: many short lines must not take many times the bound.
LINE_OVERHEAD = 100
# The caller's own `/sync` lines are tracked one by one up to this number, later ones together.
MAX_PENDING_SYNCS = 1000


@dataclass(slots=True)
class _SentLines:
    """Lines sent on one connection and not yet acknowledged, oldest first.

    Attributes:
        first: the number of the oldest line here. All lines of a connection are numbered from 0.
        acknowledged: how many lines of the connection the room has acknowledged; at most `first`.
        senders: set when the connection is lost: the names under which the room may have relayed the lines.
        numbers: set when the connection is lost: for each message, the numbers of the lines that become it.
    """

    senders: set[str] = field(default_factory=set)
    numbers: dict[tuple[type[Message], str], deque[int]] = field(default_factory=dict)
    lines: deque[str] = field(default_factory=deque)
    first: int = 0
    acknowledged: int = 0

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
        numbers = self.numbers.get((type(message), message.text)) or deque()
        while numbers and numbers[0] < self.first:
            numbers.popleft()
        return numbers[0] if numbers and numbers[0] < self.end else None


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

    Operations: `add` a line that is sent, `acknowledge` lines by the answer to a `/sync`, `match_echo` a message of
    the replay with a line of a lost connection, `report_unknown` for the lines that nothing can acknowledge any more.

    The size is bounded by MAX_REMEMBERED_CHARACTERS, or by the newest line if that is longer. Beyond it the oldest
    lines are dropped and only their number is kept.
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
        self._sent.lines.append(line)
        self._size += _size_of(line)
        if command_name(line) == "sync":
            self.add_sync(is_ours=False)
        while self._size > max(MAX_REMEMBERED_CHARACTERS, _size_of(line)):
            self._drop_oldest()

    def retract(self) -> None:
        """Forget the newest line, which could not be sent. The connection may be known as lost by now."""
        if self._sent.lines:
            self._size -= _size_of(self._sent.lines.pop())
        elif self._lost:
            self._size -= _size_of(self._lost[-1].lines.pop())

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

    def connection_lost(self, names: set[str]) -> None:
        """Keep the lines until an echo in the replay acknowledges them, or nothing can.

        Args:
            names: the names under which the room may have relayed the lines. Names in sent `/nick` lines are added.
        """
        sent, self._sent = self._sent, _SentLines()
        self._syncs.clear()
        requested = {line.split(maxsplit=1)[-1].strip() for line in sent.lines if command_name(line) == "nick"}
        sent.senders = names | requested
        for number, line in enumerate(sent.lines, sent.first):
            if echo := expected_echo(line):
                sent.numbers.setdefault(echo, deque()).append(number)
        if sent.lines or sent.dropped:
            self._lost.append(sent)

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
        lines = [line for lost in self._lost for line in lost.lines]
        self._lost.clear()
        self._dropped = 0
        self._size -= sum(map(_size_of, lines))
        many = f"the room may not have received {dropped} earlier lines, too many to remember"
        events = list[Event]([Unconfirmed(many, "")] if dropped else [])
        return events + [Unconfirmed(f"the room may not have received: {line}", line) for line in lines]

    def _acknowledge(self, sent: _SentLines, upto: int) -> None:
        """Forget the lines of a connection with numbers below `upto`."""
        while sent.lines and sent.first < upto:
            self._pop(sent)
        sent.acknowledged = min(upto, sent.first)  # the last line may have been retracted

    def _drop_oldest(self) -> None:
        """Forget the oldest line, but keep count of it."""
        oldest = self._lost[0] if self._lost else self._sent
        if oldest.lines:
            self._pop(oldest)
        else:
            self._dropped += self._lost.pop(0).dropped

    def _pop(self, sent: _SentLines) -> None:
        self._size -= _size_of(sent.lines.popleft())
        sent.first += 1


def _size_of(line: str) -> int:
    return len(line) + LINE_OVERHEAD
