"""Members of a room without a socket."""

from __future__ import annotations

from chatkit import Member
from chatkit.protocol.formats import TEXT
from chatkit.protocol.lines import Line
from chatkit.room.batch import Item, Received, Subscribe
from chatkit.room.listing import Listing
from chatkit.room.pages import PageRequest
from chatkit.room.room import Room


class Seat:
    """A member as a worker sees it: its lines, and whether its conversation goes on."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.is_there, self.format = False, TEXT
        self.received = b""
        self.left: str | None = None


class Desk:
    """An subscriber that delivers as a worker does, but into `Seat`s."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.seats: dict[Member, Seat] = {}
        room.add_inbox(self.deliver)

    def join(self, port: int, host: str = "127.0.0.1") -> Seat:
        joined: list[Seat] = []

        def admitted(member: Member) -> None:
            joined.append(self.seats.setdefault(member, Seat(member)))

        self.room.reserve((host, port))
        self.room.join((host, port), admitted)
        return joined[0]

    def deliver(self, item: Item) -> None:
        if isinstance(item, Subscribe):
            if seat := self.seats.get(item.member):
                self.switch(seat, item)
            return
        if isinstance(item, Listing):
            if seat := self.seats.get(item.member):
                seat.received += item.take_all()
            return
        for seat in self.seats.values():
            if not seat.is_there:
                continue
            seat.received += b"".join(item.lines(seat.format).pieces_for(seat.member))
        for member, reason in item.left:
            if member in self.seats:
                self.seats.pop(member).left = reason

    def switch(self, seat: Seat, switch: Subscribe) -> None:
        """Replay earlier messages, in pages as small as they get."""
        seat.is_there, seat.format, after = True, switch.format, switch.after
        seat.received += switch.first
        while after < switch.upto:
            pages = list[tuple[bytes, int]]()
            wanted = PageRequest(after, switch.upto, 1, seat.format)
            self.room.publisher.pages.read(wanted, lambda *page: pages.append(page))  # noqa: B023
            ((lines, after),) = pages
            seat.received += lines
        seat.received += switch.last

    def hear(self, seat: Seat, *lines: Line, end: str | None = None) -> None:
        self.room.receive([Received(seat.member, list(lines), end)])
