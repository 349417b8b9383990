"""Arbitrary bytes of a peer, over real sockets: everyone gets the same lines, the peer at fault gets one error."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from chatkit import Client, Limits
from tests.helpers.peers import DEADLINE, Peer, assert_healthy
from tests.helpers.servers import Reads, Serve


def texts(reader: Peer, number: int) -> list[str]:
    return [line.decode().partition(": ")[2] for line in reader.lines(number)]


def test_byte_by_byte_and_at_every_split(serve: Serve, reads: Reads) -> None:
    """Bytes that arrive in as many reads, or in two that part them at any place, give the same lines."""
    reader = (started := serve()).peer()
    data, lines = "hé\r\n漢👍\nx\n".encode(), ["hé", "漢👍", "x"]
    slow = started.peer()
    reads.send(slow, *[bytes([byte]) for byte in data])
    assert texts(reader, 3) == lines
    for cut in range(1, len(data)):
        talker = started.peer()
        reads.send(talker, data[:cut], data[cut:])
        assert texts(reader, 3) == lines
        talker.close()


def test_a_thousand_lines_in_one_segment(serve: Serve) -> None:
    """One read brings them all, in order."""
    talker, reader = serve().peers(2)
    talker.send(b"".join(b"%d\n" % number for number in range(1000)))
    assert texts(reader, 1000) == [str(number) for number in range(1000)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_length_around_the_limit(serve: Serve, end: bytes) -> None:
    """Limit - 1 and limit pass, limit + 1 doesn't, also with a character of several bytes astride."""
    talker, reader = serve(limits=Limits(max_line_bytes=64)).peers(2)
    lines = ["x" * 63, "x" * 64, "x" * 65, "x" * 62 + "é", "x" * 63 + "é", "x" * 60 + "👍", "x" * 61 + "👍"]
    talker.send(b"".join(line.encode() + end for line in [*lines, "end"]))
    assert texts(reader, 5) == [lines[0], lines[1], lines[3], lines[5], "end"]
    assert talker.lines(3) == [b"*** not sent: longer than 64 bytes"] * 3


