"""`Connection` over a scripted socket: short writes, EAGAIN, resets, each at every place."""

from __future__ import annotations

import errno
import math
import selectors
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import Limits, Member
from chatkit.room.listing import Listing
from chatkit.room.members import Roster
from chatkit.server.budget import Share
from chatkit.server.connection import CAREFUL_LINES, Connection
from chatkit.server.pending import WRITE_BYTES
from tests.helpers.inside import pending_pieces
from tests.helpers.servers import a_share
from tests.helpers.transports import ScriptedSocket


def connection(sock: ScriptedSocket, share: Share | None = None) -> Connection:
    made = Connection(sock, share or a_share(Limits(max_line_bytes=64)))
    made.awaits_ack = True
    return made


RESET = OSError(errno.ECONNRESET, "reset")
BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


@given(
    st.lists(st.none() | st.integers(1, 5), max_size=20),
    st.lists(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=3), max_size=8),
)
def test_short_writes_lose_nothing(sends: list[int | None], writes: list[list[bytes]]) -> None:
    """However little the kernel takes at a time, the peer gets every byte in order."""
    sock = ScriptedSocket(sends)
    conn, written = connection(sock), b""
    for pieces in writes:
        done = conn.write(pieces[0]) if len(pieces) == 1 else conn.write_pieces([memoryview(piece) for piece in pieces])
        written += b"".join(pieces)
        assert done == (conn.pending_bytes == 0)
        assert len(sock.sent) + conn.pending_bytes == len(written)
        assert conn.interest == (BOTH if conn.pending_bytes else selectors.EVENT_READ)
    while conn.pending_bytes:
        conn.flush()
    assert sock.sent == written


def listing_of(number: int) -> Listing:
    """A list of so many members, besides the one that asked."""
    roster = Roster(Limits(max_clients=number + 1))
    members = list[Member]()
    for port in range(number + 1):
        roster.reserve(("127.0.0.1", port))
        members.append(roster.add(("127.0.0.1", port)))
    return Listing(members[0], *roster.listed())


@given(
    st.lists(st.none() | st.integers(1, 5000), max_size=20),
    st.lists(st.sampled_from(["bytes", "view"]) | st.integers(0, 350), min_size=1, max_size=6),
)
def test_listings_are_written_as_the_peer_reads(sends: list[int | None], writes: list[str | int]) -> None:
    """In their place between other lines, each byte once; all of it counts as private until it is taken."""
    share = a_share(Limits())
    sock, written = ScriptedSocket(sends), b""
    conn = connection(sock, share)
    for what in writes:
        if isinstance(what, int):
            written += listing_of(what).take_all()
            conn.write_listing(listing_of(what))
        else:
            written += b"*** x\n" * 1000
            conn.write_pieces([b"*** x\n" * 1000 if what == "bytes" else memoryview(b"*** x\n" * 1000)])
        assert len(sock.sent) + conn.pending_bytes == len(written)
        assert conn.undelivered.endswith(str(written[len(sock.sent) :].count(b"\n")))
    while conn.pending_bytes:
        assert len(sock.sent) + conn.pending_bytes == len(written)
        assert conn.private_bytes == share.private_bytes <= conn.pending_bytes
        conn.flush()
    assert sock.sent == written
    assert share.private_bytes == 0


def test_a_listing_takes_memory_line_by_line() -> None:
    """It is a tuple while nothing is read; only its first lines are bytes. Dropped, or cut short, it counts no more."""
    share = a_share(Limits())
    conn = connection(ScriptedSocket([None, 10, None]), share)
    listing = listing_of(10_000)
    size = len(listing)
    conn.write_listing(listing)
    assert pending_pieces(conn) == [listing]
    assert (conn.pending_bytes, share.private_bytes) == (size, size)
    assert listing.held_bytes < size / 2
    conn.flush()
    conn.flush()
    first, rest = pending_pieces(conn)
    assert (rest, len(first) + len(rest)) == (listing, size - 10)
    assert isinstance(first, bytearray)
    assert len(first) < 5000
    conn.truncate()
    assert share.private_bytes == conn.pending_bytes <= WRITE_BYTES
    conn.close()
    assert share.private_bytes == 0


