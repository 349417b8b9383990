"""Client sockets that always have something to read, as from a server that sends faster than the client reads."""

from __future__ import annotations

import errno
import socket
import threading
from collections import deque

from chatkit.client.cancel import CancelToken
from chatkit.client.endpoint import Endpoint, connect


class FloodedSocket(socket.socket):
    """A connected socket whose reads come from a `Flood`."""

    flood: Flood
    pieces: deque[bytes]

    def recv(self, max_bytes: int, flags: int = 0) -> bytes:
        """Return the next piece, then the flood's line, many times; after the flood's end, the end of stream."""
        if self.fileno() < 0:
            raise OSError(errno.EBADF, "closed")
        if self.flood.is_over:
            return b""
        if self.pieces:
            return self.pieces.popleft()
        self.flood.has_begun.set()
        return self.flood.line * (max_bytes // len(self.flood.line))


class Flood:
    """The reads of a client's connections.

    Attributes:
        scripts: for each connection in turn the reads before the flood. b"" is the end of stream.
        line: repeated without an end.
        has_begun: set when it was read.
        is_over: whether every connection has ended.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.scripts: deque[list[bytes]] = deque()
        self.line = b"*** x\n"
        self.has_begun = threading.Event()
        self.is_over = False
        self.address: tuple[str, int] = listener.getsockname()
        self.port = self.address[1]
        self._listener = listener
        self._peers = list[socket.socket]()

    def end(self) -> None:
        """End every connection."""
        self.is_over = True
        for peer in self._peers:
            peer.close()

    def connect(self, endpoint: Endpoint, cancel: CancelToken | None) -> socket.socket:
        """Return a flooded socket, in place of `chatkit.client.endpoint.connect`."""
        sock = FloodedSocket(fileno=connect(endpoint, cancel).detach())
        sock.setblocking(False)
        self._peers.append(self._listener.accept()[0])
        self._peers[-1].sendall(b"x")  # never read: the socket stays readable
        sock.flood, sock.pieces = self, deque(self.scripts.popleft() if self.scripts else [])
        return sock
