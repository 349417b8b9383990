"""The wire without a network: bytes into `LineDecoder`, text into bytes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit.protocol.lines import AnyServerDecoder, BadLine, Line, encode_line
from chatkit.protocol.sniff import SniffingDecoder
from tests.helpers.inside import partial_line

LIMIT = 8
TOO_LONG = BadLine("too_long", "longer than 8 bytes")
NOT_UTF8 = BadLine("not_utf8", "not valid UTF-8")


def decode(*chunks: bytes, limit: int = LIMIT) -> list[Line]:
    decoder = SniffingDecoder(limit)
    return [line for chunk in chunks for line in decoder.receive_data(chunk)] + decoder.receive_eof()


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"hi\nyou\n", ["hi", "you"]),
        (b"hi", ["hi"]),
        (b"hi\r\n", ["hi"]),
        (b"hi\r\r\n", ["hi␍"]),
        (b"a\rb\n", ["a␍b"]),
        (b"hi\r", ["hi␍"]),
        (b"12345678\n", ["12345678"]),
        (b"12345678\r\n", ["12345678"]),
        (b"12345678", ["12345678"]),
        (b"123456789\nnext\n", [TOO_LONG, "next"]),
        (b"123456789", [TOO_LONG]),
        (b"12345678\r", [TOO_LONG]),
        (b"123456789012345678901234567890\nnext", [TOO_LONG, "next"]),
        ("123456é\n".encode(), ["123456é"]),
        ("1234567é\n".encode(), [TOO_LONG]),
        (b"\xff\nnext\n", [NOT_UTF8, "next"]),
        (b"\xc0\xaf\n\xed\xa0\x80\n\xf4\x90\x80\x80\n\xe2\x82\n", [NOT_UTF8] * 4),
        (b"\xef\xbb\xbfhi\n\xef\xbb\xbfhi\n", ["hi", "\ufeffhi"]),
        (b"a\0b\x0bc\x0cd\x1be\x7f\n", ["a␀b␋c␌d␛e␡"]),
        ("a\x85b\u2028\n".encode(), ["a\\x85b\u2028"]),
        (b"a\tb\n", ["a\tb"]),
    ],
)
def test_lines(data: bytes, lines: list[Line]) -> None:
    """Each sequence of bytes gives these lines, sent at once and byte by byte."""
    limit = 12 if b"\0" in data or b"\x85" in data else LIMIT
    assert decode(data, limit=limit) == lines
    assert decode(*(bytes([byte]) for byte in data), limit=limit) == lines


pieces = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b"a", b"1234567", b"12345678", b"\xc3", b"\xa9", b"\xef\xbb\xbf", b"\x1b"]
)


@given(st.lists(pieces | st.binary(max_size=12), max_size=20), st.data())
def test_chunks_make_no_difference(parts: list[bytes], data: st.DataObject) -> None:
    """Any chunking of the same bytes gives the same lines."""
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert decode(*chunks) == decode(whole)


@given(st.binary(max_size=200))
def test_lines_never_hold_forbidden_characters(data: bytes) -> None:
    """No line holds a line end or a control character but TAB."""
    for line in decode(data, limit=100):
        if isinstance(line, str):
            assert not any(unicodedata.category(character) == "Cc" and character != "\t" for character in line)


def test_a_line_without_end_takes_no_memory() -> None:
    """Of an endless line, no more than the limit is kept, and it is reported once."""
    decoder = SniffingDecoder(LIMIT)
    reported = [line for _ in range(1000) for line in decoder.receive_data(b"x" * 100)]
    assert reported == [TOO_LONG]
    assert partial_line(decoder) == b""
    assert decoder.in_line


def test_encode_line() -> None:
    """Text that the wire can't carry is refused before it is sent."""
    assert encode_line("hé", 3) == "hé\n".encode()
    assert encode_line("a\rb", 8) == b"a\rb\n"
    for text, problem in [("a\nb", "line end"), ("a\r", "line end"), ("héé", "longer than 4"), ("\ud800", "surrogate")]:
        with pytest.raises(ValueError, match=problem):
            encode_line(text, 4)


def test_text_of_any_server_can_be_ended() -> None:
    """What follows is another line, unless nothing follows but the line end."""
    decoder = AnyServerDecoder(100)
    assert decoder.receive_data(b"hi\nName: ") == ["hi"]
    assert decoder.end_line() == ["Name: "]
    assert decoder.end_line() == []
    assert decoder.receive_data(b"Hello\nagain") == ["Hello"]
    assert decoder.end_line() == ["again"]
    assert decoder.receive_data(b"\n\nx\n") == ["", "x"]


def test_a_server_that_ends_no_line() -> None:
    """It is one as long as only quiet has ended its lines."""
    decoder = AnyServerDecoder(100)
    assert not decoder.ends_no_line
    decoder.receive_data(b"\xef\xbb\xbfhi")
    assert not decoder.ends_no_line
    assert decoder.end_line() == ["hi"]
    assert decoder.ends_no_line
    decoder.receive_data(b"you\n")
    assert not decoder.ends_no_line


def test_text_of_any_server_is_never_cut_within_a_character() -> None:
    """It waits for the rest. Bytes that aren't UTF-8 at all become escapes."""
    decoder = AnyServerDecoder(100)
    decoder.receive_data(b"caf\xc3")
    assert not decoder.may_end
    decoder.receive_data(b"\xa9")
    assert decoder.may_end
    assert decoder.end_line() == ["café"]
    assert decoder.receive_data(b"caf\xe9\x1b\n") == [r"caf\xe9␛"]