def test_nothing_to_write_costs_nothing() -> None:
    """The only speaker of a turn gets nothing, without a system call."""
    sock = ScriptedSocket([None])
    conn = connection(sock)
    assert conn.write_pieces([])
    assert sock.calls == []
    conn.write(b"x")
    assert not conn.write_pieces([])


def test_many_small_pieces_are_one_write() -> None:
    """A thousand pending lines cost a slow member's flush one system call, not a thousand."""
    sock = ScriptedSocket([None])
    conn = connection(sock)
    for _ in range(1000):
        conn.write(b"12345678\n")
    assert conn.undelivered == "1000"
    sock.calls.clear()
    conn.flush()
    assert sock.calls == ["send"]
    assert sock.sent == b"12345678\n" * 1000


def test_large_pieces_are_shared() -> None:
    """Pieces that many slow members wait for are one object, not a copy for each."""
    batch = b"x" * (2 * WRITE_BYTES)
    slow = [connection(ScriptedSocket([None, None])) for _ in range(3)]
    for conn in slow:
        conn.write(batch)
        conn.flush()
        assert pending_pieces(conn)[0] is batch


def test_ends_after_the_pending_bytes() -> None:
    """`finish` sends the end of stream after the last pending byte; both ends make it finished."""
    sock = ScriptedSocket([2, None], [b"ignored\n", b""])
    conn = connection(sock)
    conn.write(b"hello\n")
    conn.begin_end()
    assert sock.calls == ["send"]
    assert conn.receive(100, 1000) == []
    conn.flush()
    conn.flush()
    assert sock.sent == b"hello\n"
    assert sock.calls[-1] == "shutdown"
    assert not conn.may_close
    conn.receive(100, 1000)
    assert conn.may_close
    assert conn.interest == 0
    conn.close()
    assert "linger" not in sock.calls


def test_closing_with_something_pending_resets() -> None:
    """A peer that is cut in the middle of a line sees a reset, never half a line and a clean end."""
    sock = ScriptedSocket([2])
    conn = connection(sock)
    conn.write(b"hello\nyou\n")
    assert conn.undelivered == "2"
    conn.close()
    assert sock.calls[-2:] == ["linger", "close"]


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH])
@pytest.mark.parametrize("first", [[], [None]])
def test_a_failed_write_leaves_the_news_to_the_reads(code: int, first: list[None]) -> None:
    """The peer's lines before it went away are still received; its last half line isn't, since it broke."""
    sock = ScriptedSocket([*first, OSError(code, "gone")], [b"last words\nhal", b""])
    conn = connection(sock)
    conn.write(b"hello\n")
    conn.flush()
    assert conn.peer_end is None
    assert conn.write(b"more\n")
    assert conn.pending_bytes == 0
    assert conn.receive(100, 1000) == ["last words"]
    assert conn.receive(100, 1000) == []
    assert conn.peer_end == "connection reset"


def test_reset_while_reading() -> None:
    """After a reset half a line is no line."""
    conn = connection(ScriptedSocket(receives=[b"one\ntw", RESET]))
    assert conn.receive(100, 1000) == ["one"]
    assert conn.receive(100, 1000) == []
    assert conn.peer_end == "connection reset"


def test_nothing_to_read() -> None:
    """A read that would block brings nothing and ends nothing."""
    conn = connection(ScriptedSocket(receives=[BlockingIOError(), InterruptedError(), b"hi", b""]))
    assert [conn.receive(100, 1000) for _ in range(4)] == [[], [], [], ["hi"]]
    assert conn.peer_end == "end of stream"
    assert conn.interest == 0


def test_the_end_of_stream_can_fail() -> None:
    """A peer that is gone before our end of stream changes nothing."""
    sock = ScriptedSocket()
    sock.shutdown = lambda how: (_ for _ in ()).throw(OSError(errno.ENOTCONN, "gone"))  # type: ignore[method-assign]
    conn = connection(sock)
    conn.begin_end()
    sock.receives.append(b"")
    conn.receive(100, 1000)
    assert conn.may_close


