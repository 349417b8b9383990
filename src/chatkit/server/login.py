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
from chatkit.protocol.formats import TEXT
from chatkit.protocol.lines import Foreign, Line
from chatkit.protocol.replies import (
    ACCEPTED,
    ASKS_PASSWORD,
    PASSWORD_COMMAND,
    TOO_MANY_PASSWORDS,
    TOO_MUCH_BEFORE_PASSWORD,
    WRONG_PASSWORD,
)
from chatkit.room.members import Member
from chatkit.room.room import Room
from chatkit.server.connection import Connection
from chatkit.server.connections import Connections
from chatkit.server.deadlines import Deadlines

logger = logging.getLogger("chatkit")

MAX_FAILURES = 3  # of one connection
# After the first wrong one an address waits a second for the next, then two, four and so on, up to this.
MAX_WAIT_SECONDS = 8.0
FORGET_SECONDS = 600.0
MAX_ADDRESSES = 10_000


class PasswordAuth:
    """Lets pass who knows the password. Only its digest is kept. Safe to use from every worker."""

    def __init__(self, password: str) -> None:
        self._digest = sha256(password.encode()).digest()
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[int, float]] = {}  # by origin: how many, and when the next may be judged
        self._logged_at = 0.0

    def next_attempt_at(self, host: str) -> float:
        """From when on (`time.monotonic`) the next attempt from that address may be judged."""
        return self._failures.get(_origin(host), (0, 0.0))[1]

    def verify(self, host: str, attempt: str) -> bool | None:
        """Whether this is the password, compared in constant time; None if it is too early to judge."""
        origin = _origin(host)
        with self._lock:
            if self.next_attempt_at(host) > time.monotonic():
                return None
            if hmac.compare_digest(sha256(attempt.encode()).digest(), self._digest):
                self._failures.pop(origin, None)
                return True
            self._count(origin, time.monotonic())
        return False

    def _count(self, origin: str, now: float) -> None:
        number, next_attempt_at = self._failures.pop(origin, (0, 0.0))
        number = 0 if now > next_attempt_at + FORGET_SECONDS else number
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
class PendingLogin:
    """address: whose place is reserved. until: when its time is over. lines: not looked at yet.

    held_bytes: what they take at the most, four bytes a character.
    """

    address: Address
    until: float
    asked: bool = False
    failures: int = 0
    held_bytes: int = 0
    lines: list[Line] = field(default_factory=list)


class Logins:
    """The entrants of one worker; used by its thread alone.

    admit(connection, member): called inside the room's lock, as for `Room.join`.
    """

    def __init__(
        self,
        room: Room,
        limits: Limits,
        auth: PasswordAuth | None,
        connections: Connections,
        admit: Callable[[Connection, Member], None],
    ) -> None:
        self._room = room
        self._limits = limits
        self._auth = auth
        self._connections = connections
        self._admit = admit
        self._pending: dict[Connection, PendingLogin] = {}
        self._due = Deadlines[Connection]()  # when the time is over, or an attempt may be judged

    @property
    def next_due(self) -> float:
        """When (`time.monotonic`) to call `tick` at the latest."""
        return self._due.next

    def enter(self, connection: Connection, address: Address, accepted_at: float) -> None:
        """Ask this connection for what it takes to become a member; its place is reserved."""
        self._pending[connection] = login = PendingLogin(address, accepted_at + self._limits.tls_handshake_seconds)
        self._due.set(connection, login.until)
        self._greet(connection, login)
        self._connections.watch(connection)

    def receive(self, connection: Connection, lines: list[Line]) -> list[Line]:
        """What came from an login; those of its lines that are for the room, if it is a member now."""
        if not (login := self._pending.get(connection)):
            return []
        login.lines += lines
        login.held_bytes += sum(LINE_BYTES + (4 * len(line) if isinstance(line, str) else 0) for line in lines)
        self._greet(connection, login)
        if connection.transport.is_ready and (
            not self._auth or self._knows_the_password(connection, login, self._auth)
        ):
            return self._join(connection, login)
        said_all = connection.end and not login.lines and connection.resume_at is None
        if connection in self._pending and said_all:
            self._leave(connection)
        return []

    def tick(self) -> None:
        """End what takes too long, judge what had to wait."""
        for connection in self._due.due(now := time.monotonic()):
            login = self._pending[connection]
            if login.until > now:
                self._due.set(connection, login.until)
                self._connections.receive(connection, [])
            else:
                self._leave(connection, f"no password in {self._limits.login_seconds:g} seconds")

    def close(self) -> None:
        """The room ends: so do they."""
        for connection in list(self._pending):
            self._leave(connection)

    def _greet(self, connection: Connection, login: PendingLogin) -> None:
        """As soon as it can read lines, ask for the password; from then on its time is for that."""
        if self._auth and connection.transport.is_ready and not login.asked:
            login.asked = True
            login.until = time.monotonic() + self._limits.login_seconds
            self._due.set(connection, login.until)
            self._tell(connection, ASKS_PASSWORD)

    def _knows_the_password(self, connection: Connection, login: PendingLogin, auth: PasswordAuth) -> bool:
        """Judge what it has said, as far as that may be judged now."""
        while login.lines:
            line = login.lines[0]
            if isinstance(line, str) and line.startswith(PASSWORD_COMMAND):
                next_attempt_at = auth.next_attempt_at(login.address[0])
                if next_attempt_at > time.monotonic():
                    self._hold(connection, login, next_attempt_at)
                    return False
                passes = auth.verify(login.address[0], line.removeprefix(PASSWORD_COMMAND))
                if passes is None:  # another worker was quicker
                    continue
                if passes:
                    del login.lines[0]
                    return True
                login.held_bytes = 0
                login.lines.clear()  # what came together with a wrong password was meant for another room
                self._fail(connection, login, WRONG_PASSWORD)
            else:
                del login.lines[0]
                self._fail(connection, login, line.reply if isinstance(line, Foreign) else ASKS_PASSWORD)
        return False

    def _hold(self, connection: Connection, login: PendingLogin, next_attempt_at: float) -> None:
        """Judge it later; until then what it says is kept, within bounds."""
        self._due.set(connection, min(next_attempt_at, login.until))
        if login.held_bytes > MAX_HELD_BYTES:
            self._leave(connection, TOO_MUCH_BEFORE_PASSWORD)

    def _fail(self, connection: Connection, login: PendingLogin, answer: str | bytes) -> None:
        login.failures += 1
        self._tell(connection, answer)
        if login.failures == MAX_FAILURES or isinstance(answer, bytes):
            self._leave(connection, TOO_MANY_PASSWORDS if isinstance(answer, str) else None)

    def _join(self, connection: Connection, login: PendingLogin) -> list[Line]:
        self._forget(connection)
        try:
            self._room.join(login.address, partial(self._admit, connection))
        except JoinRefused as refusal:
            self._tell(connection, refusal.reason)
            self._connections.end(connection)
            return []
        if self._auth:
            self._tell(connection, ACCEPTED)  # not before: who has read this hears everything
        return login.lines

    def _leave(self, connection: Connection, reason: str | None = None) -> None:
        login = self._forget(connection)
        login.lines.clear()
        self._room.release(login.address)
        if reason and connection.transport.is_ready:
            self._tell(connection, reason)
        self._connections.end(connection)

    def _forget(self, connection: Connection) -> PendingLogin:
        self._due.clear(connection)
        return self._pending.pop(connection)

    def _tell(self, connection: Connection, answer: str | bytes) -> None:
        line = answer if isinstance(answer, bytes) else TEXT.encode(Notice(answer))
        self._connections.write(connection, line)
