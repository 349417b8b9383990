"""The descriptors of this process: how many there may be, and one to spare."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import suppress

logger = logging.getLogger("chatkit")

# Beside its members a server needs some: streams, listener, selectors and wakers, the spare, refused connections.
RESERVED = 32

EXHAUSTED = {errno.EMFILE, errno.ENFILE}


def raise_fd_limit() -> None:
    """Allow this process as many descriptors as the system lets it, where the system has such a limit."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # some systems say "unlimited" and mean less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def fit_to_fd_limit(clients: int) -> int:
    """So many of `clients` connections fit under the descriptor limit; a warning if these are fewer."""
    if sys.platform == "win32":
        return clients
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fit = clients if soft == resource.RLIM_INFINITY else max(1, min(clients, soft - RESERVED))
    if fit < clients:
        logger.warning("max_clients is %d, not %d: the descriptor limit", fit, clients)
    return fit


class SpareDescriptor:
    """A descriptor kept for the moment when there is no other: to accept a peer, tell it so, and close it."""

    def __init__(self) -> None:
        self._descriptor: int | None = os.open(os.devnull, os.O_RDONLY)

    def give(self) -> None:
        """Free it for the next accept."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def take(self) -> None:
        """Have one again, if there is one."""
        if self._descriptor is None:
            with suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY)
