"""What can happen in a room, one thing after the other. Knows no sockets, no threads.

Whoever calls holds the room's lock.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from chatkit.batch import Batch, Draft, Member, Switch
from chatkit.encoding import encode_json
from chatkit.events import Error, Event, Gap, Joined, Left, Message, Notice, Private, Renamed, Welcome
from chatkit.history.memory import History
from chatkit.hooks import HookFailed, Hooks
from chatkit.limits import Limits
from chatkit.roster import Roster

Outlet = Callable[[Batch | Switch], None]

SHUTDOWN = "shutdown"
HANDLER_FAILED = Error("an error in the room's handler ended this conversation", "handler_failed")

# A question is a few bytes, its answer may be a screen: one member gets so many of these in one turn.
MAX_ANSWERS = 16


class Floor:
    """Members say, ask and leave; `commit` hands out what came of it.

    announce: whether members with plain text are told who joins, leaves or changes its name.
    newest_id: of the last message. now: when (`time.time`) this turn's messages are said.
    outlets: called with each batch, and when a member changes to JSON.
    """

    def __init__(self, handler: object, limits: Limits, *, announce: bool) -> None:
        self.roster = Roster(limits)
        self.newest_id = 0
        self.room = secrets.token_hex(8)
        self.now = 0.0
        self.outlets: list[Outlet] = []
        self._announces = announce
        self._hooks = Hooks(handler)
        # A replay must not make a slow consumer of who asks for it.
        self._history = History(limits.history_size, limits.max_pending_bytes // 2)
        self._readers_of_json = 0
        self._answers: Counter[Member] = Counter()
        self._draft = Draft(json=False)

    def begin(self) -> None:
        """A turn begins."""
        self.now = time.time()
        self._answers.clear()

    def join(self, address: tuple[str, int], admitted: Callable[[Member], None]) -> None:
        """Who has a place reserved becomes a member, which hears what is committed after this.

        JoinRefused: it doesn't.
        """
        member = self.roster.add(address)
        try:
            self._hooks.on_join(member)
        except HookFailed:
            self.roster.remove(member)
            raise self.roster.refusal("handler", HANDLER_FAILED.text) from None
        self._draft.announce(Joined(member.name), in_text=self._announces)
        self.commit()
        admitted(member)

    def say(self, member: Member, text: str, kind: type[Message] = Message) -> None:
        """A message, if the handler lets it pass. HookFailed: the handler raised."""
        message = self._hooks.on_message(kind(member.name, text, self.newest_id + 1, self.now))
        if message:
            self.newest_id += 1
            self._draft.say(member, message)

    def tell(self, member: Member, event: Event | bytes) -> None:
        """Something for one member alone."""
        self._draft.tell(member, event)

    def may_answer(self, member: Member) -> bool:
        """Whether the member gets one more long answer in this turn."""
        self._answers[member] += 1
        return self._answers[member] <= MAX_ANSWERS

    def whisper(self, sender: Member, to: Member, text: str) -> None:
        self.tell(to, Private(sender.name, text, self.now))

    def announce(self, event: Event) -> None:
        """Something for everyone."""
        self._draft.announce(event, in_text=True)

    def rename(self, member: Member, name: str) -> None:
        """ValueError, NameTaken: it can't have that name. HookFailed: the handler raised."""
        old_name = member.name
        self.roster.rename(member, name)
        renamed = Renamed(old_name, name)
        self._draft.tell(member, renamed if member.json else Notice(f"you are now {name}"))
        if old_name != name:
            self._draft.announce(renamed, in_text=self._announces, besides=member)
            self._hooks.on_rename(member, old_name)

    def switch(self, member: Member, after: int | None, room: str | None) -> None:
        """From here on the member reads JSON; first, if it asks for them, the messages with ids above `after`.

        room: where `after` is from; if that is another room all that is kept is told.
        """
        self.commit()
        after = 0 if room not in (None, self.room) else after
        lines = [encode_json(Welcome(member.name, self.newest_id, self.room))]
        if after is not None:
            missing, kept = self._history.after(after, self.newest_id)
            lines += [encode_json(Gap(missing))] if missing else []
            lines += kept
        member.json = True
        self._readers_of_json += 1
        for outlet in self.outlets:
            outlet(Switch(member, lines))
        self._draft = Draft(json=True)

    def leave(self, member: Member, reason: str) -> None:
        """The member is gone; it still gets what is committed together with its leaving."""
        self.roster.remove(member)
        self._draft.left.append((member, reason))
        if reason != SHUTDOWN:  # then everyone leaves, and nobody has to know of each
            self._draft.announce(Left(member.name), in_text=self._announces, besides=member)
        with suppress(HookFailed):
            self._hooks.on_leave(member, reason)
        self._readers_of_json -= member.json

    def commit(self) -> None:
        """Keep what was said, and hand it out."""
        draft, self._draft = self._draft, Draft(json=self._readers_of_json > 0)
        if batch := draft.batch():
            self._history.append(draft.messages)
            for outlet in self.outlets:
                outlet(batch)
