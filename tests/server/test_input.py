"""`Input`: the text of peers that end no line, by a clock by hand."""

from __future__ import annotations

import math

import pytest

from chatkit import Limits
from chatkit.protocol.lines import BadLine, Foreign, Line
from chatkit.server.input import Input
from chatkit.server.unframed import HINT_SECONDS

QUIET = 0.5
HINTED = "told how to end a line"


class Typist:
    """A peer and its server's input: each step is a piece of text, or a number of quiet seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
        self.now = 1000.0
        monkeypatch.setattr("chatkit.server.input.time", self)
        self.input = Input(limits)

    def monotonic(self) -> float:
        return self.now

    def does(self, *steps: bytes | float) -> list[Line]:
        """Return the lines that these steps make; when the peer is told how to end a line, HINTED stands for it."""
        lines = list[Line]()
        for step in steps:
            if isinstance(step, bytes):
                lines += self.input.receive(step, 100)
                continue
            until = self.now + step
            while (due := min(self.input.quiet_due, self.input.resume_at or math.inf)) <= until:
                self.now = max(self.now, due)
                if due == self.input.resume_at:
                    lines += self.input.resume()
                else:
                    taken, hints = self.input.end_quiet(self.now)
                    lines += [HINTED] * hints + taken
            self.now = until
        return lines


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> Typist:
    """A peer of a server with the usual limits."""
    return Typist(monkeypatch, Limits())


@pytest.fixture
def unframed(monkeypatch: pytest.MonkeyPatch) -> Typist:
    """A peer whose text counts as a line after half a second."""
    return Typist(monkeypatch, Limits(unframed_seconds=QUIET))


def test_a_peer_without_line_ends_is_told_once(typist: Typist) -> None:
    """After two reads of text and 5 s of quiet; nothing else changes for it."""
    assert typist.does(b"hel", 60, b"lo", HINT_SECONDS - 0.1, b"!", HINT_SECONDS - 0.1) == []
    assert typist.does(0.2, b"more", 60) == [HINTED]
    assert typist.does(b"\n") == ["hello!more"]


@pytest.mark.parametrize("steps", [(b"hel", 60), (b"hi\n", b"hel", b"lo", 60), (b"\xff\xf1", b"\xff\xf1", b"hi", 60)])
def test_a_peer_that_needs_no_hint(typist: Typist, steps: list[bytes | float]) -> None:
    """One read isn't enough, one line end is; commands of telnet are no text."""
    assert HINTED not in typist.does(*steps)


def test_text_after_a_quiet_time_is_a_line(unframed: Typist) -> None:
    """Once a second read has brought no line end either. A quiet time parts lines, less than that parts none."""
    assert unframed.does(b"hel", 0.4, b"lo", 0.4) == []
    assert unframed.does(0.1) == ["hello"]
    assert unframed.does(b"a", QUIET, b"b", 60) == ["a", "b"]


def test_the_first_of_two_texts_is_a_line_of_its_own(unframed: Typist) -> None:
    """It has to wait for the second one."""
    assert unframed.does(b"hello", 60) == []
    assert unframed.does(b"there") == ["hello"]
    assert unframed.does(QUIET) == ["there"]


@pytest.mark.parametrize("steps", [(b"hel", 60, b"lo\n"), (b"x", b"y", QUIET, b"hel", 0.1, b"lo\n")])
def test_the_first_line_end_ends_that(unframed: Typist, steps: list[bytes | float]) -> None:
    """From then on a line ends with LF, and the one that it ends is whole."""
    assert unframed.does(*steps)[-1] == "hello"
    assert unframed.does(b"a", 60, b"b", 60) == []
    assert unframed.does(b"\n") == ["ab"]


def test_a_character_is_never_cut(unframed: Typist) -> None:
    """Text that ends within one waits for the rest; text that is no UTF-8 at all doesn't."""
    assert unframed.does(b"caf", b"\xc3", 4) == []
    assert unframed.does(b"\xa9", QUIET) == ["café"]
    assert unframed.does(b"caf\xe9!", QUIET) == [BadLine("not_utf8", "not valid UTF-8")]


def test_a_command_needs_its_line_end(unframed: Typist) -> None:
    """Half of `/msg` must not become public. Its sender is told at once, and once."""
    assert unframed.does(b"/msg ada sec", b"ret", QUIET) == [HINTED]
    assert unframed.does(b" stuff", 60, b"!", 60) == []
    assert unframed.does(b"\n") == ["/msg ada secret stuff!"]


def test_half_a_command_of_telnet_is_waited_for(unframed: Typist) -> None:
    """The text before it, too."""
    assert unframed.does(b"a", b"b\xff", 2, b"\xf4", 2) == []
    assert unframed.does(b"c", QUIET) == ["abc"]


@pytest.mark.parametrize("cut", range(1, 18))
def test_other_protocols_come_first(unframed: Typist, cut: int) -> None:
    """A request that arrives slowly is refused as ever; nothing of it becomes a line."""
    request = b"GET /say HTTP/1.1\r\nHost: room.test\r\n\r\nhi\n"
    lines = unframed.does(request[:4], request[4 : 4 + cut], QUIET, request[4 + cut :], QUIET)
    assert len(lines) == 1
    assert isinstance(lines[0], Foreign)


def test_a_request_behind_text_is_refused(unframed: Typist) -> None:
    """Until its first line end, all that a peer sends is its beginning."""
    lines = unframed.does(b"x", b"y", QUIET, b"POST / HTTP/1.1\r\nHost: x\r\n\r\nhi\n")
    assert lines[0] == "xy"
    assert isinstance(lines[1], Foreign)
    assert len(lines) == 2


def test_no_part_of_a_line_that_is_too_long_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is skipped up to its line end, whatever pauses it has."""
    unframed = Typist(monkeypatch, Limits(unframed_seconds=QUIET, max_line_bytes=10))
    assert unframed.does(b"x" * 6, b"x" * 6, QUIET) == [BadLine("too_long", "longer than 10 bytes")]
    assert unframed.does(b"hi", 4, b"\nhi\n") == ["hi"]


def test_a_rate_holds_back_such_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in two seconds, after the first."""
    unframed = Typist(monkeypatch, Limits(unframed_seconds=QUIET, messages_per_second=0.5))
    assert unframed.does(b"a", b"b", QUIET, b"c", QUIET) == ["ab"]
    assert unframed.does(1.4) == []
    assert unframed.does(0.1) == ["c"]


def test_the_rest_of_a_stream_is_a_line(unframed: Typist) -> None:
    """As without a quiet time: also a command, and text in front of half a command of telnet."""
    assert unframed.does(b"a", b"b", QUIET, b"/who", b"", QUIET) == ["ab", "/who"]


def test_bytes_of_telnet_before_another_protocol_are_not_answered(typist: Typist) -> None:
    """The first bytes of TLS are random, and may hold what looks like a request."""
    assert [type(line) for line in typist.does(b"\x16\x03\x01\xff\xfb\x01")] == [Foreign]
    assert typist.input.answers == b""
