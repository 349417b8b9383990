"""Streams that speak another protocol."""

from __future__ import annotations

import pytest

from chatkit.protocol.lines import Foreign
from chatkit.protocol.sniff import SniffingDecoder


@pytest.mark.parametrize(
    ("data", "limit", "foreign"),
    [
        (b"GET / HTTP/1.1 is a protocol\n", 100, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 100, True),
        (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: x\r\n", 64, True),
        (b"GET well soon\n", 4, False),
        (b"\x16\x03\n", 100, True),
    ],
)
def test_other_protocols_in_any_chunks(data: bytes, limit: int, foreign: bool) -> None:
    """Whether a stream speaks another protocol doesn't depend on how it is cut, and nothing comes after it."""
    for cut in range(len(data)):
        decoder = SniffingDecoder(limit)
        lines = decoder.receive_data(data[:cut]) + decoder.receive_data(data[cut:]) + decoder.receive_eof()
        assert [isinstance(line, Foreign) for line in lines] == [foreign]
