"""Pairs of sockets, TLS over them, and sockets that do as a script says."""

from __future__ import annotations

import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from chatkit.net.tls_transport import TlsTransport
from chatkit.tls import client_context, server_context
from tests.helpers.papers import HOST, Papers


@contextmanager
def sockets(send_buffer: int | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        for sock in (near, far):
            sock.setblocking(False)
            if send_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        yield near, far


def shaken(papers: Papers, near: socket.socket, far: socket.socket) -> tuple[TlsTransport, TlsTransport]:
    """Client and server after the handshake."""
    client = TlsTransport(near, client_context(ca=papers.ca), HOST)
    server = TlsTransport(far, server_context(papers.good))
    for _ in range(100):
        for end in (server, client):
            with suppress(BlockingIOError):
                end.recv(65536)
            end.flush()
    assert client.is_ready
    assert server.is_ready
    return client, server


def received(end: TlsTransport, max_bytes: int = 65536) -> bytes:
    try:
        return end.recv(max_bytes)
    except BlockingIOError:
        return b""


def unread(sock: socket.socket) -> int:
    """Return the number of bytes that have arrived and aren't read."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextmanager
def stalled(papers: Papers) -> Iterator[tuple[TlsTransport, TlsTransport]]:
    """A client, and a server some of whose encrypted bytes the kernel doesn't take."""
    with sockets(send_buffer=4096) as pair:
        client, server = shaken(papers, *pair)
        for _ in range(100):
            with suppress(BlockingIOError):
                server.send(bytes(65536))
        assert server.has_unsent
        yield client, server


def tcp_info(*, retransmits: int = 0, probes: int = 0, unacked: int = 0, silent_ms: int = 0, unsent: int = 0) -> bytes:
    """Return what the kernel tells of a connection."""
    return struct.pack("=2xBB20xI28xI84xI", retransmits, probes, unacked, silent_ms, unsent)


class ScriptedSocket:
    """Takes as many bytes per send as scripted (None: EAGAIN, an errno as OSError), then everything."""

    is_ready, has_unsent, has_unread, at_eof, taken_bytes = True, False, False, False, 0

    def __init__(self, sends: Iterable[int | OSError | None] = (), receives: Iterable[bytes | OSError] = ()) -> None:
        self.sends = deque(sends)
        self.receives = deque(receives)
        self.sent = b""
        self.tcp_info = tcp_info()
        self.calls: list[str] = []

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        self.calls.append("send")
        step = self.sends.popleft() if self.sends else len(data)
        if step is None:
            raise BlockingIOError
        if isinstance(step, OSError):
            raise step
        self.sent += bytes(data[:step])
        return min(step, len(data))

    def send_pieces(self, pieces: Sequence[bytes | memoryview]) -> int:
        return self.send(b"".join(pieces))

    def recv(self, max_bytes: int) -> bytes:
        step = self.receives.popleft()
        if isinstance(step, OSError):
            raise step
        return step

    def shutdown(self, how: int) -> None:
        self.calls.append("shutdown")

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return self.tcp_info

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self.calls.append("linger")

    def close(self) -> None:
        self.calls.append("close")

    def take_sealed(self) -> int:
        return 0

    def flush(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1
