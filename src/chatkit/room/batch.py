"""The input of one turn of the room, and its output: lines encoded once for all members, with edits for a few."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import itemgetter

from chatkit.events import Error, Event, Message
from chatkit.protocol.formats import TEXT, Format
from chatkit.protocol.lines import Line
from chatkit.room.listing import Listing
from chatkit.room.members import Member


@dataclass(frozen=True, slots=True)
class Received:
    """The lines received from one member in one turn.

    Attributes:
        end: the reason why the conversation ends after these lines, or None.
    """

    member: Member
    lines: list[Line]
    end: str | None = None


# The first and the last (inclusive) of consecutive ids.
IdRange = tuple[int, int]


def contains(ranges: Sequence[IdRange], number: int) -> bool:
    """Tell whether a number is in one of these sorted, disjoint ranges."""
    index = bisect_right(ranges, number, key=itemgetter(0))
    return index > 0 and number <= ranges[index - 1][1]


# (start, end, replacement): one member receives `replacement` instead of `data[start:end]`. For its own messages that
# is nothing, or the same, marked as its own. A line for this member alone has an empty range (start == end).
Edit = tuple[int, int, bytes]

Piece = bytes | memoryview


@dataclass(slots=True)
class Encoded:
    """Lines in one format: shared bytes for all members, and edits for the members that receive something else.

    Goal: a member receives all of them, or those from some part on, in time that grows with its own edits only.
    Plan: `joined` keeps where each part begins, and to which part each edit belongs, since lines for a member alone
    at the end of one part and at the beginning of the next have the same place in `data`.

    Attributes:
        data: the bytes for everyone, encoded once.
        edits: the edits of `data` for each member that has any, in order.
        ephemeral: (start inclusive, end exclusive) of the ranges of `data` that are not messages: no history has them.
        ephemeral_data: the bytes of these ranges, joined.
        part_starts: where each part begins in `data`.
        edit_parts: for each member, the part of each of its edits.
    """

    data: bytes = b""
    edits: dict[Member, list[Edit]] = field(default_factory=dict)
    ephemeral: list[tuple[int, int]] = field(default_factory=list)
    ephemeral_data: bytes = b""
    part_starts: list[int] = field(default_factory=list)
    edit_parts: dict[Member, list[int]] = field(default_factory=dict)
    _ephemeral_before: list[int] | None = None  # for each range, the number of ephemeral bytes before it
    _view: memoryview | None = None

    @property
    def view(self) -> memoryview:
        """A view of `data`, one for all members: a view takes more memory than a short line."""
        if self._view is None:
            self._view = memoryview(self.data)
        return self._view

    @property
    def size(self) -> int:
        """The number of bytes, shared ones and replacements."""
        return len(self.data) + sum([len(replacement) for edits in self.edits.values() for _, _, replacement in edits])

    def pieces_for(self, member: Member, first: int = 0, last: int | None = None) -> list[Piece]:
        """Return the bytes for one member, in pieces that share the memory of `data`.

        Args:
            first, last: the parts (`last` exclusive) that it receives.
        """
        start, end = self._start_of(first), self._start_of(last)
        edits = self._edits_of(member, first, last)
        if not edits and end - start == len(self.data):
            return [self.data] if self.data else []
        view, pieces = memoryview(self.data), list[Piece]()
        for cut, go_on, replacement in edits:
            pieces += (view[start:cut], replacement)
            start = go_on
        pieces.append(view[start:end])
        return [piece for piece in pieces if piece]

    def ephemeral_for(self, member: Member, first: int = 0, last: int | None = None) -> list[Piece]:
        """Return the lines for one member, in these parts, that are not messages."""
        edits = self._edits_of(member, first, last)
        if not edits and not first and last is None:
            return [self.ephemeral_data] if self.ephemeral_data else []
        start, end = self._ephemeral_position(self._start_of(first)), self._ephemeral_position(self._start_of(last))
        view, pieces = memoryview(self.ephemeral_data), list[Piece]()
        for cut, go_on, replacement in edits:
            pieces += (view[start : self._ephemeral_position(cut)], replacement if cut == go_on else b"")
            start = self._ephemeral_position(go_on)
        pieces.append(view[start:end])
        return [piece for piece in pieces if piece]

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """Join several parts, in order."""
        whole, offset = cls(b"".join([part.data for part in parts])), 0
        for number, part in enumerate(parts):
            whole.part_starts.append(offset)
            for member, edits in part.edits.items():
                moved = [(start + offset, end + offset, replacement) for start, end, replacement in edits]
                whole.edits.setdefault(member, []).extend(moved)
                whole.edit_parts.setdefault(member, []).extend([number] * len(moved))
            whole.ephemeral += [(start + offset, end + offset) for start, end in part.ephemeral]
            offset += len(part.data)
        whole.ephemeral_data = b"".join([part.ephemeral_data for part in parts])
        return whole

    def _start_of(self, part: int | None) -> int:
        if part == 0:
            return 0
        return self.part_starts[part] if part is not None and part < len(self.part_starts) else len(self.data)

    def _edits_of(self, member: Member, first: int, last: int | None) -> list[Edit]:
        edits = self.edits.get(member, [])
        if not first and last is None:
            return edits
        parts = self.edit_parts.get(member, [])
        return edits[bisect_left(parts, first) : len(edits) if last is None else bisect_left(parts, last)]

    def _ephemeral_position(self, position: int) -> int:
        """Return how many bytes before this position of `data` are ephemeral."""
        if self._ephemeral_before is None:
            self._ephemeral_before = [0, *accumulate([end - start for start, end in self.ephemeral])]
        index = bisect_right(self.ephemeral, position, key=itemgetter(0))
        before = self._ephemeral_before[index]
        return before - max(0, self.ephemeral[index - 1][1] - position) if index else before


@dataclass(slots=True)
class Batch:
    """The output of one turn, for all members of all workers.

    Attributes:
        encoded: the lines in each format that has readers.
        messages: the messages among them, in order.
        left: the members that have left the room, each with the reason.
        sent_ids: for each sender, the ids of its messages as ranges.
        newest_id: the highest id of the messages, or 0.
    """

    encoded: dict[Format, Encoded] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    left: list[tuple[Member, str]] = field(default_factory=list)
    sent_ids: dict[Member, list[IdRange]] = field(default_factory=dict)
    newest_id: int = 0

    def lines(self, format: Format) -> Encoded:
        """Return the lines in one format."""
        return self.encoded.get(format) or Encoded()

    @property
    def size(self) -> int:
        """The number of bytes, in all formats."""
        return sum([encoded.size for encoded in self.encoded.values()])

    def refused(self, error: Error) -> Batch:
        """Return the batch that replaces one of messages only: each sender receives the error once per line."""

        def errors(sent: Encoded, line: bytes) -> Encoded:
            data = sent.data
            number = {
                member: sum(data.count(b"\n", start, end) for start, end, _ in edits)
                for member, edits in sent.edits.items()
            }
            return Encoded(edits={member: [(0, 0, line * lines)] for member, lines in number.items()})

        return Batch({format: errors(sent, format.encode(error)) for format, sent in self.encoded.items()})

    @classmethod
    def merged(cls, batches: Sequence[Batch], *, in_parts: bool = False) -> Batch:
        """Merge several batches into one, so that each member needs one write.

        Args:
            in_parts: whether members will receive some of the batches only, as parts.
        """
        if len(batches) == 1 and not in_parts:
            return batches[0]
        sent_ids: dict[Member, list[IdRange]] = {}
        for batch in batches:
            for member, ranges in batch.sent_ids.items():
                sent_ids.setdefault(member, []).extend(ranges)
        return cls(
            {
                format: Encoded.joined([batch.lines(format) for batch in batches])
                for format in {format: None for batch in batches for format in batch.encoded}
            },
            [message for batch in batches for message in batch.messages],
            [left for batch in batches for left in batch.left],
            sent_ids,
            max((batch.newest_id for batch in batches), default=0),
        )


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The point in the order of batches from which a member receives them, in this format.

    Attributes:
        first: lines to deliver before anything else.
        after: replay the messages with ids above this one (exclusive) ...
        upto: ... and up to this one (inclusive).
        last: lines to deliver after the replay.
    """

    member: Member
    format: Format
    first: bytes = b""
    after: int = 0
    upto: int = 0
    last: bytes = b""


