"""What goes into the room in a turn, and what comes out of it for everyone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from chatkit.events import Error, Event, Message
from chatkit.protocol.formats import TEXT, Format
from chatkit.protocol.lines import Line
from chatkit.room.members import Member


@dataclass(frozen=True, slots=True)
class Received:
    """What came from one member in one turn. end: why this was the last of it, or None."""

    member: Member
    lines: list[Line]
    end: str | None = None


# The first and the last of numbers that are next to each other.
IdRange = tuple[int, int]


def contains(spans: Sequence[IdRange], number: int) -> bool:
    """Whether one of these, in order, has this number in it."""
    place = bisect_right(spans, number, key=itemgetter(0))
    return place > 0 and number <= spans[place - 1][1]


# From, to, and what this member gets instead of these bytes: nothing for its own lines; a line that is for it
# alone stands between two bytes.
Edit = tuple[int, int, bytes]


@dataclass(slots=True)
class Encoded:
    """Lines in one encoding.

    data: for everyone, encoded once. edits: for whom something is different, in order.
    ephemeral: from, to (without that) of those in `data` that are no messages, and so in no history; public: their bytes.
    """

    data: bytes = b""
    edits: dict[Member, list[Edit]] = field(default_factory=dict)
    ephemeral: list[IdRange] = field(default_factory=list)
    public: bytes = b""

    @property
    def size(self) -> int:
        """How much it is, for everyone and for each."""
        return len(self.data) + sum([len(replacement) for edits in self.edits.values() for _, _, replacement in edits])

    def pieces_for(self, member: Member) -> list[bytes | memoryview]:
        """What this member gets, in pieces that share the memory of `data`."""
        if member not in self.edits:
            return [self.data] if self.data else []
        whole, pieces, position = memoryview(self.data), list[bytes | memoryview](), 0
        for start, end, replacement in self.edits[member]:
            pieces += (whole[position:start], replacement)
            position = end
        pieces.append(whole[position:])
        return [piece for piece in pieces if piece]

    def ephemeral_for(self, member: Member) -> list[bytes]:
        """Of what this member gets, what is no message."""
        if member not in self.edits:
            return [self.public] if self.public else []
        edits = self.edits[member]
        cuts = [(start, end - 1) for start, end, _ in edits if start < end]
        private = [(start, 0, line) for start, _, line in edits if line]
        public = [(start, 1, self.data[start:end]) for start, end in self.ephemeral if not contains(cuts, start)]
        return [line for _, _, line in sorted(private + public, key=itemgetter(0, 1))]

    @classmethod
    def joined(cls, parts: Sequence[Encoded], newcomers: Mapping[Member, int]) -> Encoded:
        """Several as one. newcomers: for whom so many of the parts, the first ones, are not."""
        whole, offset = cls(b"".join([part.data for part in parts])), 0
        for member, number in newcomers.items():
            whole.edits[member] = [(0, sum(len(part.data) for part in parts[:number]), b"")]
        for part in parts:
            for member, edits in part.edits.items():
                moved = [(start + offset, end + offset, replacement) for start, end, replacement in edits]
                whole.edits.setdefault(member, []).extend(moved)
            offset += len(part.data)
        return whole


@dataclass(slots=True)
class Batch:
    """What one turn brought, for all members of all workers.

    encoded: the lines in each format that is read.
    messages: those in it, in order.
    left: members that are no longer in the room, and why.
    said: the messages of each sender, as the first and the last id of those that it said one after the other.
    newest_id: of all these, or 0.

    `said`, `newest_id` and `Encoded.ephemeral` are of a batch as the room made it, not of a merged one.
    """

    encoded: dict[Format, Encoded] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    left: list[tuple[Member, str]] = field(default_factory=list)
    said: dict[Member, list[IdRange]] = field(default_factory=dict)
    newest_id: int = 0

    def lines(self, format: Format) -> Encoded:
        """The lines in one format."""
        return self.encoded.get(format) or Encoded()

    @property
    def size(self) -> int:
        """How many bytes it holds, in all formats."""
        return sum([encoded.size for encoded in self.encoded.values()])

    def refused(self, error: Error) -> Batch:
        """Instead of messages alone: nothing for anyone, but for each sender this error for each line it said."""

        def told(said: Encoded, line: bytes) -> Encoded:
            data = said.data
            number = {
                member: sum(data.count(b"\n", start, end) for start, end, _ in edits)
                for member, edits in said.edits.items()
            }
            return Encoded(edits={member: [(0, 0, line * lines)] for member, lines in number.items()})

        return Batch({format: told(said, format.encode(error)) for format, said in self.encoded.items()})

    @classmethod
    def merged(cls, batches: list[Batch], newcomers: Mapping[Member, int]) -> Batch:
        """Several batches as one, so that each member still gets one write.

        newcomers: who joined after so many of the batches; those before are not for it.
        """
        if len(batches) == 1 and not newcomers:
            return batches[0]
        # A member that joins begins with text.
        encoded = {
            format: Encoded.joined([batch.lines(format) for batch in batches], newcomers if format is TEXT else {})
            for format in {format: None for batch in batches for format in batch.encoded}
        }
        return cls(
            encoded,
            [message for batch in batches for message in batch.messages],
            [left for batch in batches for left in batch.left],
        )


@dataclass(frozen=True, slots=True)
class Subscribe:
    """From here on `member` gets what is said, in this format.

    first: what it is told before anything else. after, upto: it is told the messages of these ids, without the lowest one.
    last: what comes after those.
    """

    member: Member
    format: Format
    first: bytes = b""
    after: int = 0
    upto: int = 0
    last: bytes = b""


class BatchBuilder:
    """What happens, in order, encoded once for all who read the same.

    formats: those that are read. messages: those in it. has_more: whether there is anything else in it.
    """

    __slots__ = ("_encoders", "_ids", "_left", "_said", "_sender", "has_more", "messages")

    def __init__(self, formats: Iterable[Format]) -> None:
        self.messages: list[Message] = []
        self.has_more = False
        self._left: list[tuple[Member, str]] = []
        self._encoders = {format: _Encoder(format) for format in formats}
        self._said: list[Message] = []
        self._ids: dict[Member, list[IdRange]] = {}
        self._sender: Member | None = None

    @property
    def has_messages(self) -> bool:
        """Whether there are messages in it."""
        return bool(self.messages or self._said)

    def say(self, sender: Member, message: Message) -> None:
        """For everyone but its sender."""
        if sender is not self._sender:
            self._write_said()
            self._sender = sender
        self._said.append(message)

    def tell(self, member: Member, format: Format, line: bytes) -> None:
        """For one member alone, which reads this format."""
        self.has_more = True
        self._write_said()
        self._encoders[format].insert(member, line)

    def announce(self, event: Event, formats: Iterable[Format], exclude: Member | None = None) -> None:
        """For everyone that reads one of these formats, but one."""
        self.has_more = True
        self._write_said()
        for format in formats:
            if encoder := self._encoders.get(format):
                encoder.write([event], exclude, is_ephemeral=True)

    def leave(self, member: Member, reason: str) -> None:
        """The last of a member."""
        self.has_more = True
        self._left.append((member, reason))

    def batch(self) -> Batch | None:
        """What was put in so far; None if that is nothing."""
        self._write_said()
        encoded = {format: encoder.encoded() for format, encoder in self._encoders.items()}
        if not (self._left or any(lines.data or lines.edits for lines in encoded.values())):
            return None
        newest_id = self.messages[-1].id if self.messages else None
        return Batch(encoded, self.messages, self._left, self._ids, newest_id or 0)

    def _write_said(self) -> None:
        if said := self._said:
            self._said = []
            self.messages += said
            if self._sender:
                self._ids.setdefault(self._sender, []).append((said[0].id or 0, said[-1].id or 0))
            for encoder in self._encoders.values():
                encoder.write(said, self._sender)


class _Encoder:
    """Writes events in one format."""

    __slots__ = ("_edits", "_encode", "_ephemeral", "_parts", "_size")

    def __init__(self, format: Format) -> None:
        self._encode = format.encode
        self._parts: list[bytes] = []
        self._ephemeral: list[IdRange] = []
        self._size = 0
        self._edits: dict[Member, list[Edit]] = {}

    def write(self, events: Iterable[Event], exclude: Member | None, *, is_ephemeral: bool = False) -> None:
        data = self._encode(*events)
        if exclude:
            self._edits.setdefault(exclude, []).append((self._size, self._size + len(data), b""))
        if is_ephemeral:
            self._ephemeral.append((self._size, self._size + len(data)))
        self._parts.append(data)
        self._size += len(data)

    def insert(self, member: Member, line: bytes) -> None:
        self._edits.setdefault(member, []).append((self._size, self._size, line))

    def encoded(self) -> Encoded:
        data = b"".join(self._parts)
        public = b"".join([data[start:end] for start, end in self._ephemeral])
        return Encoded(data, self._edits, self._ephemeral, public)
