"""Sockets of server and client: addresses, options, and a way to wake a selector."""

from __future__ import annotations

import selectors
import socket
import struct
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from chatkit.net.acknowledgements import HAS_TCP_INFO

if TYPE_CHECKING:
    from chatkit.net.transport import Transport

Address = tuple[str, int]

# A flag of each send. Without it the kernel ends a program that left SIGPIPE at its default when its peer is gone.
# Windows has no such signal; macOS has the flag since version 14.
NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)


class QuietSocket(socket.socket):
    """A socket whose sends have NO_SIGNAL: for clients, since asyncio passes no flags."""

    __slots__ = ()

    def send(self, data: Any, flags: int = 0, /) -> int:
        return super().send(data, flags | NO_SIGNAL)

    if hasattr(socket.socket, "sendmsg"):

        def sendmsg(self, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None, /) -> int:
            return super().sendmsg(buffers, ancillary, flags | NO_SIGNAL, address)


def two_tuple(address: Any) -> Address:
    """Return (host, port) of a socket's address, as it can be connected to.

    An IPv4 peer of an IPv6 socket has its IPv4 address. A link-local address has its interface: `fe80::1%eth0`.
    """
    host, port, *rest = address
    if "." in host:
        host = host.removeprefix("::ffff:")
    scope = rest[1] if rest else 0
    return f"{host}%{_interface(scope)}" if scope else host, port


def _interface(number: int) -> str:
    """Return the name of a network interface, or its number if it is gone: both can be connected to."""
    try:
        return socket.if_indextoname(number)
    except OSError:
        return str(number)


def plain_host(host: str) -> str:
    """Return a host as the resolver takes it: an IPv6 address without the brackets with which it is printed."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def host_and_port(address: Address) -> str:
    """Return an address as text: `127.0.0.1:12345`, `[::1]:12345`."""
    host, port = plain_host(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# Of documentation (RFC 5737, RFC 3849): nothing is sent there, but the kernel chooses the address that would send it.
_ELSEWHERE = {"0.0.0.0": ("192.0.2.1",), "::": ("192.0.2.1", "2001:db8::1")}


def host_on_network(host: str) -> str:
    """Return the host under which others on the network reach a server that listens on `host`.

    For all networks that is the machine's address towards the others, or its name if it has none.
    """
    for elsewhere in _ELSEWHERE.get(host, ()):
        family = socket.AF_INET6 if ":" in elsewhere else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((elsewhere, 9))
            return two_tuple(sock.getsockname())[0]
    return socket.gethostname() if host in _ELSEWHERE else host


# Selectors refuse to wait for more than some weeks; waking up once an hour costs nothing.
LONGEST_WAIT_SECONDS = 3600.0

# The handler of a signal that comes just before a wait is called after it; on Windows, that of one during the wait,
# too. So no wait of a main thread is longer.
SIGNAL_SECONDS = 1.0

# For one wait, `poll` is cheaper than a selector that the kernel keeps.
Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.DefaultSelector)

# The sockets that one selector can watch: `select` on Windows has a bound (FD_SETSIZE), the others have none.
WATCHED_SOCKETS = 512 if issubclass(selectors.DefaultSelector, selectors.SelectSelector) else sys.maxsize


# The kernel counts these times in 16 bits.
KERNEL_SECONDS = 32767


def keep_alive(sock: socket.socket, silent_seconds: float, unacknowledged_seconds: float) -> None:
    """Have the kernel notice a peer that is dead or out of reach.

    Args:
        sock: a TCP socket.
        silent_seconds: the time without an answer after which a silent peer is dead.
        unacknowledged_seconds: the time after which a peer that doesn't acknowledge sent bytes is dead, where
            `chatkit.net.acknowledgements` can't tell.
    """
    silent = int(min(silent_seconds, KERNEL_SECONDS))
    # Probe after half of the time, then at an interval with which three unanswered probes take the other half.
    options = [
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", max(1, silent // 2)),
        (socket.IPPROTO_TCP, "TCP_KEEPALIVE", max(1, silent // 2)),  # the same, on macOS
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", max(1, silent // 6)),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    ]
    if not HAS_TCP_INFO:
        # It overrides keep-alive for silent peers (tcp(7)): so it must not be the longer of the two.
        unacknowledged = min(unacknowledged_seconds, silent_seconds, KERNEL_SECONDS)
        options.append((socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(unacknowledged * 1000)))
    for level, name, value in options:
        with suppress(OSError, AttributeError):  # not every system has each; some refuse when the peer is gone
            sock.setsockopt(level, getattr(socket, name), value)


def listen_on(family: int, address: tuple[Any, ...], *, backlog: int, dual: bool) -> socket.socket:
    """Return a listening, non-blocking socket.

    Args:
        dual: whether an IPv6 socket accepts IPv4 peers, too.

    Raises:
        OSError: the port can't be used.
    """
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # On Windows SO_REUSEADDR lets another program take the port, too. Elsewhere it doesn't, and without it the
        # connections of an earlier server (TIME_WAIT) keep the port.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def reset_on_close(sock: socket.socket | Transport) -> None:
    """Have the close of `sock` send a reset, so that half a line never looks like a whole one with a clean end."""
    with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def break_off(sock: socket.socket | Transport) -> None:
    """Have reads of a socket whose peer is gone find an end, and its close send a reset.

    The kernel may hold half a line: no end of stream may follow, should the peer come back.
    """
    reset_on_close(sock)
    with suppress(OSError):  # the kernel has given up the peer, too
        sock.shutdown(socket.SHUT_RD)


class Waker:
    """A socket pair that wakes a thread in a selector.

    Operations: any thread calls `wake`; the woken thread calls `clear`, then looks for its work. Goal: `wake` is cheap
    when the thread is being woken already. Plan: a flag says that a byte is under way; only the first `wake` sends one.

    Close it only when no thread calls `wake` any more: the number of a closed descriptor is soon reused.

    Args:
        selector: where the reading end is registered, with `data` None.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._awake = False
        with ExitStack() as stack:
            self._reader, self._writer = socket.socketpair()
            stack.enter_context(self._reader)
            stack.enter_context(self._writer)
            self._reader.setblocking(False)
            self._writer.setblocking(False)
            selector.register(self._reader, selectors.EVENT_READ, None)
            self._resources = stack.pop_all()

    def wake(self) -> None:
        """Wake the thread; safe from any thread."""
        if not self._awake:
            self._awake = True
            with suppress(BlockingIOError):
                self._writer.send(b"\0")

    def wait(self, seconds: float) -> None:
        """Wait for a `wake`, at most `seconds`, regardless of other events in the selector."""
        self._reader.settimeout(seconds)
        try:
            self._reader.recv(4096)
            self._awake = False
        except TimeoutError:
            pass
        finally:
            self._reader.setblocking(False)

    def clear(self) -> None:
        """Reset it; the woken thread calls this before it looks for its work.

        The order matters. If the flag were cleared first, a `wake` in between would set it again, and its byte would be
        read here: the flag would stay set, and no later `wake` would send a byte.
        """
        with suppress(BlockingIOError):
            self._reader.recv(4096)
        self._awake = False

    def close(self) -> None:
        self._resources.close()
