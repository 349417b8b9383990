"""The wire: bytes to lines, lines to text, text to events. No sockets, no threads, no I/O.

`docs/protocol.md` says the same for people who write their own client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chatkit.events import Event, Message, Notice

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# C0 without TAB and DEL as Unicode control pictures, C1 as backslash escapes.
_CONTROLS = {code: 0x2400 + code for code in range(0x20) if code != 0x09}
_CONTROLS |= {0x7F: 0x2421}
_CLEAN: dict[int, int | str] = {**_CONTROLS, **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}}

# On a screen these do harm too: line and paragraph separators, and all that reorders text (UAX #9).
_REORDERING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE = {**_CLEAN, **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *_REORDERING)}}

_MESSAGE = re.compile(r"([^\s:*]+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that the wire doesn't carry. reason: `longer than 8192 bytes` or `not valid UTF-8`."""

    reason: str


Line = str | BadLine


def clean(text: str) -> str:
    """`text` without control characters except TAB: each becomes something to see.

    ESC becomes U+241B, U+009B becomes the four characters `\\x9b`.
    """
    return text if text.isprintable() else text.translate(_CLEAN)


def visible(text: str) -> str:
    """`clean` for a screen or a log: nothing in it moves the cursor, breaks the line or reorders text."""
    return text if text.isprintable() else text.translate(_VISIBLE)


class LineDecoder:
    """Bytes in, clean lines out, whatever the chunks.

    max_line_bytes: bound of a line without its line end. A longer one is reported once, as a
        `BadLine`, when it is known to be too long; the rest of it is skipped, the next line is intact.

    Holds at most `max_line_bytes` + 1 bytes.
    """

    __slots__ = ("_at_start", "_max_line_bytes", "_partial", "_skipping")

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._partial = b""
        self._skipping = False
        self._at_start = True

    def receive_data(self, data: bytes) -> list[Line]:
        """The lines that `data` completes, in order."""
        *ended, rest = data.split(b"\n")
        if not ended:
            return self._keep(rest)
        ended[0] = self._partial + ended[0]
        self._partial = b""
        if self._skipping:
            del ended[0]
            self._skipping = False
        return [self._line(line.removesuffix(b"\r")) for line in ended] + self._keep(rest)

    def receive_eof(self) -> list[Line]:
        """The last line, if it had no line end. After a reset, don't ask: half a line is no line."""
        last, self._partial = self._partial, b""
        return [self._line(last)] if last else []

    @property
    def in_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return self._skipping or bool(self._partial)

    def _keep(self, rest: bytes) -> list[Line]:
        if self._skipping or not rest:
            return []
        # Bytes, not a bytearray: a copy of at most max_line_bytes costs less than the read that brought them.
        self._partial += rest
        if len(self._partial) <= self._max_line_bytes + 1:  # + 1: a CR may still belong to the line end
            return []
        self._partial = b""
        self._skipping = True
        return [self._too_long()]

    def _line(self, line: bytes) -> Line:
        if len(line) > self._max_line_bytes:
            return self._too_long()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return BadLine("not valid UTF-8")
        return text if text.isprintable() else clean(text)

    def _too_long(self) -> BadLine:
        self._at_start = False
        return BadLine(f"longer than {self._max_line_bytes} bytes")


def encode_text(event: Event) -> bytes:
    """The line of plain text that tells `event`."""
    return f"{event}\n".encode()


def parse_text(line: str) -> Event:
    """The event that a line of plain text tells. A line of no known form counts as a notice."""
    if said := _MESSAGE.fullmatch(line):
        return Message(said[1], said[2])
    return Notice(line.removeprefix("*** "))


def check_sendable(text: str, max_line_bytes: int) -> bytes:
    """`text` as a line for the wire.

    ValueError: it holds a line end, is longer than `max_line_bytes`, or isn't valid Unicode.
    """
    if "\n" in text or text.endswith("\r"):
        raise ValueError("not sent: holds a line end (send one line at a time)")
    try:
        line = text.encode()
    except UnicodeEncodeError:
        raise ValueError("not sent: not valid Unicode (a lone surrogate)") from None
    if len(line) > max_line_bytes:
        raise ValueError(f"not sent: longer than {max_line_bytes} bytes")
    return line + b"\n"