# The output of a room, in order: for all members, or for one of them.
Item = Batch | Subscribe | Listing


class BatchBuilder:
    """A batch under construction. Operations: `say`, `tell`, `announce` and `leave` in order, then `batch`.

    Goal: encode each line once per format, however many members read it. Plan: consecutive messages of one sender are
    collected in `_run` and encoded together, with one edit that hides them from their sender, or marks them for it.

    Args:
        formats: the formats that have readers.

    Attributes:
        messages: the messages that are encoded so far.
        has_other_entries: whether it holds entries other than messages.
    """

    __slots__ = ("_encoders", "_left", "_run", "_sender", "_sent_ids", "has_other_entries", "messages")

    def __init__(self, formats: Iterable[Format]) -> None:
        self.messages: list[Message] = []
        self.has_other_entries = False
        self._left: list[tuple[Member, str]] = []
        self._encoders = {format: _Encoder(format) for format in formats}
        self._run: list[Message] = []
        self._sent_ids: dict[Member, list[IdRange]] = {}
        self._sender: Member | None = None

    @property
    def has_messages(self) -> bool:
        """Whether it holds messages."""
        return bool(self.messages or self._run)

    def say(self, sender: Member, message: Message) -> None:
        """Add a message for everyone; its sender receives it only if it wants to."""
        if sender is not self._sender:
            self._write_run()
            self._sender = sender
        self._run.append(message)

    def tell(self, member: Member, format: Format, line: bytes) -> None:
        """Add a line for one member alone, which reads this format."""
        self.has_other_entries = True
        self._write_run()
        self._encoders[format].insert(member, line)

    def announce(self, event: Event, formats: Iterable[Format], exclude: Member | None = None) -> None:
        """Add an event for every reader of these formats, except one member."""
        self.has_other_entries = True
        self._write_run()
        for format in formats:
            if encoder := self._encoders.get(format):
                encoder.write([event], exclude, is_ephemeral=True)

    def leave(self, member: Member, reason: str) -> None:
        """Add the end of a member's conversation."""
        self.has_other_entries = True
        self._left.append((member, reason))

    def batch(self) -> Batch | None:
        """Return the batch, or None if it is empty."""
        self._write_run()
        encoded = {format: encoder.encoded() for format, encoder in self._encoders.items()}
        if not (self._left or any(lines.data or lines.edits for lines in encoded.values())):
            return None
        newest_id = self.messages[-1].id if self.messages else None
        return Batch(encoded, self.messages, self._left, self._sent_ids, newest_id or 0)

    def _write_run(self) -> None:
        """Encode the collected messages of the current sender."""
        if messages := self._run:
            self._run = []
            self.messages += messages
            if self._sender:
                self._sent_ids.setdefault(self._sender, []).append((messages[0].id or 0, messages[-1].id or 0))
            for format, encoder in self._encoders.items():
                echo = encode_own(format, messages) if self._sender and self._sender.echo else b""
                encoder.write(messages, self._sender, echo)


