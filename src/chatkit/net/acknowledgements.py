"""Whether a peer's kernel answers: the acknowledgements of a connection, as Linux tells them.

A peer is gone if its kernel answers nothing for a time although it had something to answer. A peer that is alive but
reads nothing isn't gone: its kernel answers that its window is zero. TCP_USER_TIMEOUT ends both, TCP_INFO shows which.

| what was sent | the peer | `retransmits` | `probes` | last acknowledgement |
|---|---|---|---|---|
| all acknowledged | any | 0 | 0 | any time ago |
| bytes on their way | gone | 1, 2, ... | 0 | grows |
| bytes that its window keeps back | gone | 0 | 1, 2, ... | grows |
| the same | reads nothing | 0 | 0, for a moment 1 | at a probe, every two minutes or more often |
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
import sys
import time
from typing import Protocol

# Other systems have the option, too, in another layout.
HAS_TCP_INFO = hasattr(socket, "TCP_INFO") and sys.platform in ("linux", "android")

# Of struct tcp_info (linux/tcp.h): retransmits, probes, unacked, last_ack_recv in ms, notsent_bytes (since Linux 4.6).
_FIELDS = struct.Struct("=2xBB20xI28xI84xI")

# The number of looks in the time after which a peer is gone: so it is noticed two thirds of that time later at most.
LOOKS = 3
# The kernel's times are that inexact.
TICK_SECONDS = 0.05


class Socket(Protocol):
    """The part of a socket that is needed here."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def unanswered_since(sock: Socket, since: float, now: float) -> float | None:
    """Look whether a peer's kernel answers.

    Args:
        sock: a TCP socket.
        since: the result of the look before; at first the time of a send before which everything was acknowledged.
        now: the time; all times are those of `time.monotonic`.

    Returns:
        The time since when, as far as is known, it has left something unanswered; None if everything is acknowledged.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
        retransmits, probes, unacked, silent_ms, unsent = _FIELDS.unpack(info)
    except (OSError, struct.error):  # no TCP, or closed, or an old Linux
        return None
    if not unacked and not unsent:
        return None
    # A probe without an answer may have been sent just now.
    has_unanswered = retransmits > 0 or probes > 1
    has_answered = now - silent_ms / 1000 > since - TICK_SECONDS
    return since if has_unanswered and not has_answered else now


class AckWatch:
    """The watch over what a server acknowledges, for a client.

    Operations: `sent` after each send, `is_gone` when it is time to look. Goal: nothing is looked at while everything
    is acknowledged. Plan: a send sets the time of the next look, unless it is set; a look that finds everything
    acknowledged unsets it.

    Args:
        sock: the client's socket.
        seconds: the time after which a server that acknowledges nothing is gone.

    Attributes:
        look_at: the time (`time.monotonic`) of the next look; `math.inf` while there is nothing to look at.
        interval: the seconds between two looks; `math.inf` where the kernel itself gives up the server.

    Threads: one may send while another looks.
    """

    def __init__(self, sock: Socket, seconds: float) -> None:
        self.look_at = math.inf
        self.interval = seconds / LOOKS if HAS_TCP_INFO else math.inf
        self._sock = sock
        self._seconds = seconds
        self._since = 0.0

    def sent(self) -> None:
        """Note a send."""
        if self.look_at == math.inf:
            self._since = time.monotonic()
            self.look_at = self._since + self.interval

    def is_gone(self) -> bool:
        """Look, if it is time to, and tell whether the server is gone."""
        now = time.monotonic()
        if now < self.look_at:
            return False
        self.look_at = math.inf  # before the look: a send during it must set the time again
        since = unanswered_since(self._sock, self._since, now)
        if since is None:
            return False
        self._since, self.look_at = since, now + self.interval
        return now - since >= self._seconds


def gone_error() -> OSError:
    """Return the error of the kernel for a peer that is gone."""
    return OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
