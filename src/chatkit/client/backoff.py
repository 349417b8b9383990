"""The delay before each attempt to come back, and the errors that end the attempts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from chatkit.errors import ConnectionClosed

# The first is short enough to hide a restart of the server. The longest is of the order that NATS and gRPC clients use.
FIRST_SECONDS = 0.2
LONGEST_SECONDS = 30.0
# A connection that lasted less doesn't reset the delay: clients must not hammer a server that drops everyone at once.
STEADY_SECONDS = 30.0


class Backoff:
    """Exponential delays with full jitter, so that clients that lost one server don't return at one time.

    As in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    def __init__(
        self,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with the shortest delay.

        Args:
            uniform: returns a random number between two bounds.
            clock: returns the time in seconds.
        """
        self._uniform = uniform
        self._clock = clock
        self._max_seconds = FIRST_SECONDS
        self._connected_at = clock()

    def connected(self) -> None:
        """Note that a connection was made."""
        self._connected_at = self._clock()

    def disconnected(self) -> None:
        """Note that the connection was lost. Start with the shortest delay again if it had lasted."""
        if self._clock() - self._connected_at >= STEADY_SECONDS:
            self._max_seconds = FIRST_SECONDS

    def delay(self) -> float:
        """Return the seconds to wait before the next attempt, and double the bound for the one after it."""
        bound, self._max_seconds = self._max_seconds, min(2 * self._max_seconds, LONGEST_SECONDS)
        return self._uniform(0, bound)


def is_final(error: Exception) -> bool:
    """Tell whether a failed attempt is the last one: the room or its certificate is another one now.

    An unexpected error is final, too: otherwise the caller would wait for ever.
    """
    if not isinstance(error, OSError):
        return not isinstance(error, ConnectionClosed)
    # By name: a program without TLS doesn't have to load ssl.
    return any(kind.__name__ == "SSLCertVerificationError" for kind in type(error).__mro__)
