"""Streams that speak another protocol."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit.protocol.lines import BadLine, Foreign, Line
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
        *[(b"%s * HTTP/1.1\r\n" % method, 100, True) for method in METHODS],
        *[(b"%s http://example.org/" % method + b"a" * 100 + b" HTTP/1.1\r\n", 64, True) for method in METHODS],
    ],
)
def test_other_protocols_in_any_chunks(data: bytes, limit: int, foreign: bool) -> None:
    """Whether a stream speaks another protocol doesn't depend on how it is cut, and nothing comes after it."""
    for cut in range(len(data)):
        assert [isinstance(line, Foreign) for line in decode([data[:cut], data[cut:]], limit)] == [foreign]


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
