"""TLS: contexts with sensible settings, and a layer over memory between a socket and whoever uses it."""

from __future__ import annotations

import hmac
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

# So much is encrypted ahead of what the kernel takes: four records of the longest kind (RFC 8446, 5.1) in one call.
AHEAD_BYTES = 64 * 1024

# The first byte of a handshake record. Who sends another one speaks no TLS, and gets an answer that it can read.
HANDSHAKE = 0x16
NOT_TLS = b"*** this port speaks TLS (chat-client --tls)\n"


def server_context(certificate: str | Path, key: str | Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 and newer with this certificate (PEM, the chain after it) and key (by default in the same file).

    OSError: a file can't be read. ssl.SSLError, an OSError too: it holds no such thing, or the two don't match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


class WrongCertificate(ssl.SSLCertVerificationError):
    """The server's certificate isn't the one that is trusted. fingerprint: its own."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(f"the server's certificate is another one, with the fingerprint {fingerprint}")
        self.fingerprint = fingerprint


class PinnedObject(ssl.SSLObject):
    """Looks at the certificate before the last word of the handshake is sent: the server must not think we are in."""

    def do_handshake(self) -> None:
        super().do_handshake()
        assert isinstance(self.context, PinnedContext)
        found = fingerprint_of(self.getpeercert(binary_form=True) or b"")
        if not hmac.compare_digest(found, self.context.fingerprint):
            raise WrongCertificate(found)


class PinnedContext(ssl.SSLContext):
    """Trusts one certificate and no other, whoever signed it. fingerprint: its SHA-256, in small hexadecimal digits."""

    fingerprint: str
    sslobject_class = PinnedObject


def client_context(*, ca: str | Path | None = None, fingerprint: str | None = None) -> ssl.SSLContext:
    """TLS 1.2 and newer that checks the server's certificate and name.

    ca: a file of certificates (PEM) to trust instead of the system's.
    fingerprint: SHA-256 of the one certificate to trust, in place of all other checks. 64 hexadecimal digits, with or
        without colons.
    OSError: `ca` can't be read. ValueError: `fingerprint` is none.
    """
    if fingerprint is None:
        context = ssl.create_default_context(cafile=ca)
    else:
        context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.fingerprint = plain_fingerprint(fingerprint)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def plain_fingerprint(fingerprint: str) -> str:
    """A fingerprint in small digits without colons. ValueError: it isn't one."""
    plain = fingerprint.strip().replace(":", "").lower()
    if len(plain) != 64 or set(plain) - set("0123456789abcdef"):
        raise ValueError("a fingerprint is 64 hexadecimal digits, as chat-server prints it")
    return plain


def fingerprint_of(certificate: bytes) -> str:
    """The fingerprint of a certificate in DER."""
    return sha256(certificate).hexdigest()


class TlsSocket:
    """A connected, non-blocking socket inside TLS, with a socket's verbs.

    Who sends must send what wasn't taken once more, as with `SSL_write`: what is encrypted already is on its way.

    ready: whether the handshake is done. unsent: whether something encrypted waits for the kernel to take it.
    at_eof: whether the peer has said that it sends no more. taken_bytes: how much the kernel has taken so far.

    Threads: one may send while another receives. The locks are never held while something waits: the socket is
    non-blocking.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self.ready = False
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
        self._eof_follows = False
        if not self._is_server:
            self._shake_hands()

    @property
    def unsent(self) -> bool:
        return bool(self._encrypted or self._outgoing.pending or self._eof_follows)

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
                self.ready = self.ready or self._handshake()
                plain = self._decrypt() if self.ready else b""
        finally:
            with suppress(OSError):  # the next write says so
                self.flush()  # an answer of the handshake, or the alert that says what is wrong
        if not plain and not self.at_eof:
            if not data:
                raise ConnectionResetError("the connection was cut inside TLS")
            raise BlockingIOError
        return plain

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes of `data` are on their way. BlockingIOError: none."""
        sent, view = 0, memoryview(data)
        while self.ready and self.flush():
            sent, self._sealed = sent + self._sealed, 0
            if sent >= len(view):
                break
            with self._tls_lock:
                self._sealed = self._tls.write(view[sent : sent + AHEAD_BYTES])
        if not sent:
            raise BlockingIOError
        return sent

    def sendmsg(self, pieces: Sequence[bytes | memoryview]) -> int:
        return self.send(b"".join(pieces))

    def flush(self) -> bool:
        """Hand to the kernel what is encrypted; whether it took all."""
        with self._flush_lock:
            while self._encrypted or self._seal():
                try:
                    taken = self._sock.send(self._encrypted)
                except BlockingIOError:
                    return False
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
        """Say in TLS, too, that no more is sent; to a peer that has said nothing, in words."""
        if self._is_server and not self._begun:
            self._sock.send(NOT_TLS)
        with self._tls_lock, suppress(ssl.SSLError, ValueError):  # the peer needn't have said the same yet
            self._tls.unwrap()
        self._eof_follows = how == socket.SHUT_WR
        self.flush()
        if how != socket.SHUT_WR:
            self._sock.shutdown(how)

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
