"""Failed guesses of a secret, by origin: after each of them the origin has to wait before the next is judged."""

from __future__ import annotations

import ipaddress
import logging
import time

logger = logging.getLogger("chatkit")

# After a failed guess an origin must wait a second, then two, four and so on, up to this.
MAX_WAIT_SECONDS = 8.0
FORGET_SECONDS = 600.0
MAX_ORIGINS = 10_000


class Guesses:
    """The failed guesses of each origin. The callers take turns: they hold a lock.

    Args:
        secret: the secret in words, for the log.
        level: the level of the log. After a restart of the server all its tokens are wrong: no cause for alarm.
    """

    def __init__(self, secret: str, level: int = logging.WARNING) -> None:
        self._secret = secret
        self._level = level
        self._failures: dict[str, tuple[int, float]] = {}  # by origin: (number, time of the next attempt)
        self._logged_at = 0.0

    def next_attempt_at(self, host: str) -> float:
        """Return the time (`time.monotonic`) when the next guess from this address may be judged."""
        return self._failures.get(_origin(host), (0, 0.0))[1]

    def is_early(self, host: str) -> bool:
        """Tell whether this address has to wait."""
        return self.next_attempt_at(host) > time.monotonic()

    def succeeded(self, host: str) -> None:
        """Forget the failures of an address."""
        self._failures.pop(_origin(host), None)

    def failed(self, host: str) -> None:
        """Count a failed guess, and log it."""
        origin, now = _origin(host), time.monotonic()
        number, next_attempt_at = self._failures.pop(origin, (0, 0.0))
        number = 0 if now > next_attempt_at + FORGET_SECONDS else number
        if len(self._failures) >= MAX_ORIGINS:
            del self._failures[next(iter(self._failures))]  # the one whose last failure is the oldest
        self._failures[origin] = (number + 1, now + min(2.0**number, MAX_WAIT_SECONDS))
        if now > self._logged_at + 1:  # one line a second is enough, however many guesses there are
            self._logged_at = now
            logger.log(self._level, "a wrong %s from %s", self._secret, origin)


def _origin(host: str) -> str:
    """Return the address, or the /64 network of an IPv6 one: one holder has all of it (RFC 6177)."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and not address.ipv4_mapped:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
