"""A client's side of one connection: bytes in, events out. No sockets, no waiting: both clients are built on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from chatkit.client.backlog import memory_of
from chatkit.client.exchange import Exchange
from chatkit.client.opening import Opening
from chatkit.errors import ChatError, ConnectionClosed, NameTaken, PasswordRefused, ProtocolError, Refused
from chatkit.events import Action, Event, Message, Notice, Private, Welcome
from chatkit.protocol.lines import AnyServerDecoder, BadLine, Line, LineDecoder, encode_line, parse_command
from chatkit.protocol.names import RULE
from chatkit.protocol.replies import (
    ASKS_PASSWORD,
    NAME_REFUSED,
    REPLAY_BEGINS,
    REPLAY_ENDS,
    RESUME_COMMAND,
    WRONG_PASSWORD,
    now_named,
)
from chatkit.protocol.sanitize import clean
from chatkit.protocol.text import parse_foreign_text, parse_text

MAX_RECEIVED_BYTES = 1024 * 1024
# Events that wait until the opening is answered, as memory. A replay comes before the answer to `/nick`: a thousand of
# the longest lines (history_size, max_line_bytes) in characters of four bytes fit.
MAX_OPENING_BYTES = 32 * 1024 * 1024


class ClientProtocol:
    """The parser of a server's lines, and the reason for the end of the conversation.

    Attributes:
        opening: the lines that send the password and ask for name and events; to be sent first.
        received: events that the caller hasn't taken yet.
        ended: the reason why no more events follow, or None.
    """

    def __init__(self, max_line_bytes: int, asked: Opening, *, any_server: bool = False) -> None:
        """Check the requests of the opening.

        Args:
            any_server: without events, take each line for text as it is, for a screen.

        Raises:
            ValueError: they can't be asked for.
        """
        asked.check(max_line_bytes)
        self.received: deque[Event] = deque()
        self.ended: ChatError | None = None
        self._socket_error: ConnectionClosed | None = None  # the reason for the end that reads will find
        lines = asked.lines()
        self.opening = "".join(f"{line}\n" for line in lines).encode()
        self._max_line_bytes = max_line_bytes
        self._asked = asked
        self._named = Notice(now_named(asked.name or ""))
        self._expected = asked.answers()
        commands = [line.partition(" ")[0] for line in lines if not line.startswith(RESUME_COMMAND)]
        self._unknown = [f"unknown command {command}" for command in commands]
        self._closing = False
        self._has_welcome = False
        self._opening_bytes = 0
        self._exchanges: list[Exchange] = []
        # Sanitizing makes at most three bytes of one, and a name is added. The rest is for servers with higher limits.
        longest = max(3 * max_line_bytes + 1024, MAX_RECEIVED_BYTES)
        self._takes_any = any_server and not asked.events
        self._decoder = AnyServerDecoder(longest) if self._takes_any else LineDecoder(longest)

    @property
    def is_opening(self) -> bool:
        """Tell whether answers to `opening` are missing.

        Raises:
            NameTaken, Refused, PasswordRefused, ConnectionClosed, ProtocolError: they won't come.
        """
        if self._expected and self.ended:
            last = self.received[-1] if self.received else None
            if isinstance(self.ended, ConnectionClosed) and isinstance(last, Notice):
                raise ConnectionClosed(last.text, clean=self.ended.clean)  # such as: the room is full
            raise self.ended
        return bool(self._expected)

    @property
    def is_open(self) -> bool:
        """Tell whether `opening` is answered, and `begin_close` wasn't called."""
        return not self._expected and not self._closing

    @property
    def is_closing(self) -> bool:
        """Tell whether `begin_close` was called."""
        return self._closing

    def encode(self, text: str) -> bytes:
        """Return `text` as a line for the wire.

        Raises:
            ValueError: it holds a line end, is too long, or isn't valid Unicode.
        """
        return encode_line(text, self._max_line_bytes)

    def frame(self, exchange: Exchange, data: bytes) -> bytes:
        """Begin an exchange. Return the bytes to send for its line, which is encoded as `data`."""
        self._exchanges.append(exchange)
        if self.ended:
            exchange.lose()
        return exchange.frame(data)

    def receive_data(self, data: bytes) -> None:
        """Parse the result of a socket's `recv`. No bytes mean the server's end of stream."""
        if not data:
            if isinstance(self._decoder, AnyServerDecoder) and self._decoder.ends_no_line:
                self.end_line()
            is_clean = self._closing or not self._decoder.in_line
            reason = "the server ended the conversation" if is_clean else "the server ended in the middle of a line"
            self.end(self.first_error or ConnectionClosed(reason, clean=is_clean))
        elif not self._closing and not self.ended:
            self._receive_lines(self._decoder.receive_data(data))

    @property
    def first_error(self) -> ChatError | None:
        """Return the error that every later call raises, once all events are received; None if there is none."""
        return closed_error() if self._closing else self.ended or self._socket_error

    def closed_by(self, error: OSError) -> ChatError:
        """Return the error to raise for a socket's error, which isn't the first one perhaps.

        The kernel tells a loss once: a read after a write that failed finds an end of stream, as if the server had
        ended in order. A broken pipe is no loss: this side's stream has ended, or the server's has and reads find it.
        """
        closed = ConnectionClosed(error.strerror or str(error), clean=False)
        if not isinstance(error, BrokenPipeError):
            self._socket_error = self._socket_error or closed
        return self.first_error or closed

    def end(self, reason: ChatError) -> None:
        """Receive nothing more. The first reason counts."""
        self.ended = self.ended or reason
        for exchange in self._exchanges.copy():
            exchange.lose()

    def begin_close(self) -> None:
        """Drop what arrives from now on. Every end is a clean one then."""
        self._closing = True

    def close(self) -> None:
        """Drop the events that the caller hasn't taken, and end the conversation."""
        self.received.clear()
        self.end(closed_error())
        self.ended = closed_error()

    @property
    def has_quiet_text(self) -> bool:
        """Whether a line of text has begun, so that `end_line` would receive it."""
        return self._takes_any and isinstance(self._decoder, AnyServerDecoder) and self._decoder.may_end

    def end_line(self) -> None:
        """Receive text without a line end as a line: for a screen."""
        if isinstance(self._decoder, AnyServerDecoder) and not self._closing and not self.ended:
            self._receive_lines(self._decoder.end_line())

    def _receive_lines(self, lines: list[Line]) -> None:
        try:
            for line in lines:
                self._receive_line(line)
        except ChatError as error:
            self.end(error)

    def _receive_line(self, line: Line) -> None:
        if isinstance(line, BadLine):
            raise ProtocolError(f"the server sent a line {line.reason}")
        assert isinstance(line, str)  # only a server looks for other protocols
        event = self._parse(line)
        if isinstance(event, Welcome):
            if self._has_welcome:
                raise ProtocolError("the server sent a second welcome")
            self._has_welcome = True
        is_received = event and (not self._expected or self._match_opening(event))
        if event and is_received and not (self._exchanges and self._is_answer(event)):
            self.received.append(event)
            if self._expected:
                self._count_waiting(event)

    def _parse(self, line: str) -> Event | None:
        """Return the event in a line. No name begins with a brace, and so no line of a room's text does."""
        if not self._takes_any:
            return _json_parser()(line) if line.startswith("{") else parse_text(line)
        if line.startswith("{"):
            with suppress(ProtocolError):  # an object of another kind of server
                if isinstance(event := _json_parser()(line), Welcome):  # the user has typed `/json`: events follow
                    self._takes_any = False
                    return event
        return parse_foreign_text(line)

    def _is_answer(self, event: Event) -> bool:
        """Tell whether an event is for an exchange alone."""
        for exchange in self._exchanges.copy():  # another thread may begin one
            if exchange.receive(event):
                if exchange.is_over:
                    self._exchanges.remove(exchange)
                return True
        return False

    def _count_waiting(self, event: Event) -> None:
        """Count the memory of an event that waits for the end of the opening.

        Raises:
            ProtocolError: too much waits.
        """
        self._opening_bytes += memory_of(event)
        if self._opening_bytes > MAX_OPENING_BYTES:
            self.received.clear()
            raise ProtocolError(f"the server sent over {MAX_OPENING_BYTES} bytes of lines before its answer")

    def _name_refusal(self, event: Event) -> NameTaken | Refused | None:
        """Return the error for a notice that refuses the name of the opening, or None."""
        taken = NameTaken(self._asked.name or "")
        if event == Notice(str(taken)):
            return taken
        if isinstance(event, Notice) and event.text.startswith(NAME_REFUSED):
            return Refused(event.text.removeprefix(NAME_REFUSED))
        return None

    def _match_opening(self, event: Event) -> bool:
        """Compare an event with the next expected answer. Return whether the caller gets it, too.

        Raises:
            NameTaken, Refused: another member has the name, or the room doesn't let it pass.
            PasswordRefused: the password is wrong or missing.
            ProtocolError: the server, an older one perhaps, doesn't know a command of the opening.
        """
        if self._asked.name and (refusal := self._name_refusal(event)):
            if not self._asked.is_returning:
                raise refusal
            event = self._named  # the answer, too
        if event == Notice(WRONG_PASSWORD) or (event == Notice(ASKS_PASSWORD) and self._asked.password is None):
            raise PasswordRefused(event.text)
        if isinstance(event, Notice) and event.text.startswith((RULE, *self._unknown)):
            raise ProtocolError(f"the server doesn't support this client's request: {event.text}")
        if event in self._expected[0] or type(event) in self._expected[0]:
            del self._expected[0]
            return isinstance(event, Welcome)
        if event in (Notice(ASKS_PASSWORD), self._named):
            return False
        # Messages before the welcome have no id, and come again after it.
        is_replay = not isinstance(event, Notice | Private) or event in (REPLAY_BEGINS, REPLAY_ENDS)
        return not is_replay or (Welcome,) not in self._expected


