"""One non-blocking socket: lines in, bounded pending bytes out. Owned by one worker thread.

A connection is open, then ending (nothing more is read, what is pending is still written, then its end of
stream), then finished. Reads alone decide that the peer is gone: a failed write only stops the writing,
so that what the peer sent before it left is still heard.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chatkit.protocol import Line, LineDecoder

if TYPE_CHECKING:
    from chatkit.room import Member

# Small pending pieces are joined up to this, a copy of its own for each slow member: so it stays small.
WRITE_BYTES = 64 * 1024

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection:
    """The server's side of one conversation.

    member: its place in the room, None before and when it was refused.
    end: why the peer's side is over, None while it may still send.
    cut: why the server cut it off as a slow consumer, or None.
    pending_bytes: what the kernel hasn't taken yet.
    last_sent: when (`time.monotonic`) the kernel last took some of what was pending.
    """

    __slots__ = (
        "_broken",
        "_decoder",
        "_pending",
        "cut",
        "end",
        "ending",
        "last_sent",
        "member",
        "pending_bytes",
        "sock",
    )

    def __init__(self, sock: socket.socket, max_line_bytes: int) -> None:
        self.sock = sock
        self.member: Member | None = None
        self.end: str | None = None
        self.cut: str | None = None
        self.ending = False
        self.pending_bytes = 0
        self.last_sent = 0.0
        self._decoder = LineDecoder(max_line_bytes)
        self._pending: deque[bytes | memoryview] | None = None  # made when needed: an empty deque costs 600 bytes
        self._broken = False

    def receive(self, max_bytes: int) -> list[Line]:
        """The lines that one read brings; sets `end` when the peer's side is over. After `finish`, drops them."""
        try:
            data = self.sock.recv(max_bytes)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            self._break()
            self.end = "connection reset"
            return []
        if data:
            return [] if self.ending else self._decoder.receive_data(data)
        self.end = "connection reset" if self._broken else "end of stream"
        return [] if self._broken or self.ending else self._decoder.receive_eof()

    def write(self, data: bytes) -> bool:
        """Hand `data` to the kernel, keep what it doesn't take; whether nothing is pending now."""
        if self._pending:
            return self._keep([data], 0)
        try:
            sent = self.sock.send(data)
        except OSError as error:
            sent = self._failed(error)
        return sent == len(data) or self._keep([data], sent)

    def write_pieces(self, pieces: list[memoryview]) -> bool:
        """`write` of several pieces in one system call, without a copy."""
        if self._pending:
            return self._keep(pieces, 0)
        try:
            sent = self.sock.sendmsg(pieces)
        except OSError as error:
            sent = self._failed(error)
        return sent == sum(map(len, pieces)) or self._keep(pieces, sent)

    def flush(self) -> None:
        """Write what is pending, as far as the kernel takes it."""
        while self._pending:
            piece = self._next_piece(self._pending)
            try:
                sent = self.sock.send(piece)
            except OSError as error:
                self._failed(error)
                return
            self.last_sent = time.monotonic()
            self.pending_bytes -= sent
            if sent < len(piece):
                self._pending[0] = memoryview(piece)[sent:]
            else:
                self._pending.popleft()
        self._pending = None
        if self.ending:
            self._send_eof()

    def finish(self) -> None:
        """Begin to end: read no more lines, write what is pending, then the end of stream."""
        self.ending = True
        if not self._pending:
            self._send_eof()

    @property
    def interest(self) -> int:
        """What to wait for: `selectors.EVENT_READ`, `EVENT_WRITE`, both or neither (0)."""
        return (0 if self.end else selectors.EVENT_READ) | (selectors.EVENT_WRITE if self._pending else 0)

    @property
    def finished(self) -> bool:
        """Whether both sides have ended and nothing is pending: time to close."""
        return self.ending and self.end is not None and not self._pending

    @property
    def undelivered(self) -> int:
        """How many line ends are pending."""
        return sum(bytes(piece).count(b"\n") for piece in self._pending or ())

    def close(self) -> None:
        """Close the socket; with a reset if something is pending, so that half a line never looks whole."""
        if self._pending:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.sock.close()

    def _failed(self, error: OSError) -> int:
        """A write failed: how many bytes the kernel took."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            self._break()
        return 0

    def _keep(self, pieces: Sequence[bytes | memoryview], sent: int) -> bool:
        """Keep what is left of `pieces` after `sent` bytes of them; whether that is nothing."""
        if self._broken:
            return True
        if not self._pending:
            self._pending = deque()
            self.last_sent = time.monotonic()
        for piece in pieces:
            if sent < len(piece):
                self._pending.append(memoryview(piece)[sent:] if sent else piece)
                self.pending_bytes += len(piece) - sent
            sent = max(0, sent - len(piece))
        return False

    def _break(self) -> None:
        self._broken = True
        self._pending = None
        self.pending_bytes = 0

    def _send_eof(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the peer is gone already
            self._break()

    @staticmethod
    def _next_piece(pending: deque[bytes | memoryview]) -> bytes | memoryview:
        """The head of what is pending; small pieces become one, so that one write carries many."""
        parts: list[bytes | memoryview] = []
        size = 0
        while pending and (not parts or size + len(pending[0]) <= WRITE_BYTES):
            parts.append(pending.popleft())
            size += len(parts[-1])
        pending.appendleft(parts[0] if len(parts) == 1 else b"".join(parts))
        return pending[0]
