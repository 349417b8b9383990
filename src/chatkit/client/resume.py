"""The state that outlives a lost connection. No sockets, no waiting: both clients are built on it."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from chatkit.client.inflight import InFlight
from chatkit.client.opening import SYNC, TOKEN, Opening
from chatkit.client.protocol import ClientProtocol, last_common_id
from chatkit.errors import ConnectionClosed, NotConnected, ProtocolError
from chatkit.events import Disconnected, Error, Event, Gap, Left, Message, Notice, Reconnected, Renamed, Synced, Welcome
from chatkit.protocol.lines import is_exit
from chatkit.protocol.names import name_key
from chatkit.protocol.replies import REMOVED

# Of the names of this member since the last answer to `/sync` the newest are kept.
MAX_SENDER_NAMES = 100
# A sender looks for answers each time this many more lines are unacknowledged: seldom enough to cost next to nothing.
CATCH_UP_LINES = 100


class ResumeState:
    """Message ids, names and sent lines, as far as the next connection needs them.

    Attributes:
        queued: lines to send after the return, in order.
        is_leaving: whether this side has ended the conversation, so that the connection's end is no loss.

    Three cursors, all of them message ids:

    - the caller's: the caller has every message up to it, and none of them is delivered again;
    - the connection's: the current connection has delivered every message up to it. The next connection asks for what
      follows. It falls back while lines of a lost connection wait for their echoes;
    - the settled one: the echoes of the lines in flight have larger ids. It bounds that fall back.

    The answer to a `/sync` acknowledges the lines that were sent before it. One `/sync` of ours is pending at a time.
    """

    def __init__(self, max_line_bytes: int, asked: Opening, queue: int) -> None:
        """Check the arguments.

        Args:
            asked: the first connection's opening.
            queue: the number of lines to keep during an absence.

        Raises:
            ValueError: they can't be asked for.
        """
        if queue < 0:
            raise ValueError("queue is a number of lines, from 0")
        self.queued: deque[str] = deque()
        self.is_leaving = False
        self._queue_size = queue
        self._max_line_bytes = max_line_bytes
        self._asked = asked
        self._chosen_name = asked.name  # to be taken again
        self._name = asked.name or ""
        self._sender_names = _names()  # the room may have relayed a line in flight under one of these
        self._caller_cursor = asked.after
        self._connection_cursor = asked.after
        self._settled_cursor = 0
        self._epoch = asked.epoch
        self._was_welcomed = False
        self._token = ""  # of the last welcome: the room has this client's place under it
        self._is_removed = False
        self._refusal = ""  # the last one that the caller was told
        self._in_flight = InFlight()
        self._wants_name = False
        self.next_protocol()  # raises ValueError now, not at the first loss

    def next_protocol(self) -> ClientProtocol:
        """Return the protocol for the next connection. It asks for the messages after the connection's cursor."""
        asked = replace(
            self._asked,
            name=self._chosen_name,
            after=self._next_after,
            epoch=self._epoch,
            is_returning=self._was_welcomed,
            token=self._token,
        )
        return ClientProtocol(self._max_line_bytes, asked)

    # Sending

    def send(self, text: str) -> bytes:
        """Return the bytes of a valid line, followed by pending requests."""
        if is_exit(text):
            return self.leave() + f"{text}\n".encode()
        if text:  # the room ignores an empty line, so there is nothing to confirm
            self._in_flight.add(text)
        return f"{text}\n".encode() + self.take_request()

    def leave(self) -> bytes:
        """Note that this side ends the conversation. Return the bytes that have to be sent before the end."""
        self.is_leaving = True
        return self._sync() if self._in_flight.has_uncovered_lines else b""

    def retract(self, text: str) -> None:
        """Forget the newest line, which could not be sent. The connection may be known as lost by now."""
        if text and not is_exit(text):
            self._in_flight.retract()

    @property
    def should_catch_up(self) -> bool:
        """Tell whether a sender should look for answers, in case no thread receives."""
        lines = self._in_flight.unacknowledged
        return bool(lines) and not lines % CATCH_UP_LINES

    @property
    def has_request(self) -> bool:
        """Tell whether a `/sync` or `/nick` has to be sent."""
        return self._wants_name or self._needs_sync

    def take_request(self) -> bytes:
        """Return the pending requests as bytes. The caller must send them next."""
        nick = f"/nick {self._chosen_name}\n".encode() if self._wants_name else b""
        self._wants_name = False
        return nick + (self._sync() if self._needs_sync else b"")

    def enqueue(self, text: str) -> None:
        """Keep a line for the time after the return.

        Raises:
            NotConnected: there is no queue, or it is full.
        """
        if not self._queue_size:
            raise NotConnected("the connection is lost")
        if len(self.queued) >= self._queue_size:
            raise NotConnected(f"the connection is lost, and {self._queue_size} lines are waiting")
        self.queued.append(text)

    # Receiving

    def receive(self, event: Event) -> list[Event]:
        """Apply an event from the room. Return the events for the caller."""
        match event:
            case Welcome():
                return self._on_welcome(event)
            case Synced():
                return self._on_synced(event)
            case Message():
                return self._on_message(event)
            case Gap():
                return self._on_gap(event)
            case Error(code=code) if code == REMOVED:
                self._is_removed = True
            case Renamed(old=old) if old == self._name:
                self._name = self._chosen_name = event.name
                self._sender_names.append(event.name)
            case Left(name=freed) | Renamed(old=freed):
                self._wants_name |= self._lacks_chosen_name and name_key(freed) == name_key(self._chosen_name or "")
        return [event]

    def connection_lost(self, reason: Exception) -> list[Event]:
        """Apply the loss of the connection. Return the events for the caller.

        Where there is no return, these are the lines whose fate is unknown.
        """
        self._in_flight.connection_lost({*self._sender_names, self._name, self._chosen_name or self._name})
        self._sender_names = _names()
        if self._in_flight.has_lost_lines:  # the replay must hold their echoes
            self._connection_cursor = min(self._next_after or 0, self._settled_cursor)
        self._refusal = ""
        self._wants_name = False
        if self.is_final_loss(reason):
            return self.report_unknown()
        return [Disconnected(f"the connection is lost: {reason}; trying to come back")]

    def attempt_failed(self, error: Exception) -> list[Event]:
        """Return the room's reason for refusing a new connection, unless it is the last one again."""
        if not isinstance(error, ConnectionClosed) or not error.clean or error.reason == self._refusal:
            return []
        self._refusal = error.reason
        return [Notice(f"not let in: {error}; trying again")]

    def is_final_loss(self, reason: Exception) -> bool:
        """Tell whether the client must not come back."""
        return self.is_leaving or self._is_removed or isinstance(reason, ProtocolError)

    def report_unknown(self) -> list[Event]:
        """Return an event for each line whose fate will never be known."""
        return self._in_flight.report_unknown()

    @property
    def _next_after(self) -> int | None:
        """Return the id after which the next connection's messages begin.

        A newcomer may be replayed earlier messages. Until the first of them its cursors are None: only the end of that
        replay is known.
        """
        is_newcomer = self._connection_cursor is None and self._was_welcomed
        return self._settled_cursor if is_newcomer else self._connection_cursor

    @property
    def _needs_sync(self) -> bool:
        return self._in_flight.has_uncovered_lines and not self._in_flight.is_sync_pending

    @property
    def _lacks_chosen_name(self) -> bool:
        return self._chosen_name is not None and self._name != self._chosen_name

    def _advance(self, newest: int) -> bool:
        """Move the connection's cursor, and the caller's if it is behind. Return whether it was."""
        self._connection_cursor = max(self._connection_cursor or 0, newest)
        is_new = self._caller_cursor is None or self._connection_cursor > self._caller_cursor
        self._caller_cursor = max(self._caller_cursor or 0, self._connection_cursor)
        return is_new

    def _sync(self) -> bytes:
        self._in_flight.add_sync(is_ours=True)
        return f"{SYNC}\n".encode()

    def _on_welcome(self, event: Welcome) -> list[Event]:
        after, epoch, self._epoch, self._name = self._next_after, self._epoch, event.epoch, event.name
        common = last_common_id(event, epoch)
        goes_on = common is not None and max(self._caller_cursor or 0, after or 0) <= common
        self._token = event.resume if TOKEN.fullmatch(event.resume) else ""
        self._sender_names = _names(event.name)
        if not self._in_flight.has_lost_lines or not goes_on:
            self._settled_cursor = event.newest
        if not self._was_welcomed:
            self._was_welcomed = True
            if self._caller_cursor is not None:
                self._connection_cursor = self._caller_cursor = min(self._caller_cursor, common or 0)
            return [event]
        self._in_flight.add_sync(is_ours=True)  # the opening holds it
        self._wants_name = self._lacks_chosen_name  # it may have become free before the welcome
        if goes_on:
            self._connection_cursor = after
            return [Reconnected(f"back as {event.name}", event.name, False, event.epoch)]
        self._caller_cursor = common or 0  # above it are other messages now; no echo of ours will come
        self._connection_cursor = min(after or 0, self._caller_cursor)
        text = f"back as {event.name}, but the room began anew"
        return [Reconnected(text, event.name, True, event.epoch), *self.report_unknown()]

    def _on_synced(self, event: Synced) -> list[Event]:
        self._advance(event.newest)
        self._settled_cursor = event.newest
        self._sender_names = _names(self._name)
        is_callers = self._in_flight.acknowledge()
        return [*self.report_unknown(), *([event] if is_callers else [])]

    def _on_message(self, event: Message) -> list[Event]:
        is_new = self._advance(event.id or 0)
        if event.own:
            self._in_flight.receive_echo(event)
        elif self._in_flight.match_echo(event):
            if not self._asked.echo:
                return []
            event = replace(event, own=True)
        return [event] if is_new else []

    def _on_gap(self, event: Gap) -> list[Event]:
        """Count only the messages that the caller lacks."""
        if self._connection_cursor is None:  # a newcomer's
            return [event]
        known = self._caller_cursor or 0
        is_new = self._advance(self._connection_cursor + event.missing)  # the next replay starts behind the gap
        return [Gap(min(event.missing, (self._caller_cursor or 0) - known))] if is_new else []


def _names(*names: str) -> deque[str]:
    return deque(names, MAX_SENDER_NAMES)


def left_error() -> ConnectionClosed:
    """Return the error for calls after this side has ended the conversation."""
    return ConnectionClosed("this client has left", clean=True)
