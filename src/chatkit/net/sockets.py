"""Sockets of server and client: addresses as they are shown, options, a way to wake a selector."""

from __future__ import annotations

import selectors
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatkit.net.transport import Transport

Address = tuple[str, int]


def two_tuple(address: Any) -> Address:
    """(host, port) of a socket's address; an IPv4 peer of an IPv6 socket shows its IPv4 address."""
    host, port, *_ = address
    if "." in host:
        host = host.removeprefix("::ffff:")
    return sys.intern(host), port  # one string for all members of one address


def host_and_port(address: Address) -> str:
    """`127.0.0.1:12345`, `[::1]:12345`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# Selectors refuse to wait for more than some weeks; who waits so long may look up once an hour.
LONGEST_WAIT_SECONDS = 3600.0


# The kernel counts these times in 16 bits.
KERNEL_SECONDS = 32767


def keep_alive(sock: socket.socket, silent_seconds: float, unacknowledged_seconds: float) -> None:
    """Have the kernel notice a peer that is dead, or out of reach: as `Limits` has it, in seconds."""
    silent = int(min(silent_seconds, KERNEL_SECONDS))
    # Where it is set, this decides for silent peers as well (tcp(7)): so it is never the longer of the two.
    unacknowledged = min(unacknowledged_seconds, silent_seconds, KERNEL_SECONDS)
    # Ask after half the time, then so often that three unanswered questions fill the rest.
    wanted = [
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", max(1, silent // 2)),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", max(1, silent // 6)),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(unacknowledged * 1000)),
    ]
    for level, name, value in wanted:
        with suppress(OSError, AttributeError):  # not every system has each; some refuse when the peer is gone
            sock.setsockopt(level, getattr(socket, name), value)


def reset_on_close(sock: socket.socket | Transport) -> None:
    """From now on closing `sock` sends a reset, so that half a line never looks like a whole one and a clean end."""
    with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Waker:
    """A socket pair whose reading end is registered in `selector`, with `data` None.

    Close it only when nobody calls `wake` any more: a closed descriptor's number is soon somebody else's.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._awake = False
        selector.register(self._reader, selectors.EVENT_READ, None)

    def wake(self) -> None:
        """Safe from any thread; cheap when the thread is already being woken."""
        if not self._awake:
            self._awake = True
            with suppress(BlockingIOError):
                self._writer.send(b"\0")

    def wait(self, seconds: float) -> None:
        """Wait until it is woken, whatever else the selector has, at most so many seconds."""
        self._reader.settimeout(seconds)
        try:
            self._reader.recv(4096)
            self._awake = False
        except TimeoutError:
            pass
        finally:
            self._reader.setblocking(False)

    def clear(self) -> None:
        """For the woken thread, before it looks for its work.

        The order matters: with the flag cleared first, a byte sent in between would be swallowed, the flag stay
        set, and nobody wake the thread again.
        """
        with suppress(BlockingIOError):
            self._reader.recv(4096)
        self._awake = False

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
