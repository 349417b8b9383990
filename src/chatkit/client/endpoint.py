"""A server's place, and the way to it."""

from __future__ import annotations

import math
import os
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from errno import ECONNREFUSED, EINPROGRESS, EWOULDBLOCK
from typing import TYPE_CHECKING

from chatkit.client.cancel import CancelToken, deadline_of, wait
from chatkit.net.acknowledgements import AckWatch
from chatkit.net.sockets import QuietSocket, keep_alive, plain_host, reset_on_close

if TYPE_CHECKING:
    import ssl

# Twice as long as a room takes for its last lines (Limits.drain_seconds), and as long as a person waits.
EXIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's place and how to reach it; the fields are arguments of `Client`, and two more.

    Attributes:
        answer_seconds: the time for the answers to the opening; None for `timeout`.
        quiet_seconds: the time after which text without a line end counts as a line, for a screen.
    """

    host: str
    port: int
    tls: bool | ssl.SSLContext
    timeout: float | None
    silent_seconds: float
    unacknowledged_seconds: float
    exit_seconds: float
    answer_seconds: float | None = None
    quiet_seconds: float = math.inf

    def __post_init__(self) -> None:
        for name in ("silent_seconds", "unacknowledged_seconds", "exit_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above zero, not {getattr(self, name)!r}")

    def ack_watch(self, sock: socket.socket) -> AckWatch:
        """Return a watch over what the server acknowledges."""
        return AckWatch(sock, min(self.unacknowledged_seconds, self.silent_seconds))

    @property
    def tls_name(self) -> str:
        """Return the name or address that the certificate must have: without brackets, interface and final dot."""
        return plain_host(self.host).partition("%")[0].removesuffix(".")


class NoAnswer(TimeoutError):
    """The server stands, and hasn't answered the opening in time."""


def locate(host: str, port: int, tls: bool | ssl.SSLContext) -> tuple[str, int, bool | ssl.SSLContext]:
    """Return these arguments of `Client`, with those of a URL in place of `host` taken from it.

    Raises:
        ValueError: it is no URL, or `tls` contradicts it.
    """
    if "://" not in host:
        return host, port, tls
    from chatkit.net.urls import parse_url  # loaded only when it is needed

    url = parse_url(host)
    if tls and not url.tls:
        raise ValueError("tls needs chats:// in place of chat://")
    if url.fingerprint:
        from chatkit.tls import client_context

        if not isinstance(tls, bool):
            raise ValueError("a context and a fingerprint exclude each other")
        tls = client_context(fingerprint=url.fingerprint)
    return url.host, url.port or port, tls or bool(url.tls)


def connect(endpoint: Endpoint, cancel: CancelToken | None) -> socket.socket:
    """Return a connected, non-blocking socket. Each address of the host is tried.

    Raises:
        OSError: why the last address failed.
        Cancelled: by `cancel`.
    """
    failure = OSError("the host has no address")
    host = plain_host(endpoint.host)
    for family, kind, protocol, _, address in socket.getaddrinfo(host, endpoint.port, type=socket.SOCK_STREAM):
        try:
            with new_socket(family, kind, protocol, endpoint) as sock:
                code = sock.connect_ex(address)
                if code in (EINPROGRESS, EWOULDBLOCK):  # the latter on Windows
                    wait(sock, selectors.EVENT_WRITE, deadline_of(endpoint.timeout), cancel)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
            return sock
        except OSError as error:
            failure = error
    raise failure


@contextmanager
def new_socket(family: int, kind: int, protocol: int, endpoint: Endpoint) -> Iterator[socket.socket]:
    """Yield a non-blocking socket, to be connected in the block. Set its options then; close it if a step fails.

    Raises:
        ConnectionRefusedError: it is connected to itself.
    """
    with ExitStack() as stack:
        sock = stack.enter_context(QuietSocket(family, kind, protocol))
        sock.setblocking(False)
        yield sock
        _prepare(sock, endpoint)
        stack.pop_all()


def _prepare(sock: socket.socket, endpoint: Endpoint) -> None:
    """Set the options of a connected socket.

    Raises:
        ConnectionRefusedError: it is connected to itself.
    """
    if _is_connected_to_itself(sock):
        reset_on_close(sock)  # an end in order would keep the port in use for a minute
        raise ConnectionRefusedError(ECONNREFUSED, os.strerror(ECONNREFUSED))
    keep_alive(sock, endpoint.silent_seconds, endpoint.unacknowledged_seconds)
    with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _is_connected_to_itself(sock: socket.socket) -> bool:
    """Tell whether nobody listens there, and the kernel chose the server's port for this side (RFC 9293, 3.5)."""
    try:
        return bool(sock.getpeername() == sock.getsockname())
    except OSError:  # the server has gone already
        return False