@cache
def _json_parser() -> Callable[[str], Event | None]:
    """Return the parser of JSON, loaded with the first line of it: a member with plain text gets none."""
    from chatkit.protocol.formats import parse_json

    return parse_json


def last_common_id(welcome: Welcome, epoch: str | None) -> int | None:
    """Return the id up to which ids that a client knows are the room's; None if none of them is.

    Args:
        epoch: the epoch of these ids, None if it isn't known.
    """
    return welcome.newest if epoch in (None, welcome.epoch) else welcome.common


def closed_error() -> ConnectionClosed:
    """Return the error for calls after `close`."""
    return ConnectionClosed("this client is closed", clean=True)


def unanswered_error(seconds: float) -> ConnectionClosed:
    """Return the error for a server that doesn't end the conversation after this side has left."""
    return ConnectionClosed(f"the server didn't end the conversation within {seconds:g} seconds", clean=False)


def command_name(line: str) -> str | None:
    """Return the name of the command that the room reads in a line, or None."""
    found = parse_command(clean(line))
    return found[0] if found and not found[0].startswith("/") else None


def expected_echo(line: str) -> tuple[type[Message], str] | None:
    """Return the type and text of the message that the room makes of a line, or None if it makes none."""
    text = clean(line)
    word, argument = parse_command(text) or ("/", f"/{text}")
    if word.startswith("/"):
        return Message, text.removeprefix("/") if text.startswith("//") else text
    if word in ("say", "me"):
        return Action if word == "me" else Message, argument
    return None
