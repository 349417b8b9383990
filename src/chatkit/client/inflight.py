"""What a client that comes back remembers of its own lines, and how much of it. No sockets, no waiting."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from chatkit.client.protocol import command_of, said
from chatkit.events import Event, Message, Unconfirmed

# As much as the server keeps for a member that reads too slowly (max_pending_bytes); in characters.
MAX_REMEMBERED = 8 * 1024 * 1024
# What Python needs for a line beside its characters, so that many short ones don't take many times as much.
LINE_COST = 100
# The caller's own `/sync` that wait for an answer one by one; the answers to what is more count together.
MAX_QUESTIONS = 1000


@dataclass(slots=True)
class _Sent:
    """Lines that were sent over one connection, in order, and aren't known to be acknowledged.

    names: who said them, and places: what they were, and which of the connection's lines said it, once that is lost.
    before: how many lines of the connection came before these. acknowledged: how many the room has surely acknowledged.
    """

    names: set[str] = field(default_factory=set)
    places: dict[tuple[type[Message], str], deque[int]] = field(default_factory=dict)
    lines: deque[str] = field(default_factory=deque)
    before: int = 0
    acknowledged: int = 0

    @property
    def forgotten(self) -> int:
        """How many lines before these aren't known to be acknowledged either."""
        return self.before - self.acknowledged

    def place_of(self, message: Message) -> int | None:
        """Which of the connection's lines said this, if one of these did."""
        places = self.places.get((type(message), message.text)) or deque()
        while places and places[0] < self.before:
            places.popleft()
        return places[0] if places and places[0] < self.before + len(self.lines) else None


@dataclass(slots=True)
class _Question:
    """One `/sync`, or several of the caller's: when they are all answered the first `upto` lines have been acknowledged."""

    upto: int
    is_ours: bool
    answers: int = 1


class InFlight:
    """The lines of this connection that aren't confirmed, and those of lost ones that may not have been acknowledged.

    Together at most MAX_REMEMBERED, or the newest line if that is longer: the oldest are forgotten, and only counted.
    """

    def __init__(self) -> None:
        self._sent = _Sent()  # over this connection
        self._questions = deque[_Question]()  # of those, what is under way
        self._lost = list[_Sent]()  # over earlier ones
        self._forgotten = 0  # lines of connections that were lost before those
        self._size = 0

    # This connection

    @property
    def unconfirmed(self) -> int:
        """How many lines, also of those that are forgotten."""
        return self._sent.forgotten + len(self._sent.lines)

    @property
    def is_asking(self) -> bool:
        """Whether a question is under way."""
        return bool(self._questions)

    @property
    def unasked(self) -> bool:
        """Whether there are lines that no question is about."""
        asked = self._questions[-1].upto if self._questions else self._sent.acknowledged
        return asked < self._sent.before + len(self._sent.lines)

    def add(self, line: str) -> None:
        """It is on its way."""
        self._sent.lines.append(line)
        self._size += _size_of(line)
        if command_of(line) == "sync":
            self.ask(is_ours=False)
        while self._size > max(MAX_REMEMBERED, _size_of(line)):
            self._forget()

    def take_back(self) -> None:
        """The last line didn't get away; perhaps it is known already that the connection is lost."""
        if self._sent.lines:
            self._size -= _size_of(self._sent.lines.pop())
        elif self._lost:
            self._size -= _size_of(self._lost[-1].lines.pop())

    def ask(self, *, is_ours: bool) -> None:
        """A `/sync` goes out after the last line."""
        upto = self._sent.before + len(self._sent.lines)
        if is_ours or len(self._questions) < MAX_QUESTIONS or self._questions[-1].is_ours:
            self._questions.append(_Question(upto, is_ours))
        else:
            self._questions[-1].upto = upto
            self._questions[-1].answers += 1

    def confirm(self) -> bool:
        """The answer to the first question; whether the caller asked it."""
        if not self._questions:
            return True
        question = self._questions[0]
        question.answers -= 1
        if not question.answers:
            self._questions.popleft()
            self._acknowledge(self._sent, question.upto)
        return not question.is_ours

    def lose(self, names: set[str]) -> None:
        """The connection is lost. names: those that its lines may have been said under, beside what they ask for."""
        sent, self._sent = self._sent, _Sent()
        self._questions.clear()
        asked = {line.split(maxsplit=1)[-1].strip() for line in sent.lines if command_of(line) == "nick"}
        sent.names = names | asked
        for number, line in enumerate(sent.lines, sent.before):
            if words := said(line):
                sent.places.setdefault(words, deque()).append(number)
        if sent.lines or sent.forgotten:
            self._lost.append(sent)

    # Disconnected connections

    def __bool__(self) -> bool:
        """Whether a message may match_echo that a line of a lost connection was acknowledged."""
        return bool(self._lost)

    def match_echo(self, message: Message) -> bool:
        """Whether this is one of our doubtful lines; then all that was sent before it was acknowledged, too."""
        for lost in self._lost:
            if message.sender in lost.names and (place := lost.place_of(message)) is not None:
                self._acknowledge(lost, place + 1)
                return True
        return False

    def report_unknown(self) -> list[Event]:
        """Nothing will match_echo these lines any more: what the caller is told of them."""
        forgotten = self._forgotten + sum(lost.forgotten for lost in self._lost)
        lines = [line for lost in self._lost for line in lost.lines]
        self._lost.clear()
        self._forgotten = 0
        self._size -= sum(map(_size_of, lines))
        many = f"nobody knows whether the room heard {forgotten} lines that were sent before, too many to keep"
        told = list[Event]([Unconfirmed(many, "")] if forgotten else [])
        return told + [Unconfirmed(f"nobody knows whether the room heard: {line}", line) for line in lines]

    def _acknowledge(self, sent: _Sent, acknowledged: int) -> None:
        """The room has surely acknowledged so many lines of a connection."""
        while sent.lines and sent.before < acknowledged:
            self._drop(sent)
        sent.acknowledged = min(acknowledged, sent.before)  # one may have been taken back

    def _forget(self) -> None:
        """The oldest line, but not that there was one."""
        oldest = self._lost[0] if self._lost else self._sent
        if oldest.lines:
            self._drop(oldest)
        else:
            self._forgotten += self._lost.pop(0).forgotten

    def _drop(self, sent: _Sent) -> None:
        self._size -= _size_of(sent.lines.popleft())
        sent.before += 1


def _size_of(line: str) -> int:
    return len(line) + LINE_COST
