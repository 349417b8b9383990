"""Connections that aren't members yet: they are in the TLS handshake, or are asked for the password."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256

from chatkit.errors import JoinRefused
from chatkit.events import Notice
from chatkit.limits import Limits
from chatkit.net.sockets import Address
from chatkit.protocol.formats import encode_text
from chatkit.protocol.lines import Foreign, Line
from chatkit.protocol.replies import (
    ACCEPTED,
    ASKS_PASSWORD,
    PASSWORD_COMMAND,
    TOO_MANY_PASSWORDS,
    TOO_MUCH_BEFORE_PASSWORD,
    WRONG_PASSWORD,
)
from chatkit.room.batch import Member
from chatkit.room.room import Room
from chatkit.server.connection import Connection
from chatkit.server.connections import Keeper
from chatkit.server.deadlines import Deadlines

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


# What may come along with a password whose judgement has to wait; each line takes some memory of its own.
MAX_HELD_BYTES = 256 * 1024
LINE_BYTES = 64


@dataclass(slots=True)
class Entrant:
    """address: whose place is reserved. until: when its time is over. lines: not looked at yet.

    held_bytes: what they take at the most, four bytes a character.
    """

    address: Address
    until: float
    asked: bool = False
    failures: int = 0
    held_bytes: int = 0
    lines: list[Line] = field(default_factory=list)


class Lobby:
    """The entrants of one worker; used by its thread alone.

    admit(connection, member): called inside the room's lock, as for `Room.join`.
    """

    def __init__(
        self,
        room: Room,
        limits: Limits,
        gate: Gate | None,
        keeper: Keeper,
        admit: Callable[[Connection, Member], None],
    ) -> None:
        self._room = room
        self._limits = limits
        self._gate = gate
        self._keeper = keeper
        self._admit = admit
        self._entrants: dict[Connection, Entrant] = {}
        self._due = Deadlines[Connection]()  # when the time is over, or an attempt may be judged

    @property
    def next_due(self) -> float:
        """When (`time.monotonic`) to call `look_after` at the latest."""
        return self._due.next

    def enter(self, connection: Connection, address: Address, accepted_at: float) -> None:
        """Ask this connection for what it takes to become a member; its place is reserved."""
        self._entrants[connection] = entrant = Entrant(address, accepted_at + self._limits.tls_handshake_seconds)
        self._due.set(connection, entrant.until)
        self._greet(connection, entrant)
        self._keeper.watch(connection)

    def hear(self, connection: Connection, lines: list[Line]) -> list[Line]:
        """What came from an entrant; those of its lines that are for the room, if it is a member now."""
        if not (entrant := self._entrants.get(connection)):
            return []
        entrant.lines += lines
        entrant.held_bytes += sum(LINE_BYTES + (4 * len(line) if isinstance(line, str) else 0) for line in lines)
        self._greet(connection, entrant)
        if connection.ready and (not self._gate or self._knows_the_password(connection, entrant, self._gate)):
            return self._join(connection, entrant)
        said_all = connection.end and not entrant.lines and connection.resume_at is None
        if connection in self._entrants and said_all:
            self._leave(connection)
        return []

    def look_after(self) -> None:
        """End what takes too long, judge what had to wait."""
        for connection in self._due.due(now := time.monotonic()):
            entrant = self._entrants[connection]
            if entrant.until > now:
                self._due.set(connection, entrant.until)
                self._keeper.hear(connection, [])
            else:
                self._leave(connection, f"no password in {self._limits.login_seconds:g} seconds")

    def close(self) -> None:
        """The room ends: so do they."""
        for connection in list(self._entrants):
            self._leave(connection)

    def _greet(self, connection: Connection, entrant: Entrant) -> None:
        """As soon as it can read lines, ask for the password; from then on its time is for that."""
        if self._gate and connection.ready and not entrant.asked:
            entrant.asked = True
            entrant.until = time.monotonic() + self._limits.login_seconds
            self._due.set(connection, entrant.until)
            self._tell(connection, ASKS_PASSWORD)

    def _knows_the_password(self, connection: Connection, entrant: Entrant, gate: Gate) -> bool:
        """Judge what it has said, as far as that may be judged now."""
        while entrant.lines:
            line = entrant.lines[0]
            if isinstance(line, str) and line.startswith(PASSWORD_COMMAND):
                judged_at = gate.judged_at(entrant.address[0])
                if judged_at > time.monotonic():
                    self._hold(connection, entrant, judged_at)
                    return False
                passes = gate.passes(entrant.address[0], line.removeprefix(PASSWORD_COMMAND))
                if passes is None:  # another worker was quicker
                    continue
                if passes:
                    del entrant.lines[0]
                    return True
                entrant.held_bytes = 0
                entrant.lines.clear()  # what came together with a wrong password was meant for another room
                self._fail(connection, entrant, WRONG_PASSWORD)
            else:
                del entrant.lines[0]
                self._fail(connection, entrant, line.reply if isinstance(line, Foreign) else ASKS_PASSWORD)
        return False

    def _hold(self, connection: Connection, entrant: Entrant, judged_at: float) -> None:
        """Judge it later; until then what it says is kept, within bounds."""
        self._due.set(connection, min(judged_at, entrant.until))
        if entrant.held_bytes > MAX_HELD_BYTES:
            self._leave(connection, TOO_MUCH_BEFORE_PASSWORD)

    def _fail(self, connection: Connection, entrant: Entrant, answer: str | bytes) -> None:
        entrant.failures += 1
        self._tell(connection, answer)
        if entrant.failures == MAX_FAILURES or isinstance(answer, bytes):
            self._leave(connection, TOO_MANY_PASSWORDS if isinstance(answer, str) else None)

    def _join(self, connection: Connection, entrant: Entrant) -> list[Line]:
        self._forget(connection)
        try:
            self._room.join(entrant.address, partial(self._admit, connection))
        except JoinRefused as refusal:
            self._tell(connection, refusal.reason)
            self._keeper.end(connection)
            return []
        if self._gate:
            self._tell(connection, ACCEPTED)  # not before: who has read this hears everything
        return entrant.lines

    def _leave(self, connection: Connection, reason: str | None = None) -> None:
        entrant = self._forget(connection)
        entrant.lines.clear()
        self._room.release(entrant.address)
        if reason and connection.ready:
            self._tell(connection, reason)
        self._keeper.end(connection)

    def _forget(self, connection: Connection) -> Entrant:
        self._due.clear(connection)
        return self._entrants.pop(connection)

    def _tell(self, connection: Connection, answer: str | bytes) -> None:
        line = answer if isinstance(answer, bytes) else encode_text(Notice(answer))
        self._keeper.write(connection, line)
