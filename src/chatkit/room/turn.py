"""The steps of a turn: join, say, tell, rename and so on. No sockets, no threads.

The caller holds the room's lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from chatkit.errors import NameTaken, Refused
from chatkit.events import Error, Event, Joined, Left, Message, Notice, Private, Renamed
from chatkit.limits import Limits
from chatkit.protocol.formats import FORMATS, JSON, TEXT
from chatkit.protocol.replies import (
    HANDLER_FAILED,
    NAME_REFUSED,
    NOT_KEPT,
    NOT_SENT,
    REFUSED,
    RESUMED,
    TAKEN_OVER,
    now_named,
)
from chatkit.room.arrivals import Arrivals
from chatkit.room.entries import Announce, Entry, Leave, Subscription, Sync, Tell
from chatkit.room.hooks import HookFailed, Hooks
from chatkit.room.listing import Listing
from chatkit.room.members import Member, Roster
from chatkit.room.publisher import Publisher
from chatkit.room.resumes import Resumes

SHUTDOWN = "shutdown"

# The maximum of long answers to one member in one turn: a question has a few bytes, its answer may fill a screen. One
# of several lines counts as so many; the first is always given.
MAX_ANSWERS = 16


class Turn:
    """The members of a room, and the entries of the turn under way. One object for the life of the room.

    Operations: `begin`, steps such as `say` and `leave`, `publish`. Plan: each step changes the members at once and
    adds an entry, so that one turn is one `Publisher.publish`.

    Args:
        handler: an object with hooks, see `chatkit.Handler`.
        announce: whether members that read plain text are told about joins, leaves and new names, too.

    Attributes:
        roster: the members.
        arrivals: the members whose join isn't announced yet.
        now: the time (`time.time`) of the messages of this turn.
    """

    def __init__(self, handler: object, limits: Limits, publisher: Publisher, *, announce: bool) -> None:
        self.roster = Roster(limits)
        self.arrivals = Arrivals()
        self.now = 0.0
        self._publisher = publisher
        self._announced_in = tuple(format for format in FORMATS if announce or format.announces)
        self._hooks = Hooks(handler)
        self._is_refusing = False
        self._resumes = Resumes()
        self._answers: Counter[Member] = Counter()
        self._entries: list[Entry] = []

    def begin(self) -> None:
        """Begin a turn: set its time, and count its answers anew."""
        self.now = time.time()
        self._is_refusing = self._publisher.is_refusing
        self._answers.clear()

    def join(self, address: tuple[str, int], admitted: Callable[[Member], None]) -> None:
        """Make a peer with a reserved place a member, which receives everything after this point.

        Args:
            address: the address of the peer.
            admitted: called with the member before anything is published for it.

        Raises:
            JoinRefused: the handler refused it, or failed.
        """
        member = self.roster.add(address)
        try:
            self._hooks.on_join(member)
        except Refused as refusal:
            self.roster.remove(member)
            raise self.roster.refusal("refused", f"{REFUSED}{refusal.reason}") from None
        except HookFailed:
            self.roster.remove(member)
            raise self.roster.refusal("handler", HANDLER_FAILED.text) from None
        admitted(member)
        self.arrivals.add(member, time.monotonic())
        self._entries.append(Subscription(member, TEXT, member.name))

    def announce_join(self, member: Member) -> None:
        """Announce the join of a member, unless that is done."""
        if self.arrivals.remove(member):
            self._announce_join(member)

    def announce_due_joins(self, now: float) -> None:
        """Announce the joins of the members that have waited long enough.

        Args:
            now: the time (`time.monotonic`).
        """
        for member in self.arrivals.due(now):
            self._announce_join(member)

    def say(self, member: Member, text: str, kind: type[Message] = Message) -> None:
        """Add a message, if the handler lets it pass.

        Raises:
            HookFailed: the handler raised an exception.
        """
        if self._is_refusing:
            self.tell(member, NOT_KEPT)
            return
        try:
            message = self._hooks.on_message(kind(member.name, text, None, self.now), member)
        except Refused as refusal:
            self._refuse(member, NOT_SENT, refusal)
        else:
            if message:
                self._entries.append((member, message))

    def tell(self, member: Member, event: Event) -> None:
        """Add an event for one member alone."""
        self._entries.append(Tell(member, member.format, member.format.encode(event)))

    def reply(self, member: Member, data: bytes) -> None:
        """Add bytes for one member alone."""
        self._entries.append(Tell(member, member.format, data))

    def may_answer(self, member: Member) -> bool:
        """Tell whether the member may receive one more long answer in this turn, and count it as one line."""
        self._answers[member] += 1
        return self._answers[member] <= MAX_ANSWERS

    def whisper(self, sender: Member, to: Member, text: str) -> None:
        """Add a private message for one member alone, if the handler lets it pass.

        Raises:
            HookFailed: the handler raised an exception.
        """
        try:
            message = self._hooks.on_private(Private(sender.name, text, self.now), to, sender)
        except Refused as refusal:
            self._refuse(sender, NOT_SENT, refusal)
        else:
            if message:
                self.tell(to, message)

    def announce(self, event: Event) -> None:
        """Add an event for every member."""
        self._entries.append(Announce(event, FORMATS))

    def rename(self, member: Member, name: str) -> None:
        """Give a member another name, if the handler lets it.

        Raises:
            ValueError: the name breaks the rule.
            NameTaken: another member has it.
            HookFailed: the handler raised an exception; the member has the name.
        """
        old_name, before = member.name, len(self._entries)
        try:
            self.roster.rename(member, name)
        except NameTaken:
            if holder := self.roster.find(name):  # a member that knows of it must hear when the name is free
                self.announce_join(holder)
            raise
        renamed = Renamed(old_name, name)
        self.tell(member, renamed if member.json else Notice(now_named(name)))
        if old_name == name:
            return
        if member not in self.arrivals:
            self._entries.append(Announce(renamed, self._announced_in, member))
        try:
            self._hooks.on_rename(member, old_name)
        except Refused as refusal:
            del self._entries[before:]
            self.roster.give_back(member, old_name)
            self._refuse(member, NAME_REFUSED, refusal)

    def subscribe(self, member: Member, after: int | None, epoch: str | None, *, echo: bool) -> None:
        """Switch a member to JSON, after a replay: see `Subscription`.

        Args:
            echo: whether it receives its own messages from here on.
        """
        member.format, member.echo = JSON, echo
        token = self._resumes.issue(member)
        self._entries.append(Subscription(member, JSON, member.name, after, epoch, token))

    def resume(self, member: Member, token: str) -> None:
        """Give a member the place that a token stands for, and end the connection that has it, in one step.

        No other member is told: it is the same one as before. If the old connection has left already, the member is a
        new one, which gets its name back unless another member has it.

        Raises:
            HookFailed: the handler raised an exception.
        """
        place = self._resumes.find(token, member.address[0])
        if isinstance(place, Error):
            self.tell(member, place)
            return
        if (old := place.member) is not member:
            self._resumes.take_over(place, member, token)
            if old:
                self._exchange(old, member)
                self.tell(old, TAKEN_OVER)
                self.leave(old, "resumed", untold=member)
            else:
                with suppress(NameTaken, ValueError):  # the port of another connection is no name to choose
                    self.rename(member, place.name)
        self.tell(member, RESUMED)

    def _exchange(self, old: Member, new: Member) -> None:
        """Exchange the names of two connections of one member, and which of them the others know."""
        self.announce_join(old)
        self.roster.exchange(old, new)
        self.arrivals.replace(new, old)

    def list_members(self, member: Member) -> None:
        """Answer a member that reads JSON with all members."""
        listing = Listing(member, *self.roster.listed())
        self._answers[member] += listing.lines - 1
        if listing.lines == 1:
            self.reply(member, listing.take())
        else:
            self._entries.append(listing)

    def sync(self, member: Member) -> None:
        """Answer a member with the newest id at this point."""
        self._entries.append(Sync(member, member.format))

    def leave(self, member: Member, reason: str, *, is_lost: bool = False, untold: Member | None = None) -> None:
        """End a member's conversation; it still receives everything that this turn publishes.

        Args:
            is_lost: whether its connection was lost, so that it may come back to its place.
            untold: the member that isn't told; by default the one that leaves.
        """
        self.roster.remove(member)
        if is_lost:
            self._resumes.lose(member)
        else:
            self._resumes.forget(member)
        self._entries.append(Leave(member, reason))
        is_known = not self.arrivals.remove(member)
        if is_known and reason != SHUTDOWN:  # everyone leaves then: no member needs to know about each
            self._entries.append(Announce(Left(member.name), self._announced_in, untold or member))
        with suppress(HookFailed):
            self._hooks.on_leave(member, reason)

    def _announce_join(self, member: Member) -> None:
        self._entries.append(Announce(Joined(member.name), self._announced_in, member))

    def _refuse(self, member: Member, what: str, refusal: Refused) -> None:
        self.tell(member, Error(f"{what}{refusal.reason}", refusal.code))

    def publish(self) -> None:
        """Publish the entries."""
        if entries := self._entries:
            self._entries = []
            self._publisher.publish(entries)
