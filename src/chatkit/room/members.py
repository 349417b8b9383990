"""Who is in the room, and under which name."""

from __future__ import annotations

import math
from collections import Counter
from itertools import count, islice

from chatkit.errors import JoinRefused, NameTaken
from chatkit.limits import Limits
from chatkit.protocol.formats import JSON, TEXT
from chatkit.protocol.names import MAX_NAME_CHARACTERS, check_name, name_key
from chatkit.protocol.replies import ADDRESS_FULL, ROOM_FULL


class Member:
    """A connection in the room.

    Attributes:
        name: unique among the members.
        address: (host, port) of the peer.
        format: the form in which it receives events.
        present: whether it is in the room still.
    """

    __slots__ = ("address", "format", "name", "present")

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        self.name = name
        self.address = address
        self.format = TEXT
        self.present = True

    @property
    def json(self) -> bool:
        """Whether it asked for JSON Lines."""
        return self.format is JSON

    def __repr__(self) -> str:
        return f"<Member {self.name} {self.address}>"


class Roster:
    """The members, by name. Changed only inside the room's lock.

    max_clients: so many at the most. refused: how many connections were not taken, by code.
    """

    def __init__(self, limits: Limits) -> None:
        self.max_clients = limits.max_clients
        self.refused: dict[str, int] = {}
        self._clients_per_address = limits.clients_per_address or math.inf
        self._by_key: dict[str, Member] = {}
        self._from_address: Counter[str] = Counter()
        self._reserved = 0

    @property
    def members(self) -> list[Member]:
        """The members of this moment; safe to call from anywhere."""
        return list(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def first(self, number: int) -> list[Member]:
        """The members that have their names the longest. Only inside the lock."""
        return list(islice(self._by_key.values(), number))

    def find(self, name: str) -> Member | None:
        """The member of that name, in whatever case; safe to call from anywhere."""
        if len(name) > MAX_NAME_CHARACTERS:  # nobody's, and a long one takes long to normalise
            return None
        return self._by_key.get(name_key(name))

    def reserve(self, address: tuple[str, int]) -> None:
        """A place for whoever is about to become a member; to be followed by `add` or `release`.

        JoinRefused: there is none.
        """
        if len(self._by_key) + self._reserved >= self.max_clients:
            raise self.refusal("full", ROOM_FULL)
        if self._from_address[address[0]] >= self._clients_per_address:
            raise self.refusal("address", ADDRESS_FULL)
        self._reserved += 1
        self._from_address[address[0]] += 1

    def release(self, address: tuple[str, int]) -> None:
        """The place isn't needed."""
        self._reserved -= 1
        self._forget(address)

    def add(self, address: tuple[str, int]) -> Member:
        """The new member that takes the reserved place, named by its port."""
        self._reserved -= 1
        member = Member(self._free_name(str(address[1])), address)
        self._by_key[member.name] = member
        return member

    def remove(self, member: Member) -> None:
        """Its name and place are free from now on."""
        member.present = False
        del self._by_key[name_key(member.name)]
        self._forget(member.address)

    def rename(self, member: Member, name: str) -> None:
        """ValueError: the name breaks the rule (`names`). NameTaken: another member has it."""
        check_name(name)
        if self._by_key.get(name_key(name), member) is not member:
            raise NameTaken(name)
        del self._by_key[name_key(member.name)]
        member.name = name
        self._by_key[name_key(name)] = member

    def refusal(self, code: str, reason: str) -> JoinRefused:
        """Count a connection that isn't taken."""
        self.refused[code] = self.refused.get(code, 0) + 1
        return JoinRefused(code, reason)

    def _forget(self, address: tuple[str, int]) -> None:
        self._from_address[address[0]] -= 1
        if not self._from_address[address[0]]:
            del self._from_address[address[0]]

    def _free_name(self, wanted: str) -> str:
        """`wanted`, or `wanted-2` and so on: two hosts can use one port."""
        if wanted not in self._by_key:
            return wanted
        return next(name for n in count(2) if (name := f"{wanted}-{n}") not in self._by_key)
