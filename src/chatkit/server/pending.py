"""Bytes that the kernel hasn't taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from chatkit.room.batch import Piece
from chatkit.room.listing import Listing
from chatkit.server.budget import Share

# Small pieces are joined up to this, a copy of its own for each slow member: so it stays small.
WRITE_BYTES = 64 * 1024

# A thousand members that are ended at once must not take long only to be counted.
COUNTED_BYTES = 1024 * 1024


def unpinned(piece: Piece) -> Piece:
    """Return a piece that keeps at most twice its size in memory: a copy of a small part of a batch."""
    if isinstance(piece, memoryview) and 2 * len(piece) < len(piece.obj):  # type: ignore[arg-type]  # bytes
        return bytes(piece)
    return piece


class Pending:
    """The pending bytes of one connection, in order.

    Operations: `append`, then `next_piece` and `advance` as the kernel takes them. Goal: a thousand slow members cost
    about as much memory as one, and memory is counted as it is held. Plan: bytes of shared batches stay references to
    them, unless they are a small part of one; everything else is copied into `bytearray`s, which are private and count
    in the server's budget. So does a `Listing`: each of its lines is made when it becomes the first piece.

    Attributes:
        size: the number of bytes.
        listings: the number of listings among them.
        private_bytes: how many of them no other member shares.
    """

    __slots__ = ("_pieces", "_share", "listings", "private_bytes", "size")

    def __init__(self, share: Share) -> None:
        self._pieces: deque[bytes | bytearray | memoryview | Listing] = deque()
        self._share = share
        self.size = self.private_bytes = self.listings = 0

    def append_listing(self, listing: Listing) -> None:
        """Append the lines of a listing."""
        self._pieces.append(listing)
        self.listings += 1
        self.size += len(listing)
        self._charge(len(listing))

    def append(self, pieces: Sequence[Piece], sent: int, *, is_shared: bool) -> None:
        """Append pieces, without the first `sent` bytes of them.

        Args:
            is_shared: whether `bytes` among the pieces are shared by other members; views always are.
        """
        for piece in pieces:
            if sent < len(piece):
                rest = unpinned(memoryview(piece)[sent:]) if sent else unpinned(piece)
                if (is_shared or isinstance(piece, memoryview)) and (rest is piece or isinstance(rest, memoryview)):
                    self._pieces.append(rest)
                else:
                    self._append_private(rest)
                self.size += len(rest)
            sent = max(0, sent - len(piece))

    def next_piece(self) -> bytes | bytearray | memoryview:
        """Return the first piece; small ones are joined, so that one write carries many."""
        parts, size = [self._pop()], 0
        size = len(parts[0])
        while self._pieces and size + len(self._pieces[0]) <= WRITE_BYTES:
            parts.append(self._pop())
            size += len(parts[-1])
        first = parts[0]
        if len(parts) > 1:
            private = sum([len(part) for part in parts if isinstance(part, bytearray)])
            first = bytearray().join(parts)
            self._charge(size - private)
        self._pieces.appendleft(first)
        return first

    def advance(self, sent: int) -> None:
        """Drop bytes of the first piece, which the kernel has taken."""
        self.size -= sent
        piece = self._pieces[0]
        assert not isinstance(piece, Listing)  # `next_piece` has taken its line
        if isinstance(piece, bytearray):
            self._charge(-sent)
            del piece[:sent]
            if not piece:
                self._pieces.popleft()
        elif sent == len(piece):
            self._pieces.popleft()
        else:
            rest = unpinned(memoryview(piece)[sent:])
            if not isinstance(rest, memoryview):
                rest = bytearray(rest)  # type: ignore[assignment]
                self._charge(len(rest))
            self._pieces[0] = rest

    def truncate(self, sent: int) -> bool:
        """Drop everything but the rest of the first line. Returns whether there is one: else half a line is pending.

        Args:
            sent: the number of bytes that are on their way already.
        """
        if sent == self.size:
            self.clear()
            return True
        kept = bytearray()
        while self._pieces and len(kept) < sent + WRITE_BYTES:
            kept += self._pop()[: sent + WRITE_BYTES - len(kept)]
        self.clear()
        kept = kept[sent : kept.find(b"\n", sent) + 1]
        if kept:
            self._append_private(kept)
            self.size = len(kept)
        return bool(kept)

    def clear(self) -> None:
        """Drop everything."""
        self._pieces.clear()
        self._charge(-self.private_bytes)
        self.size = self.listings = 0

    @property
    def lines(self) -> int:
        """The number of line ends, of the first COUNTED_BYTES at the most."""
        number, left = 0, COUNTED_BYTES
        for piece in self._pieces:
            if isinstance(piece, Listing):
                number += piece.lines
            else:
                number += (bytes(piece[:left]) if isinstance(piece, memoryview) else piece).count(b"\n", 0, left)
            left -= len(piece)
            if left <= 0:
                break
        return number

    @property
    def pieces(self) -> list[bytes | bytearray | memoryview | Listing]:
        """The pieces, in order."""
        return list(self._pieces)

    def _pop(self) -> bytes | bytearray | memoryview:
        """Remove the first piece, or the first line of a listing."""
        piece = self._pieces.popleft()
        if not isinstance(piece, Listing):
            return piece
        line = bytearray(piece.take())
        if len(piece):
            self._pieces.appendleft(piece)
        else:
            self.listings -= 1
        return line

    def _append_private(self, data: Piece | bytearray) -> None:
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, bytearray) and len(last) < WRITE_BYTES:
            last += data
        else:
            self._pieces.append(bytearray(data))
        self._charge(len(data))

    def _charge(self, number: int) -> None:
        self.private_bytes += number
        self._share.private_bytes += number
