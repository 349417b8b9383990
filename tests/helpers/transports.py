"""Pairs of sockets, and TLS over them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
