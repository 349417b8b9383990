"""Streams that speak another protocol."""

from __future__ import annotations

import pytest

from chatkit.protocol.lines import Foreign
from chatkit.protocol.sniff import SniffingDecoder

# Those of RFC 9110 and RFC 5789, of HTTP/2's preface, and of an extension (WebDAV, RFC 4918).
METHODS = b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI PROPFIND".split()


@pytest.mark.parametrize(
    ("data", "limit", "foreign"),
    [
        (b"GET / HTTP/1.1 is a protocol\n", 100, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 100, True),
        (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: x\r\n", 64, True),
        (b"GET well soon\n", 4, False),
        (b"\x16\x03\n", 100, True),
        *[(b"%s * HTTP/1.1\r\n" % method, 100, True) for method in METHODS],
        *[(b"%s http://example.org/" % method + b"a" * 100 + b" HTTP/1.1\r\n", 64, True) for method in METHODS],
    ],
)
def test_other_protocols_in_any_chunks(data: bytes, limit: int, foreign: bool) -> None:
    """Whether a stream speaks another protocol doesn't depend on how it is cut, and nothing comes after it."""
    for cut in range(len(data)):
        decoder = SniffingDecoder(limit)
        lines = decoder.receive_data(data[:cut]) + decoder.receive_data(data[cut:]) + decoder.receive_eof()
        assert [isinstance(line, Foreign) for line in lines] == [foreign]


def test_a_tls_hello_is_known_by_its_first_bytes() -> None:
    """It has no line end: a client that waits for an answer gets one."""
    decoder = SniffingDecoder(100)
    assert decoder.receive_data(b"\x16") == []
    assert [isinstance(line, Foreign) for line in decoder.receive_data(b"\x03")] == [True]
    assert decoder.receive_data(b"\x01\x02\x00\x01\n") == []
