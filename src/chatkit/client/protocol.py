"""A client's side of a conversation: bytes in, events out. No sockets, no waiting: both clients are built on it."""

from __future__ import annotations

from collections import deque

from chatkit.errors import ChatError, ConnectionClosed, NameTaken, PasswordRefused, ProtocolError
from chatkit.events import Action, Event, Message, Notice, Private, Welcome
from chatkit.protocol.formats import parse_json, parse_text
from chatkit.protocol.lines import BadLine, LineDecoder, check_password, encode_line, parse_command
from chatkit.protocol.names import RULE, check_name
from chatkit.protocol.replies import (
    ACCEPTED,
    ASKS_PASSWORD,
    NO_PASSWORD_NEEDED,
    PASSWORD_COMMAND,
    REPLAY_BEGINS,
    REPLAY_ENDS,
    WRONG_PASSWORD,
    now_named,
)
from chatkit.protocol.sanitize import clean

MAX_RECEIVED_BYTES = 1024 * 1024


class ClientProtocol:
    """What has been received, and how it ends.

    max_line_bytes: of a line to send. password, name, events, after: what to ask the server for, as in `Client`.
    epoch: the run of ids that `after` is from, when coming back: a name that is taken by now is no reason to stay away.
    opening: the lines that ask for it, to be sent first.
    received: events that nobody has taken yet.
    ended: why there will be no more, or None.

    ValueError: the name breaks the rule, no line can say the password, or `after` is set without `events`.
    """

    def __init__(
        self,
        max_line_bytes: int,
        *,
        password: str | None,
        name: str | None,
        events: bool,
        after: int | None,
        epoch: str | None = None,
    ) -> None:
        if name is not None:
            check_name(name)
        if password is not None:
            check_password(password, max_line_bytes)
        if after is not None and (not events or after < 0):
            raise ValueError("after is an id, from 0, and needs events=True")
        self.received: deque[Event] = deque()
        self.ended: ChatError | None = None
        self.opening = b"" if password is None else f"{PASSWORD_COMMAND}{password}\n".encode()
        self.opening += f"/nick {name}\n".encode() if name else b""
        self.opening += f"/json {'' if after is None else after}".encode() if events else b""
        self.opening += f" {epoch}\n/sync\n".encode() if epoch else b"\n" if events else b""
        self._max_line_bytes = max_line_bytes
        self._name = name
        # What answers the opening, in order. Before the welcome, messages have no id, and `after` would tell them twice.
        self._awaited: list[tuple[Event | type[Welcome], ...]] = []
        self._awaited += [] if password is None else [(Notice(ACCEPTED), Notice(NO_PASSWORD_NEEDED))]
        taken = Notice(str(NameTaken(name or "")))
        self._awaited += [(Notice(now_named(name)), *([taken] if epoch else []))] if name else []
        self._awaited += [(Welcome,)] if events else []
        self._refused = taken if name and not epoch else None
        self._has_password = password is not None
        self._unknown = [f"unknown command {line.split()[0]}" for line in self.opening.decode().splitlines()]
        self._closing = False
        # Cleaning makes three bytes of one at the most; a name comes on top. Room for a server with higher limits.
        self._decoder = LineDecoder(max(3 * max_line_bytes + 1024, MAX_RECEIVED_BYTES))

    @property
    def is_opening(self) -> bool:
        """Whether the server has still to answer `opening`. NameTaken, PasswordRefused, ConnectionClosed, ProtocolError: it won't."""
        if self._awaited and self.ended:
            last = self.received[-1] if self.received else None
            if isinstance(self.ended, ConnectionClosed) and isinstance(last, Notice):
                raise ConnectionClosed(last.text, clean=self.ended.clean)  # such as: the room is full
            raise self.ended
        return bool(self._awaited)

    @property
    def is_closing(self) -> bool:
        """Whether this side has begun to leave."""
        return self._closing

    def line(self, text: str) -> bytes:
        """`text` for the wire. ValueError: it can't be sent."""
        return encode_line(text, self._max_line_bytes)

    def receive_data(self, data: bytes) -> None:
        """What the socket gave; nothing means the server's end."""
        if not data:
            whole = self._closing or not self._decoder.in_line
            reason = "the server ended the conversation" if whole else "the server ended in the middle of a line"
            self.end(ConnectionClosed(reason, clean=whole))
        elif not self._closing and not self.ended:
            try:
                self._take(data)
            except ChatError as error:
                self.end(error)

    def lose(self, error: OSError) -> ConnectionClosed:
        """The socket failed: what to raise for that."""
        reason = "this client is closed" if self._closing else error.strerror or str(error)
        return ConnectionClosed(reason, clean=self._closing)

    def end(self, reason: ChatError) -> None:
        """Nothing more will be received; the first reason counts."""
        self.ended = self.ended or reason

    def begin_close(self) -> None:
        """From now on nothing that arrives is kept, and every end is a clean one."""
        self._closing = True

    def close(self) -> None:
        """The end, for whoever still waits."""
        self.received.clear()
        self.ended = ConnectionClosed("this client is closed", clean=True)

    def _take(self, data: bytes) -> None:
        for line in self._decoder.receive_data(data):
            if isinstance(line, BadLine):
                raise ProtocolError(f"the server sent a line {line.reason}")
            assert isinstance(line, str)  # what looks like another protocol may be a member's words
            # No name begins with a brace, and so no line of text.
            event = parse_json(line) if line.startswith("{") else parse_text(line)
            if event and (not self._awaited or self._opens(event)):
                self.received.append(event)

    def _opens(self, event: Event) -> bool:
        """Look for what is awaited; whether the event is also for the caller.

        NameTaken: the name can't be had. PasswordRefused: the password is wrong, or there is none.
        ProtocolError: the server, an older one perhaps, doesn't know what was asked for.
        """
        if self._name and event == self._refused:
            raise NameTaken(self._name)
        if event == Notice(WRONG_PASSWORD) or (event == Notice(ASKS_PASSWORD) and not self._has_password):
            raise PasswordRefused(event.text)
        if isinstance(event, Notice) and event.text.startswith((RULE, *self._unknown)):
            raise ProtocolError(f"the server doesn't do what it was asked for: {event.text}")
        if event in self._awaited[0] or type(event) in self._awaited[0]:
            del self._awaited[0]
            return isinstance(event, Welcome)
        if event in (Notice(ASKS_PASSWORD), REPLAY_BEGINS, REPLAY_ENDS):
            return False
        return isinstance(event, Notice | Private) or (Welcome,) not in self._awaited


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
