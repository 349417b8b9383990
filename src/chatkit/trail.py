"""What leads a client from a lost connection to the next one. No sockets, no waiting: both clients are built on it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from chatkit.errors import ConnectionClosed, NotConnected, ProtocolError
from chatkit.events import Error, Event, Gap, Left, Lost, Message, Notice, Renamed, Returned, Synced, Unsure, Welcome
from chatkit.names import name_key
from chatkit.session import Session, command_of, is_exit, said

SYNC = "/sync"

# The code of the error that tells a member it was removed: it isn't wanted back.
REMOVED = "removed"


@dataclass(slots=True)
class _Doubt:
    """Lines of one lost connection, in order, of which nobody knows whether they were heard. names: who said them."""

    names: set[str]
    lines: deque[str]


class Trail:
    """Which message was the last, what one's own name is, what was sent and may have been lost.

    max_line_bytes, password, name, after: as for `Client`. queue: how many lines are kept while away.
    queued: those, in order.
    is_leaving: whether this side has said that the conversation is over, so that its end is no loss.

    A line is confirmed by the answer to a `/sync` that was sent after it; one of these is under way at a time.
    """

    def __init__(
        self, max_line_bytes: int, *, password: str | None, name: str | None, after: int | None, queue: int
    ) -> None:
        if queue < 0:
            raise ValueError("queue is a number of lines, from 0")
        self.queued: deque[str] = deque()
        self.is_leaving = False
        self._queue = queue
        self._max_line_bytes = max_line_bytes
        self._password = password
        self._chosen = name  # the name to take back
        self._name = name or ""
        self._names = set[str]()  # those that unconfirmed lines may have been said under
        self._last = after  # the message up to which the caller knows all
        self._told = after  # the one up to which this connection has told all, or is asked to begin
        self._heard = 0  # the one up to which no line of ours is in doubt
        self._room: str | None = None
        self._removed = False
        self._reason = ""  # why the room didn't let it in, as was told
        self._unconfirmed: deque[str | None] = deque()  # None is a `/sync` of ours
        self._syncs = 0  # of these and the caller's, how many are in there
        self._doubts: list[_Doubt] = []
        self._asks_for_name = False
        self.session()  # what can't be asked for is the caller's mistake at once

    def session(self) -> Session:
        """For the next connection: it asks for what came after the last message here."""
        return Session(
            self._max_line_bytes,
            password=self._password,
            name=self._chosen,
            events=True,
            after=self._told,
            room=self._room,
        )

    # What is sent

    def send(self, text: str) -> bytes:
        """The bytes that say a line, which has been checked, and ask for its confirmation if nothing else does."""
        if is_exit(text):
            return self.leave() + f"{text}\n".encode()
        if text:  # else the room does nothing, whether it hears it or not
            self._unconfirmed.append(text)
            self._syncs += command_of(text) == "sync"
        return f"{text}\n".encode() + self.owed()

    def leave(self) -> bytes:
        """The conversation is over when this side says so; what is to be sent before that, so that all is confirmed."""
        self.is_leaving = True
        if not self._unconfirmed or self._unconfirmed[-1] is None:
            return b""
        self._sync()
        return f"{SYNC}\n".encode()

    def unsend(self, text: str) -> None:
        """The last line, this one, didn't get away; perhaps it is known already that the connection is lost."""
        if is_exit(text):
            return
        if text and self._unconfirmed:
            while self._unconfirmed.pop() is None:
                pass
        elif text and self._doubts:
            self._doubts[-1].lines.pop()

    @property
    def owes(self) -> bool:
        """Whether there is something to ask the room."""
        return self._asks_for_name or self._needs_sync

    def owed(self) -> bytes:
        """That, as bytes; to be sent now."""
        asked = f"/nick {self._chosen}\n" if self._asks_for_name else ""
        self._asks_for_name = False
        if self._needs_sync:
            self._sync()
            asked += f"{SYNC}\n"
        return asked.encode()

    def keep(self, text: str) -> None:
        """A line for the time after the return. NotConnected: there is no place for it."""
        if not self._queue:
            raise NotConnected("the connection is lost")
        if len(self.queued) >= self._queue:
            raise NotConnected(f"the connection is lost, and {self._queue} lines are waiting")
        self.queued.append(text)

    # What is heard

    def hear(self, event: Event) -> list[Event]:
        """What the caller is told of it."""
        match event:
            case Welcome():
                return self._welcomed(event)
            case Synced():
                return self._synced(event)
            case Message():
                is_new = self._told_up_to(event.id or 0)
                is_ours = self._proves(event)
                return [event] if is_new and not is_ours else []
            case Gap():
                known = self._last or 0
                is_new = self._told_up_to(
                    (self._told or 0) + event.missing
                )  # missing once, not again after the next return
                return [Gap(min(event.missing, (self._last or 0) - known))] if is_new else []
            case Error(code=code) if code == REMOVED:
                self._removed = True
            case Renamed(old=old) if old == self._name:
                self._name = self._chosen = event.name
                self._names.add(event.name)
            case Left(name=freed) | Renamed(old=freed):
                self._asks_for_name |= self._is_homeless and name_key(freed) == name_key(self._chosen or "")
        return [event]

    def lose(self, reason: Exception) -> list[Event]:
        """The connection is lost: what the caller is told, and if it is for good, what remains uncertain."""
        lines = deque[str](text for text in self._unconfirmed if text)
        asked = {line.split(maxsplit=1)[-1].strip() for line in lines if command_of(line) == "nick"}
        self._names |= {self._name, self._chosen or self._name, *asked}
        self._doubts += [_Doubt(self._names, lines)] if lines else []
        self._names = set()
        if self._doubts:  # ask for all that may be one of them; what the caller knows is passed over
            self._told = min(self._told or 0, self._heard)
        self._reason = ""
        self._unconfirmed.clear()
        self._syncs = 0
        self._asks_for_name = False
        if self.is_over(reason):
            return self.give_up()
        return [Lost(f"the connection is lost: {reason}; trying to come back")]

    def fail(self, error: Exception) -> list[Event]:
        """An attempt to come back failed: what the caller is told, once, if the room had a reason."""
        if not isinstance(error, ConnectionClosed) or not error.clean or error.reason == self._reason:
            return []
        self._reason = error.reason
        return [Notice(f"not let in: {error}; trying again")]

    def is_over(self, reason: Exception) -> bool:
        """Whether that is an end for good."""
        return self.is_leaving or self._removed or isinstance(reason, ProtocolError)

    def give_up(self) -> list[Event]:
        """There is no return: what the caller is told of the lines whose fate is unknown."""
        doubts, self._doubts = self._doubts, []
        return [
            Unsure(f"nobody knows whether the room heard: {line}", line) for doubt in doubts for line in doubt.lines
        ]

    @property
    def _needs_sync(self) -> bool:
        return bool(self._unconfirmed) and not self._syncs

    @property
    def _is_homeless(self) -> bool:
        """Whether somebody else has the name that this client chose."""
        return self._chosen is not None and self._name != self._chosen

    def _told_up_to(self, newest: int) -> bool:
        """This connection has told all up to this id; whether that is new to the caller."""
        self._told = max(self._told or 0, newest)
        is_new = self._last is None or self._told > self._last
        self._last = max(self._last or 0, self._told)
        return is_new

    def _sync(self) -> None:
        self._unconfirmed.append(None)
        self._syncs += 1

    def _welcomed(self, event: Welcome) -> list[Event]:
        before, self._room, self._name = self._room, event.room, event.name
        self._names = {event.name}
        if not self._doubts or before != event.room:
            self._heard = event.newest
        if not before:
            self._told = self._last = event.newest if self._last is None else min(self._last, event.newest)
            return [event]
        self._sync()  # the opening asks for it
        self._asks_for_name = self._is_homeless  # it may have become free before we could hear that
        if before == event.room:
            return [Returned(f"back as {event.name}", event.name, False)]
        self._told = self._last = 0  # and nothing in the new room can prove a line that was said in the old one
        return [Returned(f"back as {event.name}, but the room began anew", event.name, True), *self.give_up()]

    def _synced(self, event: Synced) -> list[Event]:
        self._told_up_to(event.newest)
        self._heard = event.newest
        self._names = {self._name}
        while self._unconfirmed:
            text = self._unconfirmed.popleft()
            if text is None or command_of(text) == "sync":
                self._syncs -= 1
                return [*self.give_up(), *([event] if text else [])]
        return [event]

    def _proves(self, message: Message) -> bool:
        """Whether this is one of our doubtful lines; then all that was sent before it was heard, too."""
        for doubt in self._doubts:
            if message.sender in doubt.names:
                for number, line in enumerate(doubt.lines):
                    if said(line) == (type(message), message.text):
                        doubt.lines = deque(list(doubt.lines)[number + 1 :])
                        return True
        return False


def left() -> ConnectionClosed:
    """What to raise when this side has said that the conversation is over."""
    return ConnectionClosed("this client has left", clean=True)


def closed() -> ConnectionClosed:
    """The same after `close`."""
    return ConnectionClosed("this client is closed", clean=True)
