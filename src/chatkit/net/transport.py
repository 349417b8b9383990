"""A connected, non-blocking stream: plain here, TLS in `tls_transport`, with the same verbs.

Each verb is bound once: a platform that lacks a system call matters here only.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from chatkit.net.sockets import NO_SIGNAL


class Transport(Protocol):
    """The interface of plain and TLS streams: the verbs of a socket, and a few more.

    Attributes:
        is_ready: whether data can be sent and received; with TLS, only after the handshake.
        has_unsent: whether the transport itself holds (encrypted) bytes that the kernel hasn't taken.
        has_unread: whether the kernel may hold more than the last `recv` took, also if that took nothing.
        at_eof: whether the transport knows about the peer's end before `recv` returns b"".
        taken_bytes: the number of encrypted bytes that the transport has handed to the kernel so far.
    """

    is_ready: bool
    has_unread: bool
    at_eof: bool
    taken_bytes: int

    @property
    def has_unsent(self) -> bool: ...
    def fileno(self) -> int: ...
    def recv(self, max_bytes: int, /) -> bytes: ...
    def send(self, data: bytes | bytearray | memoryview, flags: int = 0, /) -> int: ...
    def send_pieces(self, pieces: Sequence[bytes | memoryview], /) -> int: ...
    def take_sealed(self) -> int: ...
    def flush(self) -> bool: ...
    def shutdown(self, how: int, /) -> None: ...
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def close(self) -> None: ...


class PlainTransport(socket.socket):
    """A socket with the verbs of a `Transport`.

    `send` is the socket's own, which costs nothing more: pass it NO_SIGNAL.
    """

    __slots__ = ()

    is_ready = True
    has_unsent = False
    has_unread = False  # the length of what `recv` returned says it
    at_eof = False
    taken_bytes = 0

    @classmethod
    def of(cls, sock: socket.socket) -> PlainTransport:
        """Take over the descriptor of `sock`, which is detached and can't be used any more."""
        return cls(sock.family, sock.type, sock.proto, fileno=sock.detach())

    def flush(self) -> bool:
        """Return True: a plain transport holds no bytes."""
        return True

    def take_sealed(self) -> int:
        """Return 0: a plain transport seals nothing."""
        return 0

    def send_pieces(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Send several pieces, by one call and without a copy."""
        return self.sendmsg(pieces, (), NO_SIGNAL)

    def _send_joined(self, pieces: Sequence[bytes | memoryview]) -> int:
        return self.send(b"".join(pieces), NO_SIGNAL)

    if not hasattr(socket.socket, "sendmsg"):  # as on Windows
        send_pieces = _send_joined
