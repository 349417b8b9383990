"""Streams that speak another protocol."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit.protocol.lines import BadLine, Foreign, Line, LineDecoder
from chatkit.protocol.sniff import SniffingDecoder

# RFC 9110, 5.6.2: a method is one or more of these.
TOKEN_LETTERS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters

methods = st.text(TOKEN_LETTERS, min_size=1, max_size=60).map(str.encode)
paths = st.text(string.ascii_letters + string.digits + "/%?=&:.-_~", max_size=60).map(lambda path: b"/" + path.encode())
targets = paths | paths.map(lambda path: b"http://room.test:12345" + path) | st.sampled_from([b"*", b"room.test:12345"])
HEADERS = b"Host: room.test\r\nContent-Type: text/plain\r\n\r\n"

# Those of RFC 9110 and RFC 5789, of HTTP/2's preface, and of an extension (WebDAV, RFC 4918).
METHODS = b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI PROPFIND".split()


def decode(chunks: list[bytes], limit: int) -> list[Line]:
    decoder = SniffingDecoder(limit)
    lines = [line for chunk in chunks for line in decoder.receive_data(chunk)]
    return lines + decoder.receive_eof()


@pytest.mark.parametrize(
    ("data", "limit", "foreign"),
    [
        (b"GET / HTTP/1.1 is a protocol\n", 100, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 100, True),
        (b"hello / HTTP/1.1\r\nHost: x\r\n", 100, True),
        (b"! / HTTP/1.1\r\nHost: x\r\n", 100, True),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 100, True),
        (b"patch http://x/y HTTP/1.1\r\nHost: x\r\n", 100, True),
        (b"x y:1 HTTP/1.1\r\n\r\n", 100, True),
        (b"hello / HTTP/1.1", 100, True),
        (b"hello / world\n", 100, False),
        (b"hello /\n", 100, False),
        (b"GET /\n", 100, False),
        (b"nginx speaks HTTP/2\n", 100, False),
        (b"read: / HTTP/1.1\n", 100, False),
        (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: x\r\n", 64, True),
        (b"GET /" + b"a" * 59 + b" HTTP/1.1\r\nHost: x\r\n", 64, True),
        (b"GET well soon\n", 4, False),
        (b"hello /" + b"a" * 50 + b" and b\n", 60, False),
        (b"\x16\x03\n", 100, True),
        (b"SSH-2.0-OpenSSH_9.6p1 Debian-2\r\n\0\0\5\xdc\6\x14", 100, True),
        (b"SSH-2.0-Go\r\n", 100, True),
        (b"SSH-1.99-x\n", 100, True),
        (b"SSH-2.0-OpenSSH is what my scanner says\n", 100, False),
        (b"SSH-2.0 is old\n", 100, False),
        (b"CAP LS 302\r\nNICK ada\r\nUSER ada 0 * :Ada\r\n", 100, True),
        (b"CAP LS\n", 100, True),
        (b"CAP LS is a command of IRC\n", 100, False),
        (b"NICK ada\r\nUSER ada 0 * :Ada Lovelace\r\nJOIN #x\r\n", 100, True),
        (b"NICK ada\nUSER ada 0 * :Ada", 100, True),
        (b"USER ada 0 * :Ada\r\nNICK :ada\r\n", 100, True),
        (b"PASS sesame\r\nNICK ada\r\nUSER ada 0 * :Ada\r\n", 100, True),
        (b"PASS sesame\r\nCAP LS 302\r\n", 100, True),
        *[(b"%s * HTTP/1.1\r\n" % method, 100, True) for method in METHODS],
        *[(b"%s http://example.org/" % method + b"a" * 100 + b" HTTP/1.1\r\n", 64, True) for method in METHODS],
    ],
)
def test_other_protocols_in_any_chunks(data: bytes, limit: int, foreign: bool) -> None:
    """Whether a stream speaks another protocol doesn't depend on how it is cut, and nothing comes after it."""
    for cut in range(len(data)):
        assert [isinstance(line, Foreign) for line in decode([data[:cut], data[cut:]], limit)] == [foreign]


