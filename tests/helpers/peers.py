"""Peers as plain as `nc`. Each blocking read has a deadline that matters only on failure."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import time
from contextlib import suppress

DEADLINE = float(os.environ.get("CHATKIT_TEST_DEADLINE", "10"))


class Peer:
    """The other end of a connection, as plain as `nc`."""

    def __init__(
        self, port: int, *, host: str = "127.0.0.1", receive_buffer: int | None = None, tls: bool = False
    ) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # how long something takes is the server's time
        try:
            self.sock.connect((host, port))
            self.name = str(self.sock.getsockname()[1])
            self.sock = trusting().wrap_socket(self.sock, suppress_ragged_eofs=False) if tls else self.sock
        except OSError:
            self.sock.close()
            raise
        self._received = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> bytes:
        """The next line, without its end."""
        while b"\n" not in self._received:
            data = self.sock.recv(65536)
            assert data, f"ended after {self._received!r}"
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def sync(self) -> None:
        """Wait until the room has received all that was sent, and has announced this member; drop what came before."""
        self.send(b"/sync\n")
        while b"synced" not in self.line():
            pass

    def pass_over(self, token: bytes, *beside: Peer) -> None:
        """Read to the end of `token`, however much comes before it; meanwhile drop what the ones beside get."""
        until = time.monotonic() + DEADLINE
        while token not in self._received:
            data = self.sock.recv(1 << 20)
            assert data, f"ended before {token!r}"
            assert time.monotonic() < until, f"no {token!r} in {DEADLINE} seconds of other lines"
            self._received = self._received[-len(token) :] + data
            for peer in beside:
                peer.drain()
        self._received = self._received.partition(token)[2]

    def drain(self) -> None:
        """Drop what has arrived."""
        self._received = b""
        self.sock.setblocking(False)
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            for _ in range(64):  # while more comes, there is no end
                assert self.sock.recv(1 << 20), "the server ended the connection"
        self.sock.settimeout(DEADLINE)

    def lines(self, number: int) -> list[bytes]:
        return [self.line() for _ in range(number)]

    def rest(self) -> bytes:
        """Return all bytes until the server's end of stream."""
        parts = [self._received]
        while data := self.sock.recv(1 << 20):
            parts.append(data)
        self._received = b""
        return b"".join(parts)

    def send_eof(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def token_seconds(talker: Peer, reader: Peer) -> float:
    """Return how long a fresh token takes from one member to another, both of which read what comes before it."""
    token = secrets.token_hex(8).encode() + b"\n"
    talker.drain()
    begun = time.monotonic()
    talker.send(token)
    reader.pass_over(token, talker)
    return time.monotonic() - begun


def assert_healthy(talker: Peer, reader: Peer) -> None:
    """A fresh token from one member reaches another in a second, also on a busy machine."""
    assert token_seconds(talker, reader) < 1


def trusting() -> ssl.SSLContext:
    """For tests of something else than trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def flood(talker: Peer, reader: Peer, size: int) -> bytes:
    """Say so many bytes in lines of 1000, each read by `reader` before the next; return them."""
    heard = []
    for number in range(size // 1000):
        talker.send(b"%07d" % number + b"x" * 992 + b"\n")
        heard.append(reader.line() + b"\n")
    return b"".join(heard)
