"""What server and client both need of sockets and selectors."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatkit.net.transport import TlsSocket
import struct
from contextlib import suppress

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


def reset_on_close(sock: socket.socket | TlsSocket) -> None:
    """From now on closing `sock` sends a reset, so that half a line never looks like a whole one and a clean end."""
    with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
