"""Telnet's commands (RFC 854, 855, 1184) in a stream of lines. `telnet` and PuTTY send some, and wait for answers."""

from __future__ import annotations

import re

IAC = b"\xff"  # begins each command; no character in UTF-8 has this byte

_DONT, _DO, _WONT, _WILL = b"\xfe", b"\xfd", b"\xfc", b"\xfb"
# A client asks for this mark after Ctrl-C, and shows nothing more until it has an answer (RFC 860).
_DO_TIMING_MARK, _TIMING_MARK = _DO + b"\x06", IAC + _WILL + b"\x06"
_REFUSALS = {_WILL: _DONT, _DO: _WONT}

# PuTTY begins with seven requests, and each Ctrl-C is one. A peer that asks on is ignored.
MAX_ANSWERS = 64

# An option's parameters, between IAC SB and IAC SE: a peer has no reason to send any, as no option is agreed upon.
_PARAMETERS = rb"\xfa(?:[^\xff\n]|\xff\xff){0,256}"
_COMMAND = re.compile(
    rb"\xff(?:[\xec-\xf9]|([\xfb-\xfe][^\n])|%b\xff\xf0|(\xff)|((?:[\xfb-\xfe]|%b\xff?)?\Z))"
    % (_PARAMETERS, _PARAMETERS)
)
_UTF_16_MARK = b"\xff\xfe"


class TelnetFilter:
    """Takes telnet's commands out of a stream, and answers them.

    Operations: `receive_data` for each chunk, `take_answers`, `receive_eof` at the end. Goal: nothing of a command
    becomes part of a line, however the stream is cut, and no line is lost to one. Plan: each option is refused. A line
    end is no part of a command: it ends an unfinished one. All else that begins with IAC is data, and no valid UTF-8:
    IAC IAC, half a command, and all of a stream that begins with the byte-order mark of UTF-16.
    """

    __slots__ = ("_answers", "_at_start", "_is_utf_16", "_left", "_partial")

    def __init__(self, *, at_start: bool) -> None:
        """Begin with the first chunk that has an IAC.

        Args:
            at_start: whether this is the first chunk of the stream.
        """
        self._at_start = at_start
        self._is_utf_16 = False
        self._partial = b""
        self._answers = b""
        self._left = MAX_ANSWERS

    def receive_data(self, data: bytes) -> bytes:
        """Return the data without commands. An unfinished one at its end is kept."""
        data, self._partial = self._partial + data, b""
        if self._at_start and data != IAC:
            self._at_start = False
            self._is_utf_16 = data.startswith(_UTF_16_MARK)  # a client begins with a request, not with a refusal
        return data if self._is_utf_16 else _COMMAND.sub(self._take, data)

    def receive_eof(self) -> bytes:
        """Return the bytes of an unfinished command: they are data."""
        data, self._partial = self._partial, b""
        return data

    def take_answers(self) -> bytes:
        """Return the answers to the commands since the last call."""
        answers, self._answers = self._answers, b""
        return answers

    @property
    def in_command(self) -> bool:
        """Whether a command has begun and not ended yet."""
        return bool(self._partial)

    def _take(self, match: re.Match[bytes]) -> bytes:
        request, data, unfinished = match.groups()
        if request:
            self._answer(request)
        elif unfinished is not None:
            self._partial = match[0]
        return match[0] if data else b""

    def _answer(self, request: bytes) -> None:
        verb, option = request[:1], request[1:]
        if verb in _REFUSALS and self._left:
            self._left -= 1
            self._answers += _TIMING_MARK if request == _DO_TIMING_MARK else IAC + _REFUSALS[verb] + option