# Lines that people may say first, before and after others.
IRC_CHAT = [
    [b"NICK is here"],
    [b"NICK ada"],
    [b"NICK ada", b"hi"],
    [b"NICK ada", b"NICK bob", b"USER ada 0 * :Ada"],
    [b"PASS it", b"on"],
    [b"PASS it", b"NICK ada", b"hi"],
    [b"PASS it", b"PASS it", b"NICK ada", b"USER ada 0 * :Ada"],
    [b"USER ada says this :)", b"yes"],
    [b"NICK ada", b"\xef\xbb\xbfhi"],
    [b"NICK ada", b""],
    [b"NICK ada", b"x" * 99, b"hi"],
    [b"NICK ada", b"GET / HTTP/1.1"],
    [b"NICK \xff", b"hi"],
    [b"hi", b"NICK ada", b"USER ada 0 * :Ada"],
]


@pytest.mark.parametrize("said", IRC_CHAT)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_people_may_begin_like_irc(said: list[bytes], end: bytes) -> None:
    """Nothing is refused, lost, or out of order, wherever the bytes are cut, and wherever the stream ends."""
    data = end.join(said) + end
    for stop in range(len(data) + 1):
        plain = LineDecoder(64)
        expected = plain.receive_data(data[:stop]) + plain.receive_eof()
        for cut in range(stop):
            assert decode([data[:cut], data[cut:stop]], 64) == expected


def test_a_line_like_irc_is_held_until_the_next_one() -> None:
    """It is no unfinished line: nobody is disconnected for it."""
    decoder = SniffingDecoder(64)
    assert decoder.receive_data(b"NICK ada\n") == []
    assert not decoder.in_line
    assert decoder.receive_data(b"hi\n") == ["NICK ada", "hi"]
    assert decoder.receive_data(b"USER ada 0 * :Ada\n") == ["USER ada 0 * :Ada"]


@given(methods, targets, st.integers(1, 150), st.integers(1, 10))
def test_a_request_by_any_method_is_refused(method: bytes, target: bytes, limit: int, size: int) -> None:
    """However long its line is, nothing of it, or of what follows it, is a line."""
    request = method + b" " + target + b" HTTP/1.1\r\n" + HEADERS + b"a\npage\n" * 3
    lines = decode([request], limit)
    assert isinstance(lines[-1], Foreign)
    assert all(isinstance(line, BadLine) for line in lines[:-1])
    assert len(lines) <= 2
    assert decode([request[at : at + size] for at in range(0, len(request), size)], limit) == lines


@given(st.integers(0, 200), st.integers(0, 200), st.integers(10, 150))
def test_a_request_of_any_length_is_refused(method: int, target: int, limit: int) -> None:
    """Wherever the limit cuts its first line."""
    request = b"m" * (1 + method) + b" /" + b"t" * target + b" HTTP/1.1\r\n" + HEADERS + b"page\n"
    lines = decode([request], limit)
    assert [line for line in lines if not isinstance(line, BadLine)] == lines[-1:]
    assert isinstance(lines[-1], Foreign)


LONG_CHAT = [b"a" * 100, b"a" * 70 + b" HTTP/1.1 " + b"b" * 30, b"aaa bbb " * 20, b"- /a, /b" * 20]


@pytest.mark.parametrize("first", LONG_CHAT)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_first_line_that_is_too_long_may_be_chat(first: bytes, size: int) -> None:
    """It is refused as such a line, and the next one is intact."""
    data = first + b"\nhi\n"
    lines = decode([data[at : at + size] for at in range(0, len(data), size)], 64)
    assert lines == [BadLine("too_long", "longer than 64 bytes"), "hi"]


def test_a_long_method_is_reported_once_and_held_in_bounded_memory() -> None:
    """It may be chat until its line ends, so it is told to be too long at once, and its bytes are counted."""
    decoder = SniffingDecoder(64)
    assert decoder.receive_data(b"m" * 66) == [BadLine("too_long", "longer than 64 bytes")]
    for _ in range(100):
        assert decoder.receive_data(b"m" * 1000) == []
    assert decoder.skipped_bytes == 66 + 100_000
    assert decoder.in_line
    [foreign] = decoder.receive_data(b" / HTTP/1.1\r\nHost: x\r\n\r\npage\n")
    assert isinstance(foreign, Foreign)
    assert not decoder.in_line
    assert decoder.receive_data(b"more\n") + decoder.receive_eof() == []


def test_a_tls_hello_is_known_by_its_first_bytes() -> None:
    """It has no line end: a client that waits for an answer gets one."""
    decoder = SniffingDecoder(100)
    assert decoder.receive_data(b"\x16") == []
    assert [isinstance(line, Foreign) for line in decoder.receive_data(b"\x03")] == [True]
    assert decoder.receive_data(b"\x01\x02\x00\x01\n") == []
