"""TLS in memory (`ssl.MemoryBIO`), between a non-blocking socket and its user."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress

from chatkit.net.sockets import NO_SIGNAL
from chatkit.protocol.replies import SPEAKS_TLS
from chatkit.tls import WrongCertificate

# The maximum that is encrypted before the kernel takes it: four records of the maximum size (RFC 8446, 5.1) per call.
AHEAD_BYTES = 64 * 1024

# The first byte of a handshake record. A peer that begins with another byte doesn't speak TLS; it gets plain text.
HANDSHAKE = 0x16
# The client's part of a handshake takes some 2 KB; the TLS object keeps all of it until it is complete.
MAX_HANDSHAKE_BYTES = 16 * 1024
# A request for new keys (RFC 8446, 4.6.3) takes 27 bytes, and as much time as a hundred lines. So a server reads few
# bytes at a time: seventy of these requests take 2 ms, and then others have their turn. After each record of which a
# quarter or more is data it reads twice as many, after others few again.
FIRST_READ_BYTES, READ_BYTES = 2 * 1024, 16 * 1024
RECORD_BYTES = 16 * 1024 + 256  # the maximum (RFC 8446, 5.2)

NOT_TLS = f"*** {SPEAKS_TLS}\n".encode()


class TlsTransport:
    """A connected, non-blocking socket inside TLS, with the verbs of a `Transport`.

    Plan: `send` encrypts a part of the data, and hands it to the kernel. Bytes that `send` didn't count must be sent
    again, as with `SSL_write`: a part of them may be encrypted already (`_sealed`), and is not encrypted again.

    Args:
        sock: the socket, which it owns.
        context: the TLS context.
        server_hostname: the name in the server's certificate, for a client; None for the server's side.

    Attributes:
        is_ready: whether the handshake is done.
        has_unread: whether the kernel may hold more than the last `recv` took.
        at_eof: whether the peer has announced that it sends no more.
        taken_bytes: the number of encrypted bytes that the kernel has taken so far.

    Threads: one may send while another receives. No lock is held while waiting: the socket is non-blocking.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self.is_ready = False
        self.has_unread = False
        self.at_eof = False
        self.taken_bytes = 0
        self._sock = sock
        self._is_server = server_hostname is None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=self._is_server, server_hostname=server_hostname
        )
        self._tls_lock = threading.Lock()  # around the TLS object, which isn't thread-safe
        self._flush_lock = threading.Lock()  # so that encrypted bytes are sent in order
        self._encrypted = b""
        self._sealed = 0  # the number of plain bytes that are encrypted but not counted by `send` yet
        self._has_begun = False  # the peer has sent something, or its end
        self._handshake_bytes = 0
        self._read_bytes = FIRST_READ_BYTES  # the maximum of the next read, for a server
        self._since_data = 0  # the bytes that were read since there was data
        self._is_broken = False  # a send has failed
        self._eof_follows = False
        if not self._is_server:
            self._shake_hands()

    @property
    def has_unsent(self) -> bool:
        """Whether encrypted bytes, or the end of stream, wait for the kernel."""
        return not self._is_broken and bool(self._encrypted or self._outgoing.pending or self._eof_follows)

    @property
    def sealed(self) -> bool:
        """Whether bytes that `send` hasn't counted yet are encrypted: the peer may receive them."""
        return bool(self._sealed)

    def take_sealed(self) -> int:
        """Return the number of bytes that are encrypted and that `send` hasn't counted; now they count as sent."""
        sealed, self._sealed = self._sealed, 0
        return sealed

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv(self, max_bytes: int) -> bytes:
        """Return bytes from the peer, or b"" at its end.

        Raises:
            BlockingIOError: there are none yet.
            OSError: the connection is broken; `ssl.SSLError` for a fault of TLS.
        """
        if self.at_eof:
            return b""
        size = min(max_bytes, self._read_bytes) if self.is_ready and self._is_server else max_bytes
        self.has_unread = False
        data = self._sock.recv(size)
        self.has_unread = len(data) == size
        had_begun, self._has_begun = self._has_begun, True
        if data and not had_begun and self._is_server and data[0] != HANDSHAKE:
            self._sock.send(NOT_TLS, NO_SIGNAL)
            raise ssl.SSLError("the peer doesn't speak TLS")
        try:
            with self._tls_lock:
                self._incoming.write(data) if data else self._incoming.write_eof()
                self.is_ready = self.is_ready or self._handshake()
                plain = self._decrypt() if self.is_ready else b""
        finally:
            with suppress(OSError):  # the next write reports it
                self.flush()  # an answer of the handshake, or the alert for an error
        self._count(len(data), len(plain))
        if not plain and not self.at_eof:
            if not data:
                raise ConnectionResetError("the connection was cut inside TLS")
            raise BlockingIOError
        return plain

    def _count(self, received: int, plain: int) -> None:
        """Bound the work and the memory of TLS itself, after a read of so many bytes, of which so many were data.

        Raises:
            ssl.SSLError: the peer exceeds a bound.
        """
        if not self.is_ready and self._is_server:
            self._handshake_bytes += received
            if self._handshake_bytes > MAX_HANDSHAKE_BYTES:
                raise ssl.SSLError("the peer's handshake is too long")
        if self._outgoing.pending > AHEAD_BYTES:  # each request for new keys has an answer (RFC 8446, 4.6.3)
            raise ssl.SSLError("the peer doesn't read the answers of TLS")
        self._since_data += received
        if plain or self._since_data > RECORD_BYTES:
            is_data = 4 * plain >= self._since_data
            self._read_bytes = min(2 * self._read_bytes, READ_BYTES) if is_data else FIRST_READ_BYTES
            self._since_data = 0

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Send bytes; `flags` make no difference. Returns how many of them the kernel has taken.

        Raises:
            BlockingIOError: it has taken none.
            OSError: the connection is broken.
        """
        sent, view = 0, memoryview(data)
        while self.is_ready and self.flush():
            taken = min(self._sealed, len(view) - sent)  # the others belong to the data that is sent next
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
        """Hand encrypted bytes to the kernel. Returns whether it took all."""
        with self._flush_lock:
            while self._encrypted or self._seal():
                try:
                    taken = self._sock.send(self._encrypted, NO_SIGNAL)
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
        """Take encrypted bytes from the TLS object."""
        with self._tls_lock:
            self._encrypted = self._outgoing.read()
        return self._encrypted

    def shutdown(self, how: int) -> None:
        """End the sending, in TLS too.

        A peer that has sent nothing gets plain text first: it may not know that this is TLS. SHUT_RDWR ends without a
        TLS close, so that half a line never looks like a whole one.
        """
        if how != socket.SHUT_WR:
            self._sock.shutdown(how)
            return
        if self._is_server and not self._has_begun:
            self._sock.send(NOT_TLS, NO_SIGNAL)
        with self._tls_lock, suppress(ssl.SSLError, ValueError):  # the peer's own close may still be missing
            self._tls.unwrap()
        self._eof_follows = True
        self.flush()

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return self._sock.getsockopt(level, option, size)

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
        """Take a step of the handshake. Returns whether it is done."""
        assert self._tls_lock.locked()
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except WrongCertificate:
            self._outgoing.read()
            raise
        return True

    def _decrypt(self) -> bytes:
        """Decrypt everything that has arrived: the selector doesn't know about decrypted bytes."""
        parts = []
        try:
            while part := self._tls.read(AHEAD_BYTES):
                parts.append(part)
            self.at_eof = True
        except ssl.SSLZeroReturnError:  # the same, after our own close
            self.at_eof = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:  # ended without a close: complete records before it count
            pass
        return b"".join(parts)
