"""`Connection` over a scripted socket: short writes, EAGAIN, resets, each at every place."""

from __future__ import annotations

import errno
import selectors
from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import Limits
from chatkit.server.connection import Connection
from chatkit.server.pending import WRITE_BYTES
from tests.helpers.inside import pending_pieces
from tests.helpers.servers import a_share


class ScriptedSocket:
    """Takes as many bytes per send as scripted (None: EAGAIN, an errno as OSError), then everything."""

    is_ready, has_unsent, at_eof, taken_bytes = True, False, False, 0

    def __init__(self, sends: Iterable[int | OSError | None] = (), receives: Iterable[bytes | OSError] = ()) -> None:
        self.sends = deque(sends)
        self.receives = deque(receives)
        self.sent = b""
        self.calls: list[str] = []

    def send(self, data: bytes | memoryview) -> int:
        self.calls.append("send")
        step = self.sends.popleft() if self.sends else len(data)
        if step is None:
            raise BlockingIOError
        if isinstance(step, OSError):
            raise step
        self.sent += bytes(data[:step])
        return min(step, len(data))

    def send_pieces(self, pieces: list[memoryview]) -> int:
        return self.send(b"".join(pieces))

    def recv(self, max_bytes: int) -> bytes:
        step = self.receives.popleft()
        if isinstance(step, OSError):
            raise step
        return step

    def shutdown(self, how: int) -> None:
        self.calls.append("shutdown")

    def setsockopt(self, *arguments: Any) -> None:
        self.calls.append("linger")

    def close(self) -> None:
        self.calls.append("close")


def connection(sock: ScriptedSocket) -> Connection:
    return Connection(sock, a_share(Limits(max_line_bytes=64)))  # type: ignore[arg-type]


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
