"""Other protocols, recognised in the first lines of a stream: a web page must not be able to write into a room."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from chatkit.protocol.lines import BYTE_ORDER_MARK, Foreign, Line, LineDecoder, ends_within_character
from chatkit.protocol.replies import SPEAKS_TEXT

TLS_HELLO = b"\x16\x03"

# A page chooses the method: `fetch` lets every token pass but CONNECT, TRACE and TRACK.
_METHOD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # a token (RFC 9110, 5.6.2)
# A path, an asterisk, a URL, or a host with its port (RFC 9112, 3.2). So "nginx speaks HTTP/2" is chat.
_TARGET = rb"(?:/|\*|[^\s:]+:)\S*"
_REQUEST = re.compile(_METHOD + b" " + _TARGET + rb" HTTP/[0-9.]+\s*")
# The same, cut off behind the beginning of its target, or before it.
_CUT_REQUEST = re.compile(_METHOD + b" " + _TARGET + rb"(?: [HTP/0-9.]*\s*)?")
_CUT_METHOD = re.compile(_METHOD + rb"(?: \S*)?")
_REQUEST_END = re.compile(rb" HTTP/[0-9.]+\s*\Z")
_END_BYTES = 16

# RFC 4253, 4.2: the version, a space, comments. Without a space, which people write, the CR may be missing.
_SSH_BANNER = re.compile(rb"SSH-[12]\.[0-9]+-[!-,.-~]+(?:\r?| [ -~]*\r)")

# An IRC client begins with CAP LS, or with NICK and USER in any order, perhaps after PASS (RFC 2812, 3.1; IRCv3).
_IRC_CAP = re.compile(rb"CAP LS(?: :?[0-9]+)?\r?")
_IRC_BEGINNING = re.compile(rb"(?:PASS|NICK) \S+\s?|USER \S+ \S+ \S+ :.*")
_IRC_REGISTRATION = {b"NICK", b"USER"}

_HTTP_BODY = b"This is a chat room, not a web server. Join it with chat-client, or with nc.\n"
_HTTP_HEAD = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"


_TLS = Foreign("TLS", f"*** {SPEAKS_TEXT}\n".encode())
_SSH = Foreign("SSH", b"*** this is a chat room, not an SSH server: join it with chat-client, or with nc\r\n")
_IRC = Foreign("IRC", b"ERROR :This is a chat room, not an IRC server. Join it with chat-client, or with nc.\r\n")
_HTTP = Foreign("HTTP", _HTTP_HEAD.format(len(_HTTP_BODY)).encode() + _HTTP_BODY)


def sniff(first_line: bytes, *, whole: bool) -> Foreign | None:
    """Return the other protocol of a stream, or None for chat.

    Args:
        first_line: the first line without its LF, or the beginning of it.
        whole: whether the line is complete.
    """
    if first_line.startswith(TLS_HELLO):
        return _TLS
    if whole and _SSH_BANNER.fullmatch(first_line):
        return _SSH
    if whole and _IRC_CAP.fullmatch(first_line):
        return _IRC
    return _HTTP if (_REQUEST if whole else _CUT_REQUEST).fullmatch(first_line) else None


_NONE_HELD: Mapping[bytes, Line] = MappingProxyType({})  # one for all decoders: nearly none holds a line


class SniffingDecoder(LineDecoder):
    """A `LineDecoder` whose last line is a `Foreign` when the stream begins as another protocol.

    Operations: as `LineDecoder`. Goal: nothing that follows a request line becomes a line, however long that is. Plan:
    the first line is judged when it is complete. One that is too long is judged by its beginning. If that is one long
    word, it may be chat as well as a method: then the line is reported as too long, and its end decides. A first line
    that may begin a registration with an IRC server is held until the next one decides.
    """

    __slots__ = ("_end", "_held", "_is_foreign")

    def __init__(self, max_line_bytes: int) -> None:
        super().__init__(max_line_bytes)
        self._is_foreign = False
        self._end: bytes | None = None  # the last bytes so far of a first line whose end decides
        self._held = _NONE_HELD  # by their first words, at most one of each

    def _begin(self, data: bytes) -> list[Line]:
        if self._is_foreign:
            return []
        if self._end is not None:
            return self._skip(data)
        line, ended, rest = (self._partial + data).partition(b"\n")
        fits = len(line) <= self._max_line_bytes + 1
        if fits and not ended and not line.startswith(TLS_HELLO):
            self._partial = line
            return []
        # Always the same number of bytes, so that the result doesn't depend on the chunks.
        beginning = line[: self._max_line_bytes + 2]
        if foreign := self._sniff(beginning, whole=fits):
            return self._reject(foreign)
        if fits and self._may_begin_irc(line):
            self._held = {**self._held, line[:4]: self._line(line.removesuffix(b"\r"))}
            self._partial = b""
            return self._begin(rest)
        if self._held:
            return self._release() + self.receive_data(data)
        if not fits and _CUT_METHOD.fullmatch(beginning):
            data, self._partial, self._end = self._partial + data, b"", b""
            return [self._too_long(), *self._skip(data)]
        return super()._begin(data)

    def _sniff(self, line: bytes, *, whole: bool) -> Foreign | None:
        """Return the other protocol that begins with the held lines and this one, or None."""
        if not self._held:
            return sniff(line, whole=whole)
        words = {*self._held, line[:4]}
        return _IRC if _IRC_CAP.fullmatch(line) or (self._may_begin_irc(line) and words >= _IRC_REGISTRATION) else None

    def _may_begin_irc(self, line: bytes) -> bool:
        return line[:4] not in self._held and _IRC_BEGINNING.fullmatch(line) is not None

    def _release(self) -> list[Line]:
        """Return the held lines: they are chat, and so is everything that follows."""
        held, self._held = list(self._held.values()), _NONE_HELD
        self._at_start = self._at_start and not held
        return held

    def _skip(self, data: bytes) -> list[Line]:
        """Skip the first line. At its end, return the other protocol, or the lines behind it."""
        assert self._end is not None
        line, ended, _ = data.partition(b"\n")
        self._end = (self._end + line)[-_END_BYTES:]
        self.skipped_bytes += len(line)
        if not ended:
            return []
        if _REQUEST_END.search(self._end):
            return self._reject(_HTTP)
        self._at_start = False
        return super().receive_data(data[len(line) :])

    def _reject(self, foreign: Foreign) -> list[Line]:
        self._is_foreign, self._partial, self._held, self.skipped_bytes = True, b"", _NONE_HELD, 0
        return [foreign]

    @property
    def begins_command(self) -> bool:
        """Whether the unfinished line is a command."""
        return self._partial.removeprefix(BYTE_ORDER_MARK).startswith(b"/")

    def end_line(self) -> list[Line]:
        """End the unfinished first line of a peer without line ends. The next bytes begin a first line, too.

        Returns:
            The line, or the other protocol in it; nothing, and the line goes on, if it is a command, may begin a
            request, or ends within a character.
        """
        line = self._partial.removeprefix(BYTE_ORDER_MARK)
        if foreign := self._sniff(line, whole=True):
            return self._reject(foreign)
        if not line or self.begins_command or _CUT_REQUEST.fullmatch(line) or ends_within_character(line):
            return []
        self._partial = b""
        return [self._line(line.removesuffix(b"\r"))]

    def receive_eof(self) -> list[Line]:
        """Return the last line, if it has no line end, or the other protocol in it."""
        if self._at_start and (foreign := self._sniff(self._partial, whole=True)):
            return self._reject(foreign)
        return self._release() + super().receive_eof()
