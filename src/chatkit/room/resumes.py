"""The right of a member to come back to its own place: tokens, in the room and for a while after a loss.

Operations: `issue` a token to a member, `find` the place of a token, `take_over` for the member that came back, `lose`
or `forget` a member that leaves. Goal: a member that comes back proves its identity, though its old connection still
hangs; memory is bounded. Plan: a place has at most three tokens, the one that took it over and the last two that were
issued. A client that is lost again before it reads the new one tries the old one; and the opening of a connection that
it gave up may be read only after the next one's. Places of lost members are kept in the order of their loss. Tokens are
looked up by digest, so that the time of a look-up tells nothing about them.
"""

from __future__ import annotations

import logging
import secrets
import time
from hashlib import sha256

from chatkit.events import Error
from chatkit.protocol.replies import RESUME_EARLY, RESUME_UNKNOWN
from chatkit.room.guesses import Guesses
from chatkit.room.members import Member

# A phone in a tunnel, a laptop on its way to another room.
VALID_SECONDS = 600.0
# The maximum of places without a member, however many come and go. Each member in the room has one at the most.
MAX_LOST = 10_000


class Place:
    """A member's place.

    Attributes:
        member: the member, or None if it was lost.
        name: the name of the lost member.
        until: the time (`time.monotonic`) when the place of a lost member is gone.
        digests: the digests of its tokens: the one that took it over, or the first, then the newest.
    """

    __slots__ = ("digests", "member", "name", "until")

    def __init__(self, member: Member) -> None:
        self.member: Member | None = member
        self.name = ""
        self.until = 0.0
        self.digests: list[bytes] = []


class Resumes:
    """The places of members that have tokens. Changed only under the room's lock."""

    def __init__(self) -> None:
        self._places: dict[Member, Place] = {}  # of members in the room
        self._lost: dict[Place, None] = {}  # the oldest loss first
        self._by_digest: dict[bytes, Place] = {}
        self._guesses = Guesses("token to resume", logging.INFO)

    def issue(self, member: Member) -> str:
        """Return a new token of 128 random bits for a member's place."""
        place = self._places.setdefault(member, Place(member))
        self._drop_tokens(place, place.digests[1:-1])
        token = secrets.token_hex(16)
        place.digests.append(_digest(token))
        self._by_digest[place.digests[-1]] = place
        return token

    def find(self, token: str, host: str) -> Place | Error:
        """Return the place of a token, or the error for the peer at this address.

        A wrong token counts as a failed guess. Until the next one may be judged, none from there is: the peer is a
        member already, so it doesn't wait, but goes on without.
        """
        if self._guesses.is_early(host):
            return RESUME_EARLY
        place = self._by_digest.get(_digest(token))
        if place and (place.member or place.until > time.monotonic()):
            return place
        self._guesses.failed(host)
        return RESUME_UNKNOWN

    def take_over(self, place: Place, member: Member, token: str) -> None:
        """Give a place to the member that has come back by this token."""
        self.forget(member)
        if place.member:
            del self._places[place.member]
        else:
            del self._lost[place]
        used, newest = _digest(token), place.digests[-1]
        self._drop_tokens(place, [digest for digest in place.digests if digest not in (used, newest)])
        place.digests.sort(key=lambda digest: digest != used)  # the used one first
        place.member = member
        self._places[member] = place

    def lose(self, member: Member) -> None:
        """Keep the place of a member whose connection was lost, for a while."""
        if place := self._places.pop(member, None):
            now = time.monotonic()
            place.member, place.name, place.until = None, member.name, now + VALID_SECONDS
            self._lost[place] = None
            while (oldest := next(iter(self._lost))).until <= now or len(self._lost) > MAX_LOST:
                self._drop_tokens(oldest, oldest.digests)
                del self._lost[oldest]

    def forget(self, member: Member) -> None:
        """Forget the place of a member that leaves for good."""
        if place := self._places.pop(member, None):
            self._drop_tokens(place, place.digests)

    def _drop_tokens(self, place: Place, digests: list[bytes]) -> None:
        place.digests = [digest for digest in place.digests if digest not in digests]
        for digest in digests:
            del self._by_digest[digest]


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
