"""Feed the decoder with the bytes of a fuzzer: `python fuzz/decoder.py -runs=20000`. Needs `atheris`.

The first byte gives the longest line and the second the number of cuts. The places of the cuts follow; the rest is the
stream. So a mutation moves a cut, or changes the stream, and seldom both.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from contextlib import suppress
from dataclasses import replace

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

with atheris.instrument_imports(include=["chatkit"]):
    from chatkit.errors import ProtocolError
    from chatkit.events import Message, Notice, Private
    from chatkit.protocol.formats import encode_json, encode_text, parse_json
    from chatkit.protocol.lines import BYTE_ORDER_MARK, BadLine, Foreign, Line
    from chatkit.protocol.sanitize import clean, visible
    from chatkit.protocol.sniff import SniffingDecoder
    from chatkit.protocol.text import parse_text

# Sequences that a fuzzer seldom finds. Each is written as one byte that valid UTF-8 never contains.
PIECES = {
    0xF5: b"hello /",
    0xF6: b" HTTP/1.1\r\n",
    0xF7: b"\r\r\n",
    0xF8: b"GET / HTTP/1.1",
    0xF9: BYTE_ORDER_MARK,
    0xFA: b"\x16\x03\x01",
    0xFB: "\u202e\u2066".encode(),
    0xFC: "\x85\x9b".encode(),
    0xFD: "e\u0301\u0301\u0301\u0301\u0301".encode(),
    0xFE: b"POST /" + 1001 * b"a",
    0xC0: b"SSH-2.0-OpenSSH_9\r\n",
    0xC1: b"NICK ada\r\n",
    0xFF: b"USER a 0 * :Ada\r\n",
}

# Long enough for a byte-order mark and for `GET / HTTP/1.1`, so short that a fuzzer reaches it.
MAX_LINE_BYTES = 40


def decode(chunks: list[bytes], max_line_bytes: int) -> list[Line]:
    """Return the lines of these chunks and an end of stream. Check that the decoder holds a bounded number of bytes."""
    decoder, lines = SniffingDecoder(max_line_bytes), list[Line]()
    for chunk in chunks:
        lines += decoder.receive_data(chunk)
        assert len(decoder._partial) <= max_line_bytes + 1, f"holds {decoder._partial!r}"
    return lines + decoder.receive_eof()


REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [/*]\S* HTTP/[0-9]\.[0-9]\r?\n")


def check_start(stream: bytes, lines: list[Line]) -> None:
    """Check that nothing follows another protocol, and that a request by any method is one."""
    foreign = [isinstance(line, Foreign) for line in lines]
    assert not any(foreign[:-1]), "a line follows another protocol"
    if any(foreign) or REQUEST_LINE.match(stream):
        assert foreign[-1], "a request was taken for chat"
        assert all(isinstance(line, BadLine) for line in lines[:-1]), "a part of another protocol is a line"
        assert len(lines) <= 2


def is_harmless(text: str) -> bool:
    return not any(unicodedata.category(character) == "Cc" and character != "\t" for character in text)


def check_line(line: Line, max_line_bytes: int) -> None:
    """Check that the room may receive this line from a stranger."""
    if isinstance(line, Foreign):
        assert line.protocol in ("HTTP", "TLS", "SSH", "IRC")
    elif isinstance(line, BadLine):
        assert line.reason in ("not valid UTF-8", f"longer than {max_line_bytes} bytes")
    else:
        assert is_harmless(line), f"a control character in {line!r}"
        assert len(line.encode()) <= 3 * max_line_bytes, f"cleaned to {len(line.encode())} bytes"
        check_text(line)


def check_text(text: str) -> None:
    """Check: cleaning twice is cleaning once, a screen stays in order, and an event's line gives the event again."""
    assert clean(text) == clean(clean(text))
    assert is_harmless(clean(text))
    seen = visible(text)
    assert is_harmless(seen)
    assert not any(unicodedata.bidirectional(character) in REORDERING for character in seen), f"reorders: {seen!r}"
    event = parse_text(text)
    assert isinstance(event, Message | Private | Notice)
    if not isinstance(event, Notice):
        assert encode_text(event).decode() == text + "\n"
        event = replace(event, time=1.5)
    if isinstance(event, Message):
        event = replace(event, id=1)
    assert parse_json(encode_json(event).decode()) == event


REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def split(stream: bytes, places: bytes) -> list[bytes]:
    """The stream cut at these places, each place counted in 255ths of it."""
    cuts = sorted(place * len(stream) // 255 for place in places)
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def test_one_input(data: bytes) -> None:
    max_line_bytes = 1 + (data[0] if data else 0) % MAX_LINE_BYTES
    cuts = (data[1] if len(data) > 1 else 0) % 16
    places, stream = data[2 : 2 + cuts], b"".join(PIECES.get(byte, bytes([byte])) for byte in data[2 + cuts :])
    lines = decode([stream], max_line_bytes)
    assert decode(split(stream, places), max_line_bytes) == lines, "chunks make a difference"
    assert decode([bytes([byte]) for byte in stream], max_line_bytes) == lines, "single bytes make a difference"
    if not stream.startswith(BYTE_ORDER_MARK) and not any(isinstance(line, Foreign) for line in lines):
        assert decode([BYTE_ORDER_MARK + stream], max_line_bytes) == lines, "a byte-order mark makes a difference"
    check_start(stream, lines)
    for line in lines:
        check_line(line, max_line_bytes)
    text = stream.decode(errors="replace")
    assert is_harmless(clean(text))
    assert is_harmless(visible(text).replace("\n", ""))
    parse_text(text)
    with suppress(ProtocolError):  # what a server may say: nothing else is raised
        parse_json(text)


if __name__ == "__main__":
    # Few inputs of few bytes find what there is: seven lines of the longest kind.
    atheris.Setup([sys.argv[0], "-max_len=300", *sys.argv[1:]], test_one_input)
    atheris.Fuzz()
