"""What can happen in a room, one thing after the other. Knows no sockets, no threads.

Whoever calls holds the room's lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from chatkit.events import Event, Joined, Left, Message, Notice, Private, Renamed, Welcome
from chatkit.limits import Limits
from chatkit.protocol.formats import FORMATS, JSON, TEXT
from chatkit.protocol.replies import HANDLER_FAILED, NOT_KEPT, REPLAY_BEGINS, REPLAY_ENDS, now_named
from chatkit.room.batch import BatchBuilder, Subscribe
from chatkit.room.hooks import HookFailed, Hooks
from chatkit.room.members import Member, Roster
from chatkit.room.publisher import Publisher

SHUTDOWN = "shutdown"

# A question is a few bytes, its answer may be a screen: one member gets so many of these in one turn.
MAX_ANSWERS = 16


class Turn:
    """Members say, ask and leave; `commit` hands out what came of it.

    announce: whether members with plain text are told who joins, leaves or changes its name.
    replay: how many of the last messages a newcomer is told first.
    publisher: where it all goes. now: when (`time.time`) this turn's messages are said.
    """

    def __init__(self, handler: object, limits: Limits, publisher: Publisher, *, announce: bool, replay: int) -> None:
        self.roster = Roster(limits)
        self.publisher = publisher
        self.now = 0.0
        self._announced_in = tuple(format for format in FORMATS if announce or format.announces)
        self._replay = replay
        self._hooks = Hooks(handler)
        self._readers = Counter({TEXT: 1})  # text is always written: anyone may join
        self._answers: Counter[Member] = Counter()
        self._builder = BatchBuilder(self._readers)

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
        self._more.announce(Joined(member.name), self._announced_in)
        self.commit()
        admitted(member)
        newest = self.publisher.newest_id
        if self._replay and newest:
            self.publisher.publish(
                Subscribe(
                    member,
                    TEXT,
                    TEXT.encode(REPLAY_BEGINS),
                    self.publisher.cursor_before_last(self._replay),
                    newest,
                    TEXT.encode(REPLAY_ENDS),
                )
            )
        else:
            self.publisher.publish(Subscribe(member, TEXT))

    @property
    def newest_id(self) -> int:
        """Of the last message, 0 before the first."""
        return self.publisher.newest_id

    def say(self, member: Member, text: str, kind: type[Message] = Message) -> None:
        """A message, if the handler lets it pass. HookFailed: the handler raised."""
        if self.publisher.required and self.publisher.failure:
            self.tell(member, NOT_KEPT)
        elif message := self._hooks.on_message(kind(member.name, text, self.publisher.newest_id + 1, self.now)):
            if self.publisher.required and self._builder.has_more:
                self.commit()  # what may have to be refused goes alone
            self.publisher.newest_id += 1
            self._builder.say(member, message)

    def tell(self, member: Member, event: Event | bytes) -> None:
        """Something for one member alone."""
        self._more.tell(member, event)

    def may_answer(self, member: Member) -> bool:
        """Whether the member gets one more long answer in this turn."""
        self._answers[member] += 1
        return self._answers[member] <= MAX_ANSWERS

    def whisper(self, sender: Member, to: Member, text: str) -> None:
        self.tell(to, Private(sender.name, text, self.now))

    def announce(self, event: Event) -> None:
        """Something for everyone."""
        self._more.announce(event, FORMATS)

    def rename(self, member: Member, name: str) -> None:
        """ValueError, NameTaken: it can't have that name. HookFailed: the handler raised."""
        old_name = member.name
        self.roster.rename(member, name)
        renamed = Renamed(old_name, name)
        self._more.tell(member, renamed if member.json else Notice(now_named(name)))
        if old_name != name:
            self._more.announce(renamed, self._announced_in, exclude=member)
            self._hooks.on_rename(member, old_name)

    def subscribe(self, member: Member, after: int | None, epoch: str | None) -> None:
        """From here on the member reads JSON; first the messages with ids above `after`, or as many as newcomers are told.

        epoch: where `after` is from; if that is another one, all that is kept is told.
        """
        self.commit()
        newest = self.publisher.newest_id
        welcome = JSON.encode(Welcome(member.name, newest, self.publisher.epoch))
        if after is None:
            after = self.publisher.cursor_before_last(self._replay)
        elif epoch not in (None, self.publisher.epoch):
            after = 0
        member.format = JSON
        self._readers[JSON] += 1
        self.publisher.publish(Subscribe(member, JSON, welcome, after, newest))
        self._builder = BatchBuilder(self._readers)

    def leave(self, member: Member, reason: str) -> None:
        """The member is gone; it still gets what is committed together with its leaving."""
        self.roster.remove(member)
        self._more.left.append((member, reason))
        if reason != SHUTDOWN:  # then everyone leaves, and nobody has to know of each
            self._more.announce(Left(member.name), self._announced_in, exclude=member)
        with suppress(HookFailed):
            self._hooks.on_leave(member, reason)
        if member.format is not TEXT:
            self._readers[member.format] -= 1
            self._readers += Counter()  # a format without readers isn't written

    def commit(self) -> None:
        """Keep what was said, and hand it out."""
        builder, self._builder = self._builder, BatchBuilder(self._readers)
        if batch := builder.batch():
            self.publisher.publish(batch, builder.messages)

    @property
    def _more(self) -> BatchBuilder:
        """Where everything goes but messages: what may have to be refused goes alone."""
        if self.publisher.required and self._builder.has_messages:
            self.commit()
        return self._builder
