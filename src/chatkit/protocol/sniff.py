"""Other protocols, recognised in the first bytes of a stream: a web page must not be able to write into a room."""

from __future__ import annotations

import re

from chatkit.protocol.lines import Foreign, Line, LineDecoder
from chatkit.protocol.replies import SPEAKS_TEXT

TLS_HELLO = b"\x16\x03"

_HTTP_REQUEST = re.compile(rb"[A-Z]{1,20} \S+ HTTP/[0-9.]+\s*")
_HTTP_BEGINNING = re.compile(rb"[A-Z]{1,20} (/|\*|[a-z]+:)")
_HTTP_BODY = b"This is a chat room, not a web server. Join it with chat-client, or with nc.\n"
_HTTP_HEAD = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"


_TLS = Foreign("TLS", f"*** {SPEAKS_TEXT}\n".encode())
_HTTP = Foreign("HTTP", _HTTP_HEAD.format(len(_HTTP_BODY)).encode() + _HTTP_BODY)


def sniff(first_line: bytes, *, whole: bool) -> Foreign | None:
    """Return the other protocol of a stream, or None for chat.

    Args:
        first_line: the first line without its LF, or the beginning of it.
        whole: whether the line is complete.
    """
    if first_line.startswith(TLS_HELLO):
        return _TLS
    return _HTTP if (_HTTP_REQUEST.fullmatch if whole else _HTTP_BEGINNING.match)(first_line) else None


class SniffingDecoder(LineDecoder):
    """A `LineDecoder` whose only line is a `Foreign` when the stream begins as another protocol."""

    __slots__ = ("_is_foreign",)

    def __init__(self, max_line_bytes: int) -> None:
        super().__init__(max_line_bytes)
        self._is_foreign = False

    def _begin(self, data: bytes) -> list[Line]:
        if self._is_foreign:
            return []
        line, ended, _ = (self._partial + data).partition(b"\n")
        fits = len(line) <= self._max_line_bytes + 1
        if fits and not ended and not line.startswith(TLS_HELLO):
            self._partial = line
            return []
        # Always the same number of bytes, so that the result doesn't depend on the chunks.
        if foreign := sniff(line[: self._max_line_bytes + 2], whole=fits):
            self._is_foreign, self._partial = True, b""
            return [foreign]
        return super()._begin(data)

    def receive_eof(self) -> list[Line]:
        """Return the last line, if it has no line end, or the other protocol in it."""
        if self._at_start and (foreign := sniff(self._partial, whole=True)):
            self._is_foreign, self._partial = True, b""
            return [foreign]
        return super().receive_eof()
