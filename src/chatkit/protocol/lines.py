"""The wire: bytes to clean lines. No sockets, no threads, no I/O.

`docs/protocol.md` says the same for people who write their own client.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# C0 without TAB and DEL as Unicode control pictures, C1 as backslash escapes.
_CONTROLS = {code: 0x2400 + code for code in range(0x20) if code != 0x09}
_CONTROLS |= {0x7F: 0x2421}
_CLEAN: dict[int, int | str] = {**_CONTROLS, **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}}

# On a screen these do harm too: line and paragraph separators, and all that reorders text (UAX #9).
_REORDERING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE = {**_CLEAN, **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *_REORDERING)}}

# Combining marks beyond what any language stacks run over the lines above and below.
MOST_MARKS = 4
_MAYBE_MARKS = re.compile(rf"[^\w\s\x00-\x7f]{{{MOST_MARKS + 1},}}")  # no mark is a letter, space or ASCII


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that the wire doesn't carry.

    code: `too_long` or `not_utf8`. reason: the same in words, `longer than 8192 bytes` or `not valid UTF-8`.
    """

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """The first bytes were another protocol's. reply: what to answer before the end."""

    protocol: str
    reply: bytes


Line = str | BadLine | Foreign

TLS_HELLO = b"\x16\x03"
_TLS = Foreign("TLS", b"*** this port speaks plain text, not TLS\n")

_HTTP_REQUEST = re.compile(rb"[A-Z]{1,20} \S+ HTTP/[0-9.]+\s*")
_HTTP_BEGINNING = re.compile(rb"[A-Z]{1,20} (/|\*|[a-z]+:)")
_HTTP_BODY = b"This is a chat room, not a web server. Join it with chat-client, or with nc.\n"
_HTTP_HEAD = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"
_HTTP = Foreign("HTTP", _HTTP_HEAD.format(len(_HTTP_BODY)).encode() + _HTTP_BODY)


def clean(text: str) -> str:
    """`text` without control characters except TAB: each becomes something to see.

    ESC becomes U+241B, U+009B becomes the four characters `\\x9b`.
    """
    return text if text.isprintable() else text.translate(_CLEAN)


def visible(text: str) -> str:
    """`clean` for a screen or a log: nothing in it moves the cursor, breaks the line, reorders text or piles up."""
    if text.isascii() and text.isprintable():
        return text
    return _MAYBE_MARKS.sub(_thinned, text.translate(_VISIBLE))


def _thinned(found: re.Match[str]) -> str:
    """At most so many marks in a row, and an ellipsis for the others."""
    shown, marks = "", 0
    for character in found[0]:
        category = unicodedata.category(character)
        # What takes no cell of its own (Cf) doesn't begin a new pile.
        marks = marks + 1 if category in ("Mn", "Me") else marks if category == "Cf" else 0
        if marks <= MOST_MARKS:
            shown += character
        elif marks == MOST_MARKS + 1:
            shown += "…"
    return shown


def _foreign(first_line: bytes, *, whole: bool) -> Foreign | None:
    """The other protocol that a stream speaks whose first line is this, or, if it isn't the whole one, begins so."""
    if first_line.startswith(TLS_HELLO):
        return _TLS
    return _HTTP if (_HTTP_REQUEST.fullmatch if whole else _HTTP_BEGINNING.match)(first_line) else None


class LineDecoder:
    """Bytes in, clean lines out, whatever the chunks.

    max_line_bytes: bound of a line without its line end. A longer one is reported once, as a
        `BadLine`, when it is known to be too long; the rest of it is skipped, the next line is intact.
    skipped_bytes: how much of a line that is too long has been skipped so far.

    Holds at most `max_line_bytes` + 1 bytes. When the stream begins as HTTP or TLS, a `Foreign` is the last
    line: a web page must not be able to talk into a room. finds_foreign=False: whatever it begins with is lines.
    """

    __slots__ = ("_at_start", "_finds_foreign", "_max_line_bytes", "_over", "_partial", "skipped_bytes")

    def __init__(self, max_line_bytes: int, *, finds_foreign: bool = True) -> None:
        self._max_line_bytes = max_line_bytes
        self._partial = b""
        self._at_start = True
        self._finds_foreign = finds_foreign
        self._over = False
        self.skipped_bytes = 0

    def receive_data(self, data: bytes) -> list[Line]:
        """The lines that `data` completes, in order."""
        if self._at_start:
            return self._begin(data)
        if self._over:
            return []
        *ended, rest = data.split(b"\n")
        if not ended:
            return self._keep(rest)
        ended[0] = self._partial + ended[0]
        self._partial = b""
        if self.skipped_bytes:
            del ended[0]
            self.skipped_bytes = 0
        return [self._line(line.removesuffix(b"\r")) for line in ended] + self._keep(rest)

    def receive_eof(self) -> list[Line]:
        """The last line, if it had no line end. After a reset, don't ask: half a line is no line."""
        last, self._partial = self._partial, b""
        if not self._at_start:
            return [self._line(last)] if last else []
        self._at_start = False
        foreign = self._finds_foreign and _foreign(last, whole=True)
        last = last.removeprefix(BYTE_ORDER_MARK)
        return [foreign] if foreign else [self._line(last)] if last else []

    @property
    def in_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._partial or self.skipped_bytes)

    def _begin(self, data: bytes) -> list[Line]:
        """The first line tells another protocol, or begins with a byte-order mark: so it is looked at whole."""
        data, self._partial = self._partial + data, b""
        line, ended, _ = data.partition(b"\n")
        fits = len(line) <= self._max_line_bytes + 1
        if fits and not ended and not line.startswith(TLS_HELLO):
            self._partial = data
            return []
        # Judged by the same bytes in whatever chunks they come.
        if self._finds_foreign and (foreign := _foreign(line[: self._max_line_bytes + 2], whole=fits)):
            self._at_start, self._over = False, True
            return [foreign]
        self._at_start = False
        # The mark belongs to the stream, not to the line: it doesn't count in the line's length.
        return self.receive_data(data.removeprefix(BYTE_ORDER_MARK))

    def _keep(self, rest: bytes) -> list[Line]:
        if self.skipped_bytes:
            self.skipped_bytes += len(rest)
            return []
        # Bytes, not a bytearray: a copy of at most max_line_bytes costs less than the read that brought them.
        self._partial += rest
        if len(self._partial) <= self._max_line_bytes + 1:  # + 1: a CR may still belong to the line end
            return []
        self.skipped_bytes, self._partial = len(self._partial), b""
        return [self._too_long()]

    def _line(self, line: bytes) -> Line:
        if len(line) > self._max_line_bytes:
            return self._too_long()
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return BadLine("not_utf8", "not valid UTF-8")
        return text if text.isprintable() else clean(text)

    def _too_long(self) -> BadLine:
        return BadLine("too_long", f"longer than {self._max_line_bytes} bytes")
