"""What leads a client from a lost connection to the next one. No sockets, no waiting: both clients are built on it."""

from __future__ import annotations

from collections import deque

from chatkit.client.inflight import InFlight
from chatkit.client.protocol import ClientProtocol
from chatkit.errors import ConnectionClosed, NotConnected, ProtocolError
from chatkit.events import Disconnected, Error, Event, Gap, Left, Message, Notice, Reconnected, Renamed, Synced, Welcome
from chatkit.protocol.lines import is_exit
from chatkit.protocol.names import name_key
from chatkit.protocol.replies import REMOVED

SYNC = "/sync"

# Who takes nothing for so long makes the server wait, and in the end be cut off, instead of filling the memory.
MAX_WAITING_EVENTS = 1000
# Each time so many more lines are unconfirmed, who sends looks for answers: seldom enough to cost next to nothing.
CATCH_UP_LINES = 100


class ResumeState:
    """Which message was the last, what one's own name is, what was sent and may have been lost.

    max_line_bytes, password, name, after: as for `Client`. queue: how many lines are kept while away.
    queued: those, in order.
    is_leaving: whether this side has said that the conversation is over, so that its end is no loss.

    A line is confirmed by the answer to a `/sync` that was sent after it; one of these is under way at a time. What is
    remembered until then has a bound, see `InFlight`.
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
        self._epoch: str | None = None
        self._removed = False
        self._reason = ""  # why the room didn't let it in, as was told
        self._in_flight = InFlight()
        self._asks_for_name = False
        self.protocol()  # what can't be asked for is the caller's mistake at once

    def protocol(self) -> ClientProtocol:
        """For the next connection: it asks for what came after the last message here."""
        return ClientProtocol(
            self._max_line_bytes,
            password=self._password,
            name=self._chosen,
            events=True,
            after=self._told,
            epoch=self._epoch,
        )

    # What is sent

    def send(self, text: str) -> bytes:
        """The bytes that say a line, which has been checked, and ask for its confirmation if nothing else does."""
        if is_exit(text):
            return self.leave() + f"{text}\n".encode()
        if text:  # else the room does nothing, whether it hears it or not
            self._in_flight.add(text)
        return f"{text}\n".encode() + self.owed()

    def leave(self) -> bytes:
        """The conversation is over when this side says so; what is to be sent before that, so that all is confirmed."""
        self.is_leaving = True
        return self._sync() if self._in_flight.has_uncovered_lines else b""

    def unsend(self, text: str) -> None:
        """The last line, this one, didn't get away; perhaps it is known already that the connection is lost."""
        if text and not is_exit(text):
            self._in_flight.retract()

    @property
    def is_due(self) -> bool:
        """Whether who sends had better look for answers, in case nobody receives."""
        lines = self._in_flight.unacknowledged
        return bool(lines) and not lines % CATCH_UP_LINES

    @property
    def owes(self) -> bool:
        """Whether there is something to ask the room."""
        return self._asks_for_name or self._needs_sync

    def owed(self) -> bytes:
        """That, as bytes; to be sent now."""
        asked = f"/nick {self._chosen}\n".encode() if self._asks_for_name else b""
        self._asks_for_name = False
        return asked + (self._sync() if self._needs_sync else b"")

    def keep(self, text: str) -> None:
        """A line for the time after the return. NotConnected: there is no place for it."""
        if not self._queue:
            raise NotConnected("the connection is lost")
        if len(self.queued) >= self._queue:
            raise NotConnected(f"the connection is lost, and {self._queue} lines are waiting")
        self.queued.append(text)

    # What is heard

    def receive(self, event: Event) -> list[Event]:
        """What the caller is told of it."""
        match event:
            case Welcome():
                return self._welcomed(event)
            case Synced():
                return self._synced(event)
            case Message():
                is_new = self._told_up_to(event.id or 0)
                is_ours = self._in_flight.match_echo(event)
                return [event] if is_new and not is_ours else []
            case Gap():
                known = self._last or 0
                is_new = self._told_up_to((self._told or 0) + event.missing)  # once, not again after the next return
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
        self._in_flight.connection_lost({*self._names, self._name, self._chosen or self._name})
        self._names = set()
        if self._in_flight.has_lost_lines:  # ask for all that may be one of them; what the caller knows is passed over
            self._told = min(self._told or 0, self._heard)
        self._reason = ""
        self._asks_for_name = False
        if self.is_over(reason):
            return self.report_unknown()
        return [Disconnected(f"the connection is lost: {reason}; trying to come back")]

    def fail(self, error: Exception) -> list[Event]:
        """An attempt to come back failed: what the caller is told, once, if the room had a reason."""
        if not isinstance(error, ConnectionClosed) or not error.clean or error.reason == self._reason:
            return []
        self._reason = error.reason
        return [Notice(f"not let in: {error}; trying again")]

    def is_over(self, reason: Exception) -> bool:
        """Whether that is an end for good."""
        return self.is_leaving or self._removed or isinstance(reason, ProtocolError)

    def report_unknown(self) -> list[Event]:
        """There is no return: what the caller is told of the lines whose fate is unknown."""
        return self._in_flight.report_unknown()

    @property
    def _needs_sync(self) -> bool:
        return self._in_flight.has_uncovered_lines and not self._in_flight.is_sync_pending

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

    def _sync(self) -> bytes:
        self._in_flight.add_sync(is_ours=True)
        return f"{SYNC}\n".encode()

    def _welcomed(self, event: Welcome) -> list[Event]:
        before, self._epoch, self._name = self._epoch, event.epoch, event.name
        self._names = {event.name}
        if not self._in_flight.has_lost_lines or before != event.epoch:
            self._heard = event.newest
        if not before:
            self._told = self._last = event.newest if self._last is None else min(self._last, event.newest)
            return [event]
        self._sync()  # the opening asks for it
        self._asks_for_name = self._is_homeless  # it may have become free before we could hear that
        if before == event.epoch:
            return [Reconnected(f"back as {event.name}", event.name, False)]
        self._told = self._last = 0  # and nothing in the new room can prove a line that was said in the old one
        return [Reconnected(f"back as {event.name}, but the room began anew", event.name, True), *self.report_unknown()]

    def _synced(self, event: Synced) -> list[Event]:
        self._told_up_to(event.newest)
        self._heard = event.newest
        self._names = {self._name}
        is_callers = self._in_flight.acknowledge()
        return [*self.report_unknown(), *([event] if is_callers else [])]


def left() -> ConnectionClosed:
    """What to raise when this side has said that the conversation is over."""
    return ConnectionClosed("this client has left", clean=True)


def closed() -> ConnectionClosed:
    """The same after `close`."""
    return ConnectionClosed("this client is closed", clean=True)
