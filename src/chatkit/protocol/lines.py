"""The wire: bytes to clean lines, and text to lines. No sockets, no threads, no I/O.

`docs/protocol.md` specifies it for authors of other clients.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from chatkit.protocol.replies import PASSWORD_COMMAND
from chatkit.protocol.sanitize import clean

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_COMMAND = re.compile(r"/(\S*)\s?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that breaks the rules of the wire.

    Attributes:
        code: `too_long` or `not_utf8`.
        reason: the same in words, `longer than 8192 bytes` or `not valid UTF-8`.
    """

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """Another protocol, recognised in the first bytes of a stream (see `sniff`).

    Attributes:
        protocol: its name.
        reply: the answer to send before the end of the conversation.
    """

    protocol: str
    reply: bytes


Line = str | BadLine | Foreign


def ends_within_character(data: bytes) -> bool:
    """Tell whether more bytes may complete the last character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-3:])  # all but the last byte of the longest character
    return bool(decoder.getstate()[0])


class LineDecoder:
    """Bytes in, clean lines out: the same lines for any chunks of the same bytes.

    Operations: `receive_data` for each chunk, `receive_eof` at the end. Goal: bounded memory; no part of an overlong
    line is taken for a line. Plan: an unfinished line is kept as bytes, at most `max_line_bytes` + 1 of them. A longer
    one is reported once, as a `BadLine`, as soon as it is too long; the rest of it is skipped, and the next line is
    intact. The first line is kept until it is complete: it may begin with a byte-order mark.

    Args:
        max_line_bytes: the maximum length of a line, without its line end.

    Attributes:
        skipped_bytes: the bytes of an overlong line that are skipped so far.
    """

    __slots__ = ("_at_start", "_max_line_bytes", "_partial", "skipped_bytes")

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._partial = b""
        self._at_start = True
        self.skipped_bytes = 0

    def receive_data(self, data: bytes) -> list[Line]:
        """Return the lines that `data` completes, in order."""
        if self._at_start:
            return self._begin(data)
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
        """Return the last line, if it has no line end. Don't call it after a reset: half a line must not count."""
        last, self._partial = self._partial, b""
        if self._at_start:
            self._at_start = False
            last = last.removeprefix(BYTE_ORDER_MARK)
        return [self._line(last)] if last else []

    @property
    def in_line(self) -> bool:
        """Whether a line has begun and not ended yet."""
        return bool(self._partial or self.skipped_bytes)

    def _begin(self, data: bytes) -> list[Line]:
        """Keep the first line until it is complete, or too long."""
        data, self._partial = self._partial + data, b""
        if b"\n" not in data and len(data) <= self._max_line_bytes + 1:
            self._partial = data
            return []
        self._at_start = False
        # The mark belongs to the stream, not to the line: it doesn't count for the length of the line.
        return self.receive_data(data.removeprefix(BYTE_ORDER_MARK))

    def _keep(self, rest: bytes) -> list[Line]:
        """Keep or skip a part of an unfinished line. Returns a `BadLine` when it becomes too long."""
        if self.skipped_bytes:
            self.skipped_bytes += len(rest)
            return []
        # Bytes, not a bytearray: copying at most max_line_bytes costs less than the read itself.
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
            return self._not_utf8(line)
        return text if text.isprintable() else clean(text)

    def _not_utf8(self, line: bytes) -> Line:
        return BadLine("not_utf8", "not valid UTF-8")

    def _too_long(self) -> BadLine:
        return BadLine("too_long", f"longer than {self._max_line_bytes} bytes")


class AnyServerDecoder(LineDecoder):
    """A `LineDecoder` for servers of any kind: each byte that isn't UTF-8 becomes an escape, and a line may be ended.

    Attributes:
        ends_no_line: whether `end_line` has ended all lines so far, and the server none.
    """

    __slots__ = ("_has_line_end", "_is_ended", "ends_no_line")

    def __init__(self, max_line_bytes: int) -> None:
        super().__init__(max_line_bytes)
        self.ends_no_line = False
        self._is_ended = False  # `end_line` has ended the line under way
        self._has_line_end = False

    def receive_data(self, data: bytes) -> list[Line]:
        """Return the lines that `data` completes. Of a line that `end_line` has ended, that is the rest, if any."""
        lines = super().receive_data(data)
        if b"\n" in data:
            self._has_line_end, self.ends_no_line = True, False
            if self._is_ended and lines and not lines[0]:
                del lines[0]
            self._is_ended = False
        return lines

    @property
    def may_end(self) -> bool:
        """Whether there is text for `end_line`, and its last character is complete."""
        return bool(self._partial) and not ends_within_character(self._partial)

    def end_line(self) -> list[Line]:
        """Return the text of the unfinished line, if there is any."""
        line, self._partial = self._partial, b""
        if self._at_start:
            line, self._at_start = line.removeprefix(BYTE_ORDER_MARK), not line
        self._is_ended = self._is_ended or bool(line)
        self.ends_no_line = self._is_ended and not self._has_line_end
        return [self._line(line.removesuffix(b"\r"))] if line else []

    def _not_utf8(self, line: bytes) -> Line:
        return clean(line.decode("utf-8", "backslashreplace"))


def parse_command(line: str) -> tuple[str, str] | None:
    """Split `/word argument`, as the room reads it.

    Returns:
        The word (which may begin with a slash) and the argument, or None if the line isn't a command.
    """
    match = _COMMAND.fullmatch(line)
    return (match[1], match[2]) if match else None


# The line that ends the conversation.
EXIT = "exit"


def is_exit(line: str) -> bool:
    """Tell whether a line ends the conversation, as the room reads it."""
    return clean(line).strip() == EXIT


def encode_line(text: str, max_line_bytes: int) -> bytes:
    """Encode `text` as a line for the wire.

    Raises:
        ValueError: it contains a line end, is longer than `max_line_bytes`, or isn't valid Unicode.
    """
    if "\n" in text or text.endswith("\r"):
        raise ValueError("not sent: contains a line end (send one line at a time)")
    try:
        line = text.encode()
    except UnicodeEncodeError:
        raise ValueError("not sent: not valid Unicode (a lone surrogate)") from None
    if len(line) > max_line_bytes:
        raise ValueError(f"not sent: longer than {max_line_bytes} bytes")
    return line + b"\n"


def check_password(password: str, max_line_bytes: int) -> str:
    """Return the password, if it can be sent.

    Raises:
        ValueError: it is empty, or doesn't fit into one line.
    """
    if not password:
        raise ValueError("the password is empty")
    line = f"{PASSWORD_COMMAND}{password}"
    try:
        fits = len(line.encode()) <= max_line_bytes
    except UnicodeEncodeError:
        fits = False
    if not fits or clean(line) != line:
        raise ValueError("the password must fit into one line of UTF-8, without control characters")
    return password