@pytest.mark.parametrize("first", [b"", b"hello\n"])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_line_of_three_times_the_limit(serve: Serve, reads: Reads, in_pieces: bool, first: bytes) -> None:
    """The sender is told once, no part of it is passed on, the next line is intact."""
    started = serve(limits=Limits(max_line_bytes=64))
    talker, reader = started.peers(2)
    talker.send(first)
    assert texts(reader, first.count(b"\n")) == ["hello"] * first.count(b"\n")
    reads.send(talker, *[b"x" * 64] * 3 if in_pieces else [b"x" * 192])
    talker.send(b"\nnext\n")
    assert texts(reader, 1) == ["next"]
    talker.send(b"exit\n")
    assert talker.rest().count(b"*** not sent: longer than 64 bytes\n") == 1


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_bytes_without_a_line_end(serve: Serve) -> None:
    """100 MB of it: the sender is told, and cut off; memory grows by less than 2 MiB; others don't notice."""
    started = serve(limits=Limits(drain_seconds=0.5))
    talker, *others = started.peers(3)
    assert_healthy(*others)
    before, begun = resident_kib(), time.monotonic()
    piece = b"x" * 65536
    for _ in range(100_000_000 // len(piece)):
        talker.send(piece)
    assert resident_kib() - before < 2048
    with suppress(ConnectionResetError, BrokenPipeError):
        while True:
            talker.send(piece)
            assert time.monotonic() - begun < DEADLINE
    assert started.events.wait_for("leave") == "endless line"
    assert_healthy(*others)


def test_an_endless_line_is_told_why(serve: Serve) -> None:
    """Too much of one line, or too long for one: each peer learns which it was."""
    limits = Limits(max_line_bytes=10, max_overlong_bytes=100, overlong_seconds=0.2, line_seconds=0.3)
    started = serve(limits=limits)
    much, long, slow = started.peers(3)
    much.send(b"x" * 101)
    long.send(b"x" * 50)
    slow.send(b"x")
    too_long = b"*** not sent: longer than 10 bytes\n"
    assert much.rest() == too_long + b"*** you were cut off: more than 100 bytes without a line end\n"
    assert long.rest() == too_long + (b"*** you were cut off: a line that is too long took longer than 0.2 seconds\n")
    assert slow.rest() == b"*** you were cut off: a line took longer than 0.3 seconds\n"


def test_after_a_line_that_was_too_long_the_next_has_its_own_time(serve: Serve) -> None:
    """A line that begins in the read that ends a line too long isn't late with it."""
    limits = Limits(max_line_bytes=100, overlong_seconds=0.3, line_seconds=30)
    started = serve(limits=limits)
    talker, reader, ticker = started.peers(3)
    talker.send(b"x" * 200)
    assert_healthy(ticker, reader)
    talker.send(b"\nhel")
    begun = time.monotonic()
    while time.monotonic() - begun < 0.5:
        assert_healthy(ticker, reader)
    talker.send(b"lo\n")
    assert texts(reader, 1) == ["hello"]


def test_a_line_in_time_resets_the_clock(serve: Serve) -> None:
    """Each line has its own time; between lines a member may be silent for as long as it likes."""
    started = serve(limits=Limits(line_seconds=0.4))
    typist, reader = started.peers(2)
    begun = time.monotonic()
    while time.monotonic() - begun < 1:
        typist.send(b"half ")
        assert_healthy(reader, started.peer())
        typist.send(b"and half\n")
        assert texts(reader, 1) == ["half and half"]
    typist.send(b"exit\n")
    assert b"cut off" not in typist.rest()


@pytest.mark.parametrize(
    "bad",
    [b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xfe\xff", b"a\xc3"],
    ids=["overlong", "overlong3", "surrogate", "beyond", "cut", "continuation", "never", "cut2"],
)
def test_invalid_utf8(serve: Serve, bad: bytes) -> None:
    """Of every kind: that line only."""
    talker, reader = serve().peers(2)
    talker.send(b"before\n" + bad + b"\nafter\n")
    assert texts(reader, 2) == ["before", "after"]
    assert talker.line() == b"*** not sent: not valid UTF-8"


@pytest.mark.parametrize("separator", ["\r", "\0", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_nothing_else_ends_a_line(serve: Serve, separator: str) -> None:
    """Line ends of other programs: one line stays one on the wire and in the library."""
    started = serve()
    talker, reader = started.peers(2)
    with Client(port=started.port) as client:
        talker.send(f"one{separator}51044: two\nend\n".encode())
        line, end = reader.lines(2)
        assert line.startswith(f"{talker.name}: one".encode())
        assert line.endswith(b"51044: two")
        assert end == f"{talker.name}: end".encode()
        event = client.receive(DEADLINE)
        assert str(event) == line.decode()
        assert len(str(event).splitlines()) == (2 if separator in "\u2028\u2029" else 1)
        assert str(client.receive(DEADLINE)) == end.decode()
    assert started.events.wait_for("message") == line.decode()


HTTP = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:12345\r\nContent-Length: 20\r\n\r\nlines\nfrom a page\n\n\n"


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (HTTP, b"HTTP/1.1 400 Bad Request\r\n"),
        (HTTP.replace(b"POST", b"hello"), b"HTTP/1.1 400 Bad Request\r\n"),
        (HTTP.replace(b"POST", b"m" * 20_000), b"*** not sent: longer than 8192 bytes\nHTTP/1.1 400 Bad Request\r\n"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\nlines\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"GET / HTTP/1.0", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\nlines\n", b"*** this port speaks plain text, not TLS\n"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\0\0\5\xdc\6\x14lines\n", b"*** this is a chat room, not an SSH server"),
        (b"CAP LS 302\r\nJOIN #x\r\n", b"ERROR :This is a chat room, not an IRC server"),
        (b"NICK ada\r\nUSER ada 0 * :Ada\r\nJOIN #x\r\n", b"ERROR :This is a chat room, not an IRC server"),
    ],
    ids=["post", "any method", "long method", "long", "http2", "half-closed", "tls", "ssh", "irc", "old irc"],
)
@pytest.mark.parametrize("split", [False, True])
def test_other_protocols_are_refused(serve: Serve, reads: Reads, first: bytes, answer: bytes, split: bool) -> None:
    """One reply that explains, closed within a second, and nothing reaches the room."""
    started = serve()
    reader, foreigner = started.peer(), started.peer()
    begun = time.monotonic()
    try:
        if split:
            reads.send(foreigner, first[:1], first[1:2])
        foreigner.send(first[2:] if split else first)
        foreigner.send_eof()
    except OSError:
        pass  # it was closed before it had said all
    received = foreigner.rest()
    assert received.startswith(answer)
    if answer.startswith(b"HTTP"):
        head, body = received.split(b"\r\n\r\n", 1)
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"chat-client" in body
    assert time.monotonic() - begun < 1
    assert started.events.wait_for("leave").startswith("spoke ")
    started.server.broadcast("sentinel")
    assert reader.line() == b"*** sentinel"


def test_people_may_write_about_http(serve: Serve) -> None:
    """Only a request line as the very first line is one."""
    talker, reader = serve().peers(2)
    talker.send(b"GET well soon\nGET / HTTP/1.1\n")
    assert texts(reader, 2) == ["GET well soon", "GET / HTTP/1.1"]


def test_a_byte_order_mark(serve: Serve) -> None:
    """Dropped at the start of a stream, kept elsewhere; it doesn't count in the line's length."""
    started = serve(limits=Limits(max_line_bytes=4))
    reader, talker, short = started.peers(3)
    talker.send("\ufeff1234\n\ufeffx\n".encode())
    assert texts(reader, 2) == ["1234", "\ufeffx"]
    short.send("\ufeffhi".encode())
    short.send_eof()
    assert texts(reader, 1) == ["hi"]
