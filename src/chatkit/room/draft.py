"""A batch in the making."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from chatkit.events import Event, Message
from chatkit.protocol.formats import encode, encode_json, encode_text
from chatkit.room.batch import Batch, Edit, Encoded, Member, Span


class Draft:
    """What happens, in order, encoded once for all who read the same.

    json: whether anyone reads JSON. has_messages, has_more: whether there are messages in it, and anything else.
    """

    __slots__ = ("_ids", "_json", "_said", "_sender", "_text", "has_messages", "has_more", "left", "messages")

    def __init__(self, *, json: bool) -> None:
        self.messages: list[Message] = []
        self.has_messages = self.has_more = False
        self.left: list[tuple[Member, str]] = []
        self._text = _Pen(encode_text)
        self._json = _Pen(encode_json) if json else None
        self._said: list[Message] = []
        self._ids: dict[Member, list[Span]] = {}
        self._sender: Member | None = None

    def say(self, sender: Member, message: Message) -> None:
        """For everyone but its sender."""
        if sender is not self._sender:
            self._write_said()
            self._sender = sender
        self._said.append(message)
        self.has_messages = True

    def tell(self, member: Member, event: Event | bytes) -> None:
        """For one member alone."""
        self.has_more = True
        self._write_said()
        line = event if isinstance(event, bytes) else encode(event, as_json=member.json)
        pen = self._json if member.json and self._json else self._text
        pen.insert(member, line)

    def announce(self, event: Event, *, in_text: bool, besides: Member | None = None) -> None:
        """For everyone besides one; those who read plain text don't need to know if not `in_text`."""
        self.has_more = True
        self._write_said()
        if in_text:
            self._text.write([event], besides, is_aside=True)
        if self._json:
            self._json.write([event], besides, is_aside=True)

    def batch(self) -> Batch | None:
        """What was put in so far; None if that is nothing."""
        self._write_said()
        text, json = self._text.encoded(), self._json.encoded() if self._json else Encoded()
        if not (text.data or text.edits or json.data or json.edits or self.left):
            return None
        newest_id = self.messages[-1].id if self.messages else None
        return Batch(text, json, len(self.messages), self.left, self._ids, newest_id or 0)

    def _write_said(self) -> None:
        if said := self._said:
            self._said = []
            self.messages += said
            if self._sender:
                self._ids.setdefault(self._sender, []).append((said[0].id or 0, said[-1].id or 0))
            self._text.write(said, self._sender)
            if self._json:
                self._json.write(said, self._sender)


class _Pen:
    """Writes events in one encoding."""

    __slots__ = ("_asides", "_edits", "_encode", "_parts", "_size")

    def __init__(self, encode: Callable[..., bytes]) -> None:
        self._encode = encode
        self._parts: list[bytes] = []
        self._asides: list[Span] = []
        self._size = 0
        self._edits: dict[Member, list[Edit]] = {}

    def write(self, events: Iterable[Event], besides: Member | None, *, is_aside: bool = False) -> None:
        data = self._encode(*events)
        if besides:
            self._edits.setdefault(besides, []).append((self._size, self._size + len(data), b""))
        if is_aside:
            self._asides.append((self._size, self._size + len(data)))
        self._parts.append(data)
        self._size += len(data)

    def insert(self, member: Member, line: bytes) -> None:
        self._edits.setdefault(member, []).append((self._size, self._size, line))

    def encoded(self) -> Encoded:
        data = b"".join(self._parts)
        public = b"".join([data[start:end] for start, end in self._asides])
        return Encoded(data, self._edits, self._asides, public)