def encode_own(format: Format, messages: Iterable[Message]) -> bytes:
    """Encode messages for their sender; a reader of plain text receives none of its own."""
    return b"" if format is TEXT else format.encode(*[replace(message, own=True) for message in messages])


class _Encoder:
    """The lines of a batch in one format, as they are added."""

    __slots__ = ("_edits", "_encode", "_ephemeral", "_parts", "_size")

    def __init__(self, format: Format) -> None:
        self._encode = format.encode
        self._parts: list[bytes] = []
        self._ephemeral: list[IdRange] = []
        self._size = 0
        self._edits: dict[Member, list[Edit]] = {}

    def write(
        self, events: Iterable[Event], exclude: Member | None, echo: bytes = b"", *, is_ephemeral: bool = False
    ) -> None:
        """Add events for every reader, except one member, which receives `echo` instead."""
        data = self._encode(*events)
        if exclude:
            self._edits.setdefault(exclude, []).append((self._size, self._size + len(data), echo))
        if is_ephemeral:
            self._ephemeral.append((self._size, self._size + len(data)))
        self._parts.append(data)
        self._size += len(data)

    def insert(self, member: Member, line: bytes) -> None:
        self._edits.setdefault(member, []).append((self._size, self._size, line))

    def encoded(self) -> Encoded:
        data = b"".join(self._parts)
        ephemeral_data = b"".join([data[start:end] for start, end in self._ephemeral])
        return Encoded(data, self._edits, self._ephemeral, ephemeral_data)
