"""How long a client waits before it tries to come back, and when it no longer does."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from chatkit.errors import ConnectionClosed

# Soon enough that a restart of the server is hardly seen, and at the most what NATS and gRPC clients wait in the same order.
FIRST_SECONDS = 0.2
LONGEST_SECONDS = 30.0
# A connection that stood for less doesn't count: a server that drops everyone at once must not be hammered.
STEADY_SECONDS = 30.0


class Backoff:
    """Exponential with full jitter: of a thousand clients that lost one server, no two come at the same time.

    As in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    uniform, clock: where chance and time (in seconds) come from.
    """

    def __init__(
        self,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uniform = uniform
        self._clock = clock
        self._most = FIRST_SECONDS
        self._stands_since = clock()

    def connected(self) -> None:
        """A connection stands."""
        self._stands_since = self._clock()

    def lost(self) -> None:
        """It is lost: if it had stood for long enough the waits begin anew."""
        if self._clock() - self._stands_since >= STEADY_SECONDS:
            self._most = FIRST_SECONDS

    def delay(self) -> float:
        """Seconds to wait before the next attempt."""
        most, self._most = self._most, min(2 * self._most, LONGEST_SECONDS)
        return self._uniform(0, most)


def is_final(error: Exception) -> bool:
    """Whether a failed attempt to come back is the last one: the room, or its certificate, won't be another later.

    What nobody has thought of is final, too: else who receives would wait for ever.
    """
    if not isinstance(error, OSError):
        return not isinstance(error, ConnectionClosed)
    # By its name: who uses no TLS needn't load ssl.
    return any(kind.__name__ == "SSLCertVerificationError" for kind in type(error).__mro__)