def test_lines_at_every_split() -> None:
    """Two reads that part the bytes at any place give the same lines."""
    data, lines = "hé\r\n漢👍\nx\n".encode(), ["hé", "漢👍", "x"]
    for cut in range(1, len(data)):
        conn = connection(ScriptedSocket(receives=[data[:cut], data[cut:]]))
        assert conn.receive(100, 1000) + conn.receive(100, 1000) == lines


def test_a_read_brings_no_more_lines_than_asked() -> None:
    """The rest stays undecoded; each call brings some of it, without a read, and in the end all lines were told."""
    sock = ScriptedSocket(receives=[b"1\n2\n3\n4\n5\nhal", b"f\n", b""])
    conn, told = connection(sock), list[object]()
    while not conn.peer_end:
        told.append((conn.receive(100, 2), conn.has_input))
    assert told == [(["1", "2"], True), (["3", "4"], True), (["5"], False), (["half"], False), ([], False)]


def test_small_pieces_are_copied() -> None:
    """A member that waits for a few bytes of a batch doesn't keep the batch, also when the kernel takes the most."""
    batch = b"x" * 100_000
    for sends in ([None], [99_990, None]):
        conn = connection(ScriptedSocket(sends))
        conn.write_pieces([memoryview(batch)[:10]]) if sends == [None] else conn.write(batch)
        (piece,) = pending_pieces(conn)
        assert isinstance(piece, bytearray)
        assert len(piece) == conn.private_bytes == 10


def test_a_member_whose_answers_wait_is_not_read() -> None:
    """Not while all members together hold too much, unless its conversation ends; shared bytes don't count."""
    share = a_share(Limits(max_private_bytes=100))
    asks, reads = connection(ScriptedSocket([None]), share), connection(ScriptedSocket([None]), share)
    asks.write_pieces([b"x" * 100])
    reads.write(b"x" * 1000)
    assert asks.interest == reads.interest == BOTH
    asks.write_pieces([b"x"])
    assert (asks.interest, reads.interest) == (selectors.EVENT_WRITE, BOTH)
    asks.begin_end()
    assert asks.interest == BOTH


def test_few_lines_are_held_though_many_arrive_at_once() -> None:
    """A record of TLS is read as a whole. If its lines have to wait for a rate, most of it isn't decoded yet."""
    sock = ScriptedSocket(receives=[b"ab\n" * 5000])
    conn = connection(sock, a_share(Limits(messages_per_second=1)))
    passed = conn.receive(65536, 10_000)
    assert len(passed + conn.input.release()) == CAREFUL_LINES
    assert conn.has_input


@pytest.mark.parametrize("waits_for", ["rate", "login"])
def test_input_is_not_wanted_while_lines_wait(waits_for: str) -> None:
    """It stays in the kernel, or undecoded, until they may pass."""
    sock = ScriptedSocket(receives=[b"ab\n" * 5000])
    conn = connection(sock, a_share(Limits(messages_per_second=1 if waits_for == "rate" else None)))
    login: Any = SimpleNamespace(is_waiting=waits_for == "login", due=math.inf)
    conn.login = login
    assert conn.takes_input == (waits_for == "rate")
    conn.receive(65536, 10_000)
    assert not conn.takes_input
    assert not conn.interest & selectors.EVENT_READ
    login.is_waiting = False
    conn.input.release()
    assert conn.takes_input


def test_a_member_whose_listing_waits_is_not_read() -> None:
    """It asks for the next one when it has read this one."""
    conn = connection(ScriptedSocket([None, None]))
    conn.write_pieces([b"x"])
    assert conn.interest == BOTH
    conn.write_listing(listing_of(10_000))
    assert conn.interest == selectors.EVENT_WRITE
    conn.flush()
    assert conn.interest == selectors.EVENT_WRITE
    conn.flush()
    assert (conn.pending_bytes, conn.interest) == (0, selectors.EVENT_READ)
