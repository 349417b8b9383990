"""The members of a room, by name."""

from __future__ import annotations

import math
from collections import Counter
from itertools import count, islice

from chatkit.errors import JoinRefused, NameTaken
from chatkit.limits import Limits
from chatkit.protocol.formats import JSON, TEXT, member_entry
from chatkit.protocol.names import MAX_NAME_CHARACTERS, check_name, name_key
from chatkit.protocol.replies import ADDRESS_FULL, ROOM_FULL


class Member:
    """A member of the room: a connection that may send and receive messages.

    Attributes:
        id: a number that no other member of this server ever has; it stays when the name changes.
        name: the name, unique among the members.
        address: (host, port) of the peer.
        format: the format in which it receives events.
        echo: whether it receives its own messages, too: once it reads JSON.
        present: whether it is still in the room.
    """

    __slots__ = ("_entry", "address", "echo", "format", "id", "name", "present")

    def __init__(self, name: str, address: tuple[str, int], number: int = 0) -> None:
        self.id = number
        self.name = name
        self.address = address
        self.format = TEXT
        self.echo = False
        self._entry = b""  # its JSON in answers to `/who`
        self.present = True

    @property
    def json(self) -> bool:
        """Whether it has switched to JSON Lines."""
        return self.format is JSON

    def __repr__(self) -> str:
        return f"<Member {self.id} {self.name} {self.address}>"


class Roster:
    """The members, by name. Changed only under the room's lock.

    Attributes:
        max_clients: the maximum number of members, reserved places included.
        refused: the number of refused connections, by code.
    """

    def __init__(self, limits: Limits) -> None:
        self.max_clients = limits.max_clients
        self.refused: dict[str, int] = {}
        self._clients_per_address = limits.clients_per_address or math.inf
        self._by_key: dict[str, Member] = {}
        self._from_address: Counter[str] = Counter()
        self._hosts: dict[str, str] = {}  # one string for all members of one address, as long as there are some
        self._entries_size = 0  # the number of bytes of all entries
        self._reserved = 0
        self._ids = count(1)

    @property
    def members(self) -> list[Member]:
        """The members at this moment; safe to call from any thread."""
        return list(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def first(self, number: int) -> list[Member]:
        """Return the members that have had their names the longest. Call it under the room's lock."""
        return list(islice(self._by_key.values(), number))

    def listed(self) -> tuple[list[bytes], int]:
        """Return (the JSON of each member, the number of its bytes), as `first`. Call it under the room's lock."""
        return [member._entry for member in self._by_key.values()], self._entries_size

    def find(self, name: str) -> Member | None:
        """Return the member of that name, ignoring case, or None; safe to call from any thread."""
        if len(name) > MAX_NAME_CHARACTERS:  # no member has it, and a long one takes long to normalise
            return None
        return self._by_key.get(name_key(name))

    def reserve(self, address: tuple[str, int]) -> None:
        """Reserve a place for a peer that is about to join; `add` or `release` must follow.

        Raises:
            JoinRefused: the room is full, or the peer's address has too many members.
        """
        if len(self._by_key) + self._reserved >= self.max_clients:
            raise self.refusal("full", ROOM_FULL)
        if self._from_address[address[0]] >= self._clients_per_address:
            raise self.refusal("address", ADDRESS_FULL)
        self._reserved += 1
        self._from_address[address[0]] += 1
        self._hosts.setdefault(address[0], address[0])

    def release(self, address: tuple[str, int]) -> None:
        """Give a reserved place back."""
        self._reserved -= 1
        self._forget(address)

    def add(self, address: tuple[str, int]) -> Member:
        """Return a new member in the reserved place, named after its port."""
        self._reserved -= 1
        host, port = address
        member = Member(self._free_name(str(port)), (self._hosts[host], port), next(self._ids))
        self._by_key[member.name] = member
        self._write_entry(member)
        return member

    def remove(self, member: Member) -> None:
        """Remove a member; its name and place become free."""
        member.present = False
        del self._by_key[name_key(member.name)]
        self._entries_size -= len(member._entry)
        self._forget(member.address)

    def rename(self, member: Member, name: str) -> None:
        """Give a member another name.

        Raises:
            ValueError: the name breaks the rule, see `check_name`.
            NameTaken: another member has it.
        """
        check_name(name)
        if self._by_key.get(name_key(name), member) is not member:
            raise NameTaken(name)
        self._set_name(member, name)

    def give_back(self, member: Member, old_name: str) -> None:
        """Give a member the name that it had just before, which may be its port."""
        self._set_name(member, old_name)

    def exchange(self, one: Member, other: Member) -> None:
        """Exchange everything that tells two members apart; each keeps its connection.

        The place in the order of names goes with the name.
        """
        one.name, other.name = other.name, one.name
        one.id, other.id = other.id, one.id
        for member in (one, other):
            self._by_key[name_key(member.name)] = member

    def refusal(self, code: str, reason: str) -> JoinRefused:
        """Count a refused connection, and return the exception to raise."""
        self.refused[code] = self.refused.get(code, 0) + 1
        return JoinRefused(code, reason)

    def _set_name(self, member: Member, name: str) -> None:
        del self._by_key[name_key(member.name)]
        member.name = name
        self._by_key[name_key(name)] = member
        self._write_entry(member)

    def _write_entry(self, member: Member) -> None:
        self._entries_size -= len(member._entry)
        member._entry = member_entry(member.name, member.id)
        self._entries_size += len(member._entry)

    def _forget(self, address: tuple[str, int]) -> None:
        self._from_address[address[0]] -= 1
        if not self._from_address[address[0]]:
            del self._from_address[address[0]], self._hosts[address[0]]

    def _free_name(self, base: str) -> str:
        """Return `base`, or `base-2` and so on if it is taken: two hosts can use the same port.

        Thousands of addresses may use the same port: so only few of the numbers are tried.
        """
        if base not in self._by_key:
            return base
        taken, free = 1, 2
        while f"{base}-{free}" in self._by_key:
            taken, free = free, 2 * free
        while free - taken > 1:
            number = (taken + free) // 2
            taken, free = (number, free) if f"{base}-{number}" in self._by_key else (taken, number)
        return f"{base}-{free}"
