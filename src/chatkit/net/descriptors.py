"""The file descriptors of this process: their limit, and a spare one."""

from __future__ import annotations

import errno
import logging
import math
import socket
from contextlib import suppress

try:
    import resource
except ImportError:  # Windows: there is no limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("chatkit")

# Descriptors of no connection: streams, listener, selectors and wakers, the spare, the history.
RESERVED = 32
# Connections that are about to end: of members that have left, of refused peers. At the most an eighth of the limit.
MAX_ENDING = 256

# Where sockets have errors of their own (Windows), the last one is theirs.
EXHAUSTED = {errno.EMFILE, errno.ENFILE, getattr(errno, "WSAEMFILE", errno.EMFILE)}

# macOS calls the limit infinite, and takes no more than this (OPEN_MAX).
MOST_DESCRIPTORS = 10_240


def raise_fd_limit() -> None:
    """Raise the descriptor limit of this process as far as the system allows, if there is a limit."""
    if not resource:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, MOST_DESCRIPTORS):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return


def ending_places() -> int:
    """Return how many connections that are about to end may be kept at one time."""
    return int(min(MAX_ENDING, _limit() // 8))


def fit_to_fd_limit(clients: int) -> int:
    """Return how many of `clients` connections fit under the descriptor limit; log a warning if not all do."""
    fit = int(max(1, min(clients, _limit() - RESERVED - ending_places())))
    if fit < clients:
        logger.warning("max_clients is %d, not %d: raise the descriptor limit (ulimit -n) for more", fit, clients)
    return fit


def _limit() -> float:
    """Return how many descriptors this process may have."""
    if not resource:
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


class SpareDescriptor:
    """A descriptor for the time when there is no other: to accept a peer, tell it so, and close the connection.

    Args:
        family: of the listening socket. The spare descriptor is a socket of this kind, which needs nothing else.
    """

    def __init__(self, family: int) -> None:
        self._family = family
        self._socket: socket.socket | None = socket.socket(family)

    def give(self) -> None:
        """Free the descriptor for the next accept."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def take(self) -> None:
        """Reserve a descriptor again, if there is one."""
        if not self._socket:
            with suppress(OSError):
                self._socket = socket.socket(self._family)
