"""Connections that aren't members yet: in the TLS handshake, or asked for the password."""

from __future__ import annotations

import hmac
import math
import threading
import time
from collections.abc import Callable
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
from chatkit.room.guesses import Guesses
from chatkit.room.members import Member
from chatkit.room.room import Room
from chatkit.server.connection import Connection
from chatkit.server.connections import Connections

MAX_FAILURES = 3  # of one connection


class PasswordAuth:
    """The room's password, as a digest, and the failed attempts of each origin. Safe from every worker."""

    def __init__(self, password: str) -> None:
        self._digest = sha256(password.encode()).digest()
        self._lock = threading.Lock()
        self._guesses = Guesses("password")

    def next_attempt_at(self, host: str) -> float:
        """Return the time (`time.monotonic`) when the next attempt from this address may be verified."""
        return self._guesses.next_attempt_at(host)

    def verify(self, host: str, attempt: str) -> bool | None:
        """Tell whether this is the password, in constant time; None if it is too early for an attempt."""
        with self._lock:
            if self._guesses.is_early(host):
                return None
            if hmac.compare_digest(sha256(attempt.encode()).digest(), self._digest):
                self._guesses.succeeded(host)
                return True
            self._guesses.failed(host)
        return False


class PendingLogin:
    """The stage of a connection before it is a member: the TLS handshake, then the password.

    Args:
        logins: the state that all logins of a worker share.
        connection: the connection that logs in.
        address: the address of the peer, with a reserved place in the room.
        until: the time (`time.monotonic`) when the TLS handshake must be done.

    Attributes:
        due: the time (`time.monotonic`) when `tick` must be called: a deadline, or an attempt that may be verified.
        is_waiting: whether an attempt must wait: nothing is read meanwhile.
    """

    __slots__ = (
        "_connection",
        "_failures",
        "_has_asked",
        "_lines",
        "_logins",
        "_until",
        "address",
        "due",
        "is_waiting",
    )

    def __init__(self, logins: Logins, connection: Connection, address: Address, until: float) -> None:
        self.address = address
        self.due = self._until = until
        self._logins = logins
        self._connection = connection
        self._has_asked = False
        self._failures = 0
        self.is_waiting = False
        self._lines: list[Line] = []  # not checked yet

    def receive(self, lines: list[Line]) -> list[Line]:
        """Check lines from the peer. If it becomes a member, returns the lines that are left for the room."""
        self._lines += lines
        self.ask()
        if self._connection.input.line_due == -math.inf:
            self._leave(TOO_MUCH_BEFORE_PASSWORD)
            return []
        if self._connection.transport.is_ready and (not self._logins.auth or self._verify(self._logins.auth)):
            return self._logins.join(self._connection, self._lines)
        has_ended = self._connection.peer_end and not self._lines and self._connection.input.resume_at is None
        if self._connection.login and has_ended:
            self._leave()
        return []

    def tick(self, now: float) -> None:
        """End a login that takes too long, or verify an attempt that had to wait."""
        if self._until > now:
            self.due = self._until
            self._logins.connections.receive(self._connection, [])
        else:
            self._leave(f"no password in {self._logins.limits.login_seconds:g} seconds")

    def ask(self) -> None:
        """Ask for the password once the handshake is done; the time for the password begins then."""
        if self._logins.auth and self._connection.transport.is_ready and not self._has_asked:
            self._has_asked = True
            self.due = self._until = time.monotonic() + self._logins.limits.login_seconds
            self._logins.tell(self._connection, ASKS_PASSWORD)

    def _verify(self, auth: PasswordAuth) -> bool:
        """Check lines until the password, or until an attempt must wait. Returns whether the password was found."""
        while self._lines:
            line = self._lines[0]
            if not isinstance(line, str) or not line.startswith(PASSWORD_COMMAND):
                del self._lines[0]
                self._fail(line.reply if isinstance(line, Foreign) else ASKS_PASSWORD)
                continue
            next_attempt_at = auth.next_attempt_at(self.address[0])
            self.is_waiting = next_attempt_at > time.monotonic()
            if self.is_waiting:
                self.due = min(next_attempt_at, self._until)
                return False
            is_right = auth.verify(self.address[0], line.removeprefix(PASSWORD_COMMAND))
            if is_right:
                del self._lines[0]
                return True
            if is_right is False:  # None: another worker counted a failure meanwhile, so this attempt must wait
                self._lines.clear()  # lines after a wrong password were meant for another room
                self._fail(WRONG_PASSWORD)
        return False

    def _fail(self, answer: str | bytes) -> None:
        """Count and answer a failure; end the login after too many, or after bytes of another protocol."""
        self._failures += 1
        self._logins.tell(self._connection, answer)
        if self._failures == MAX_FAILURES or isinstance(answer, bytes):
            self._leave(TOO_MANY_PASSWORDS if isinstance(answer, str) else None)

    def _leave(self, reason: str | None = None) -> None:
        self._lines.clear()
        self._logins.refuse(self._connection, self.address, reason)


class Logins:
    """The logins of one worker; used by its thread alone.

    Args:
        room: the room to join.
        limits: the times for the handshake and the password.
        auth: the room's password, or None for a room without one.
        connections: the connections of the worker.
        admit: called as admit(connection, member) under the room's lock, see `Room.join`.
    """

    def __init__(
        self,
        room: Room,
        limits: Limits,
        auth: PasswordAuth | None,
        connections: Connections,
        admit: Callable[[Connection, Member], None],
    ) -> None:
        self.limits = limits
        self.auth = auth
        self.connections = connections
        self._room = room
        self._admit = admit

    def begin(self, connection: Connection, address: Address) -> None:
        """Begin the login of a connection whose place is reserved. Its time begins now: nobody has read it before."""
        until = time.monotonic() + self.limits.tls_handshake_seconds
        connection.login = PendingLogin(self, connection, address, until)
        connection.input.takes_after = math.inf
        connection.login.ask()
        self.connections.arm(connection)
        self.connections.watch(connection)

    def close(self) -> None:
        """End every login, when the room ends."""
        for connection in self.connections.pending_logins:
            if connection.login:
                self.refuse(connection, connection.login.address, None)

    def join(self, connection: Connection, lines: list[Line]) -> list[Line]:
        """Make the connection a member. Returns the lines for the room, or none if the room refuses it."""
        assert connection.login
        address, connection.login = connection.login.address, None
        try:
            self._room.join(address, partial(self._admit, connection))
        except JoinRefused as refusal:
            self.tell(connection, refusal.reason)
            self.connections.end(connection)
            return []
        if self.auth:
            self.tell(connection, ACCEPTED)  # only now: a peer that has read this receives every later message
        return lines

    def refuse(self, connection: Connection, address: Address, reason: str | None) -> None:
        """End a connection that doesn't become a member, with a reason for the peer."""
        connection.login = None
        self._room.release(address)
        if reason and connection.transport.is_ready:
            self.tell(connection, reason)
        self.connections.end(connection)

    def tell(self, connection: Connection, answer: str | bytes) -> None:
        """Write a notice, or bytes, to a connection that isn't a member."""
        self.connections.write(connection, answer if isinstance(answer, bytes) else TEXT.encode(Notice(answer)))
