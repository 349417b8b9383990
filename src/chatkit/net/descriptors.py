"""The file descriptors of this process: their limit, and a spare one."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import suppress

logger = logging.getLogger("chatkit")

# Descriptors that are not members': streams, listener, selectors and wakers, the spare, refused connections.
RESERVED = 32

EXHAUSTED = {errno.EMFILE, errno.ENFILE}


def raise_fd_limit() -> None:
    """Raise the descriptor limit of this process as far as the system allows, if there is a limit."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # some systems say "unlimited" and mean less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def fit_to_fd_limit(clients: int) -> int:
    """Return how many of `clients` connections fit under the descriptor limit; log a warning if not all do."""
    if sys.platform == "win32":
        return clients
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fit = clients if soft == resource.RLIM_INFINITY else max(1, min(clients, soft - RESERVED))
    if fit < clients:
        logger.warning("max_clients is %d, not %d: raise the descriptor limit (ulimit -n) for more", fit, clients)
    return fit


class SpareDescriptor:
    """A descriptor for the time when there is no other: to accept a peer, tell it so, and close the connection."""

    def __init__(self) -> None:
        self._descriptor: int | None = os.open(os.devnull, os.O_RDONLY)

    def give(self) -> None:
        """Free the descriptor for the next accept."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def take(self) -> None:
        """Reserve a descriptor again, if there is one."""
        if self._descriptor is None:
            with suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY)
