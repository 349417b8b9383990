"""TLS over memory, between a socket and whoever uses it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress

from chatkit.protocol.replies import SPEAKS_TLS
from chatkit.tls import WrongCertificate

# So much is encrypted ahead of what the kernel takes: four records of the longest kind (RFC 8446, 5.1) in one call.
AHEAD_BYTES = 64 * 1024

# The first byte of a handshake record. Who sends another one speaks no TLS, and gets an answer that it can read.
HANDSHAKE = 0x16
NOT_TLS = f"*** {SPEAKS_TLS}\n".encode()


class TlsTransport:
    """A connected, non-blocking socket inside TLS, with a socket's verbs.

    Who sends must send what wasn't taken once more, as with `SSL_write`: what is encrypted already is on its way.

    is_ready: whether the handshake is done. has_unsent: whether something encrypted waits for the kernel to take it.
    at_eof: whether the peer has said that it sends no more. taken_bytes: how much the kernel has taken so far.

    Threads: one may send while another receives. The locks are never held while something waits: the socket is
    non-blocking.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self.is_ready = False
        self.at_eof = False
        self.taken_bytes = 0
        self._sock = sock
        self._is_server = server_hostname is None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=self._is_server, server_hostname=server_hostname
        )
        self._tls_lock = threading.Lock()  # around the TLS object, which isn't safe
        self._flush_lock = threading.Lock()  # so that what is encrypted goes out in order
        self._encrypted = b""
        self._sealed = 0  # so many bytes of what was to be sent are in `_encrypted`
        self._begun = False
        self._is_broken = False  # nothing can be sent any more
        self._eof_follows = False
        if not self._is_server:
            self._shake_hands()

    @property
    def has_unsent(self) -> bool:
        return not self._is_broken and bool(self._encrypted or self._outgoing.pending or self._eof_follows)

    @property
    def sealed(self) -> bool:
        """Whether something that `send` has not yet counted is encrypted: the peer may get it."""
        return bool(self._sealed)

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv(self, max_bytes: int) -> bytes:
        """What the peer said; b"" at its end. BlockingIOError: nothing yet. OSError, also ssl.SSLError: it broke."""
        if self.at_eof:
            return b""
        data = self._sock.recv(max_bytes)
        begun, self._begun = self._begun, True
        if data and not begun and self._is_server and data[0] != HANDSHAKE:
            self._sock.send(NOT_TLS)
            raise ssl.SSLError("no TLS")
        try:
            with self._tls_lock:
                self._incoming.write(data) if data else self._incoming.write_eof()
                self.is_ready = self.is_ready or self._handshake()
                plain = self._decrypt() if self.is_ready else b""
        finally:
            with suppress(OSError):  # the next write says so
                self.flush()  # an answer of the handshake, or the alert that says what is wrong
        if self._outgoing.pending > AHEAD_BYTES:  # it asks for new keys (RFC 8446, 4.6.3) and reads none
            raise ssl.SSLError("it reads no answers")
        if not plain and not self.at_eof:
            if not data:
                raise ConnectionResetError("the connection was cut inside TLS")
            raise BlockingIOError
        return plain

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes of `data` are on their way. BlockingIOError: none."""
        sent, view = 0, memoryview(data)
        while self.is_ready and self.flush():
            taken = min(self._sealed, len(view) - sent)  # the rest is of what will be sent next
            sent, self._sealed = sent + taken, self._sealed - taken
            if sent == len(view):
                break
            with self._tls_lock:
                self._sealed = self._tls.write(view[sent : sent + AHEAD_BYTES])
        if not sent:
            raise BlockingIOError
        return sent

    def send_pieces(self, pieces: Sequence[bytes | memoryview]) -> int:
        return self.send(b"".join(pieces))

    def flush(self) -> bool:
        """Hand to the kernel what is encrypted; whether it took all."""
        with self._flush_lock:
            while self._encrypted or self._seal():
                try:
                    taken = self._sock.send(self._encrypted)
                except BlockingIOError:
                    return False
                except OSError:
                    self._is_broken = True
                    raise
                self.taken_bytes += taken
                self._encrypted = self._encrypted[taken:]
            if self._eof_follows:
                self._eof_follows = False
                self._sock.shutdown(socket.SHUT_WR)
            return True

    def _seal(self) -> bytes:
        """What the TLS object has for the peer."""
        with self._tls_lock:
            self._encrypted = self._outgoing.read()
        return self._encrypted

    def shutdown(self, how: int) -> None:
        """Say in TLS, too, that no more is sent; to a peer that has said nothing, in words.

        SHUT_RDWR is the hard way: it says nothing, so that half a line never looks like a whole one.
        """
        if how != socket.SHUT_WR:
            self._sock.shutdown(how)
            return
        if self._is_server and not self._begun:
            self._sock.send(NOT_TLS)
        with self._tls_lock, suppress(ssl.SSLError, ValueError):  # the peer needn't have said the same yet
            self._tls.unwrap()
        self._eof_follows = True
        self.flush()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self._sock.setsockopt(level, option, value)

    def getsockname(self) -> object:
        return self._sock.getsockname()

    def close(self) -> None:
        self._sock.close()

    def _shake_hands(self) -> None:
        with self._tls_lock:
            self._handshake()
        self.flush()

    def _handshake(self) -> bool:
        """A step of the handshake; whether it was the last."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except WrongCertificate:
            self._outgoing.read()
            raise
        return True

    def _decrypt(self) -> bytes:
        """All that has arrived: the selector doesn't know what is decrypted already."""
        parts = []
        try:
            while part := self._tls.read(AHEAD_BYTES):
                parts.append(part)
            self.at_eof = True
        except ssl.SSLZeroReturnError:  # the same, after our own end
            self.at_eof = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:  # cut: whole records before it count
            pass
        return b"".join(parts)
