"""One connection over a non-blocking transport: lines in, bounded pending bytes out. Owned by one worker thread.

| state   | the peer's bytes are | the server's bytes are      | leaves by                                       |
|---------|----------------------|-----------------------------|-------------------------------------------------|
| OPEN    | lines                | sent                        | `begin_end`: CLOSING; a failure, `lose`: BROKEN |
| BROKEN  | lines                | dropped                     | `begin_end`: ENDED                              |
| CLOSING | dropped              | pending, then end of stream | nothing pending, a failure, `lose`: ENDED       |
| ENDED   | dropped              | dropped                     | the peer's end: `may_close`                     |

In each state `peer_end` is None while the peer may send; after that it is the reason why the peer's side has ended.
Only reads decide that: a failed write stops the writing alone, so that earlier lines are still received.
"""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from chatkit.net.acknowledgements import HAS_TCP_INFO
from chatkit.net.sockets import NO_SIGNAL, break_off, reset_on_close
from chatkit.protocol.lines import Line
from chatkit.server.input import Input
from chatkit.server.pending import COUNTED_BYTES, Pending

if TYPE_CHECKING:
    from chatkit.net.transport import Transport
    from chatkit.room.batch import Piece
    from chatkit.room.listing import Listing
    from chatkit.room.members import Member
    from chatkit.server.budget import Share
    from chatkit.server.login import PendingLogin
    from chatkit.server.replays import Replay

# The number of pieces in one call; systems take at most 1024 (IOV_MAX, writev(2)).
MAX_PIECES = 512

# What a read takes, and how much of that is decoded at a time, if lines may have to wait, for a rate or before a login:
# few are held then, the rest stays in the kernel, or undecoded (a record of TLS is always read as a whole).
CAREFUL_READ_BYTES, CAREFUL_LINES = 512, 64


class ConnectionState(Enum):
    """The states of a connection; the table above lists the transitions."""

    OPEN = "open"
    BROKEN = "broken"
    CLOSING = "closing"
    ENDED = "ended"


# The states after writing has stopped.
STOPPED = {ConnectionState.OPEN: ConnectionState.BROKEN, ConnectionState.CLOSING: ConnectionState.ENDED}


