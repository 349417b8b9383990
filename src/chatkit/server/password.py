"""A password that the room's members share: who guesses it, and how often."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import threading
import time
from hashlib import sha256

logger = logging.getLogger("chatkit")

MAX_FAILURES = 3  # of one connection
# After the first wrong one an address waits a second for the next, then two, four and so on, up to this.
MAX_WAIT_SECONDS = 8.0
FORGET_SECONDS = 600.0
MAX_ADDRESSES = 10_000


class Gate:
    """Lets pass who knows the password. Only its digest is kept. Safe to use from every worker."""

    def __init__(self, password: str) -> None:
        self._digest = sha256(password.encode()).digest()
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[int, float]] = {}  # by origin: how many, and when the next may be judged
        self._logged_at = 0.0

    def judged_at(self, host: str) -> float:
        """From when on (`time.monotonic`) the next attempt from that address may be judged."""
        return self._failures.get(_origin(host), (0, 0.0))[1]

    def passes(self, host: str, attempt: str) -> bool | None:
        """Whether this is the password, compared in constant time; None if it is too early to judge."""
        origin = _origin(host)
        with self._lock:
            if self.judged_at(host) > time.monotonic():
                return None
            if hmac.compare_digest(sha256(attempt.encode()).digest(), self._digest):
                self._failures.pop(origin, None)
                return True
            self._count(origin, time.monotonic())
        return False

    def _count(self, origin: str, now: float) -> None:
        number, judged_at = self._failures.pop(origin, (0, 0.0))
        number = 0 if now > judged_at + FORGET_SECONDS else number
        if len(self._failures) >= MAX_ADDRESSES:
            del self._failures[next(iter(self._failures))]  # the one that failed the longest ago
        self._failures[origin] = (number + 1, now + min(2.0**number, MAX_WAIT_SECONDS))
        if now > self._logged_at + 1:  # a thousand guesses aren't worth a thousand lines
            self._logged_at = now
            logger.warning("a wrong password from %s", origin)


def _origin(host: str) -> str:
    """Who has one IPv6 address has its whole /64 (RFC 6177), and could come from another one each time."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and not address.ipv4_mapped:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