class Connection:
    """The server's side of one conversation. Times are those of `time.monotonic`.

    Attributes:
        transport: the socket, plain or inside TLS.
        input: the bytes that it reads, as lines.
        login: the login stage, before the connection is a member; None if there is no login.
        member: the member of the room; None before the login, and if the connection was refused.
        replay: the replay stage, while the member receives earlier messages; else None.
        state: the state, see the table above.
        peer_end: the reason why the peer's side has ended, or None.
        awaits_ack: whether `Acknowledgements` has it; always true where the kernel finds dead peers.
        last_sent: the time when the kernel last took some of the pending bytes.
        close_at: the time when a closing connection is checked again, and closed unless its peer reads.
        has_unread: whether the socket may hold input that had arrived when the selector was asked last.
        write_at: the time when the kernel is asked again, after it called the socket writable and took nothing; else
            `math.inf`.
    """

    __slots__ = (
        "_pending", "_share", "awaits_ack", "close_at", "has_unread", "input", "last_sent", "login", "member",
        "peer_end", "replay", "state", "transport", "write_at",
    )  # fmt: skip

    def __init__(self, transport: Transport, share: Share) -> None:
        self.transport = transport
        self.input = Input(share.limits)
        self.login: PendingLogin | None = None
        self.member: Member | None = None
        self.replay: Replay | None = None
        self.state = ConnectionState.OPEN
        self.peer_end: str | None = None
        self.awaits_ack = not HAS_TCP_INFO
        self.has_unread = False
        self.last_sent = 0.0
        self.close_at = self.write_at = math.inf
        self._share = share
        self._pending: Pending | None = None  # created on demand: a deque costs 600 bytes

    @property
    def pending_bytes(self) -> int:
        """The number of bytes that the kernel hasn't taken yet."""
        return self._pending.size if self._pending else 0

    @property
    def private_bytes(self) -> int:
        """The number of bytes held for this connection alone, pending or behind its replay."""
        pending = self._pending.private_bytes if self._pending else 0
        return pending + (self.replay.private_bytes if self.replay else 0)

    @property
    def is_closing(self) -> bool:
        """Whether the server has begun to end the connection."""
        return self.state is ConnectionState.CLOSING or self.state is ConnectionState.ENDED

    @property
    def is_leaving(self) -> bool:
        """Whether the conversation ends now, or after its replay."""
        return self.is_closing or (self.replay is not None and self.replay.leaving)

    @property
    def due(self) -> float:
        """The time (`time.monotonic`) of its next deadline."""
        due = min(self.close_at, self.write_at, self.login.due if self.login else math.inf)
        if not self.is_leaving:
            due = min(due, self.input.quiet_due)
            if self._pending:
                due = min(due, self.last_sent + self._share.limits.stall_seconds)
            if self.member:
                due = min(due, self.input.line_due)
            if (resume_at := self.input.resume_at) is not None:
                due = min(due, resume_at)
        return due

    def receive(self, max_bytes: int, max_lines: int) -> list[Line]:
        """Read once, unless input of the last read is undecoded. Sets `peer_end` if the peer's side has ended.

        Returns:
            The lines that this completes, at most `max_lines`; the rest stays undecoded, see `has_input`.
        """
        was_ready = self.transport.is_ready
        lines = self._read(max_bytes, max_lines)
        # The end came with the last data: the selector won't report it.
        if self.transport.at_eof and not self.peer_end and not self.input.undecoded:
            lines += self._read(max_bytes, max_lines)
        if not was_ready and self.transport.is_ready:
            self.flush()
        return lines

    def is_read_up(self) -> bool:
        """Tell whether everything that had arrived when the selector was asked last is read: else its peer isn't late.

        If it isn't, ask again after the next look. No peer puts that off for ever: the bytes of its line are bounded.
        """
        has_unread, self.has_unread = self.has_unread, False
        return not self.takes_input or not (has_unread or self.input.undecoded)

    def is_line_late(self) -> bool:
        """Tell, after `line_due`, whether the unfinished line is given up."""
        return self.input.line_due == -math.inf or self.is_read_up()

    @property
    def has_input(self) -> bool:
        """Whether input that was read is undecoded: the selector doesn't know of it."""
        return bool(self.input.undecoded)

    def _read(self, max_bytes: int, max_lines: int) -> list[Line]:
        if self.input.is_throttled or (self.login and self.transport.is_ready):
            max_bytes, max_lines = min(max_bytes, CAREFUL_READ_BYTES), min(max_lines, CAREFUL_LINES)
        try:
            if not (data := self.input.take_undecoded()):
                data = self.transport.recv(max_bytes)
                self.has_unread = len(data) == max_bytes or self.transport.has_unread
        except (BlockingIOError, InterruptedError):
            self.has_unread = self.transport.has_unread
            return []
        except OSError:
            self._break()
            self.peer_end = "connection reset"
            return []
        if not data:
            self.peer_end = "end of stream" if self.state is ConnectionState.OPEN else "connection reset"
        if self.is_closing or (self.state is ConnectionState.BROKEN and self.peer_end):
            return []
        return self.input.receive(data, max_lines)

    def write(self, data: bytes) -> bool:
        """Hand `data`, which other members share, to the kernel; keep the rest pending.

        Returns:
            Whether its owner has nothing to note: nothing is pending, and `Acknowledgements` has it.
        """
        if self._pending:
            return self._keep([data], 0, is_shared=True)
        try:
            sent = self.transport.send(data, NO_SIGNAL)
        except OSError as error:
            sent = self._failed(error)
        return self.awaits_ack if sent == len(data) else self._keep([data], sent, is_shared=True)

    def write_pieces(self, pieces: Sequence[Piece]) -> bool:
        """Write several pieces in one call, without a copy: bytes are private, views shared. Returns as `write`."""
        if not pieces:
            return not self._pending
        if self._pending:
            return self._keep(pieces, 0, is_shared=False)
        try:
            sent = self.transport.send_pieces(pieces[:MAX_PIECES])
        except OSError as error:
            sent = self._failed(error)
        return self.awaits_ack if sent == sum(map(len, pieces)) else self._keep(pieces, sent, is_shared=False)

    def write_listing(self, listing: Listing) -> bool:
        """Keep a listing pending: its lines are made as the kernel takes them. Returns as `write`."""
        if not (pending := self._pending_to_extend()):
            return True
        pending.append_listing(listing)
        return False

    def flush(self) -> bool:
        """Write pending bytes, as far as the kernel takes them. Returns whether it took any."""
        self.write_at = math.inf
        size_before = self.pending_bytes
        taken_before = self.transport.taken_bytes
        if self.transport.has_unsent:
            try:
                self.transport.flush()
            except OSError as error:
                self._failed(error)
        self._flush_pending()
        if self.transport.taken_bytes > taken_before:  # a part of the encrypted bytes is progress, too
            self.last_sent = time.monotonic()
            return True
        return self.pending_bytes < size_before

    def _flush_pending(self) -> None:
        while self._pending:
            piece = self._pending.next_piece()
            try:
                sent = self.transport.send(piece, NO_SIGNAL)
            except OSError as error:
                self._failed(error)
                return
            self.last_sent = time.monotonic()
            self._pending.advance(sent)
            if not self._pending.size:
                self._pending = None
        if self.state is ConnectionState.CLOSING:
            self._end_sending()

    def begin_end(self) -> None:
        """Begin to end: receive no more lines, write the pending bytes, then the end of stream."""
        self.input.undecoded = b""
        self.state = ConnectionState.CLOSING if self.state is ConnectionState.OPEN else ConnectionState.ENDED
        if not self._pending:
            self._end_sending()

    @property
    def takes_input(self) -> bool:
        """Whether it is read from now: else input stays in the kernel, or undecoded."""
        if self.peer_end or self.is_closing:
            return not self.peer_end
        if self.input.resume_at is not None or (self.login and self.login.is_waiting):
            return False
        if not (self._pending and self._pending.private_bytes):
            return True
        # Its own answers wait: it gets no more of them while one is long, or all members' are too many.
        return not (self._pending.listings or self._share.budget.is_exceeded)

    @property
    def interest(self) -> int:
        """The events that it waits for: `selectors.EVENT_READ`, `EVENT_WRITE`, both or neither (0)."""
        # Pending bytes can't be written before the handshake is done; encrypted ones must be.
        writes = (self._pending and self.transport.is_ready) or self.transport.has_unsent
        writes = writes and self.write_at == math.inf
        return (selectors.EVENT_READ if self.takes_input else 0) | (selectors.EVENT_WRITE if writes else 0)

    @property
    def may_close(self) -> bool:
        """Whether both sides have ended, so that the connection can be closed."""
        return self.state is ConnectionState.ENDED and self.peer_end is not None and not self.transport.has_unsent

    @property
    def undelivered(self) -> str:
        """The number of pending line ends, for the log."""
        if not self._pending:
            return "0"
        return f"{'at least ' * (self._pending.size > COUNTED_BYTES)}{self._pending.lines}"

    def lose(self) -> None:
        """Give up a peer that is gone: stop writing, and have reads find an end after what has arrived."""
        self._stop_writing()
        break_off(self.transport)

    def close(self) -> None:
        """Close the socket; with a reset if bytes are pending, so that half a line never looks like a whole one."""
        if self._pending:
            reset_on_close(self.transport)
            self._pending.clear()
        self.transport.close()

    def truncate(self) -> None:
        """Drop pending bytes, but for the rest of the first line: they must not take memory until the peer reads."""
        if self._pending and not self._pending.truncate(self.transport.take_sealed()):
            self._break()

    def _failed(self, error: OSError) -> int:
        """Note that a write failed. Returns how many bytes the kernel took: 0."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            self._break()
        return 0

    def _keep(self, pieces: Sequence[Piece], sent: int, *, is_shared: bool) -> bool:
        """Keep the rest of `pieces` after the first `sent` bytes. Returns whether nothing is pending."""
        if not (pending := self._pending_to_extend()):
            return True
        pending.append(pieces, sent, is_shared=is_shared)
        return False

    def _pending_to_extend(self) -> Pending | None:
        """Return the pending bytes, none perhaps, to add to them; None if nothing is written any more."""
        if self.state is ConnectionState.BROKEN or self.state is ConnectionState.ENDED:
            return None
        if not self._pending:
            self._pending = Pending(self._share)
            self.last_sent = time.monotonic()
        return self._pending

    def _break(self) -> None:
        """Stop writing for good, and end the stream."""
        self._stop_writing()
        self._end_sending()

    def _stop_writing(self) -> None:
        """Write nothing more, even if the socket would take bytes again: the stream must have no gap."""
        self.state = STOPPED.get(self.state, self.state)
        if self._pending:
            self._pending.clear()
        self._pending = None

    def _end_sending(self) -> None:
        if self.state is ConnectionState.CLOSING:
            self.state = ConnectionState.ENDED
        with suppress(OSError):  # the peer is gone already
            self.transport.shutdown(socket.SHUT_WR)
