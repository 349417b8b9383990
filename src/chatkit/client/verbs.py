"""The verbs of `Client`, and for both clients the lines that mean just what they say."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

from chatkit.client.cancel import check, deadline_of, late_error, lock_timeout
from chatkit.client.exchange import Exchange, ask_members, members_of, message_of, say_and_ask
from chatkit.protocol.lines import EXIT, encode_line, is_exit
from chatkit.protocol.names import MAX_NAME_CHARACTERS, check_name

if TYPE_CHECKING:
    from chatkit.client.baton import Baton
    from chatkit.client.connection import ClientConnection
    from chatkit.client.reconnect import ReconnectingConnection
    from chatkit.events import MemberInfo, Message

# The name of any member, also a port. Which names may be chosen depends on the server's version of Unicode.
_NAME = re.compile(rf"[^\s:*]{{1,{MAX_NAME_CHARACTERS}}}")


@dataclass(frozen=True, slots=True)
class Composer:
    """The lines that the verbs of a client send.

    Each method raises ValueError if no line of the wire can carry its arguments.

    Attributes:
        max_line_bytes: the longest line.
        timeout: seconds to wait for an answer; None waits for ever.
        is_first: whether a line may be the first of its stream, where other protocols are looked for.
        events, echo: as of `Client`.
    """

    max_line_bytes: int
    timeout: float | None
    is_first: bool
    events: bool
    echo: bool

    def say(self, text: str) -> list[str]:
        """Return the lines that say each line of a text."""
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        if "" in lines:
            raise ValueError("not sent: an empty line")
        return [self._checked(self._escaped(line)) for line in lines]

    def act(self, text: str) -> str:
        """Return the line for an action."""
        return self._checked(f"/me {_one_line(text)}")

    def tell(self, name: str, text: str) -> str:
        """Return the line for a private message."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not sent: {name!r} is no member's name")
        return self._checked(f"/msg {name} {_one_line(text)}")

    def rename(self, name: str) -> str:
        """Return the line that takes a name."""
        check_name(name)
        return f"/nick {name}"

    def ask_members(self) -> Exchange:
        """Return an exchange for the list of members."""
        if not self.events:
            raise RuntimeError("members needs a client with events=True")
        return ask_members()

    def say_and_ask(self, text: str) -> Exchange:
        """Return an exchange that says one line."""
        if not self.echo:
            raise RuntimeError("confirm needs a client with echo=True")
        first, *others = self.say(text)
        if others:
            raise ValueError("not sent: confirm is for one line at a time")
        return say_and_ask(first)

    def _escaped(self, line: str) -> str:
        """Return the line that says any line. A blank one is no command, and `/say` takes none."""
        needs_escape = self.is_first or line.startswith("/") or is_exit(line)
        return f"/say {line}" if needs_escape and line.strip() else line

    def _checked(self, line: str) -> str:
        encode_line(line, self.max_line_bytes)
        return line


def _one_line(text: str) -> str:
    """Return a text that is one line and not blank."""
    if "\n" in text or "\r" in text:
        raise ValueError("not sent: contains a line end")
    if not text.strip():
        raise ValueError("not sent: an empty line")
    return text


def lost_error() -> ConnectionError:
    """Return the error for an answer that won't come, though the client may come back."""
    return ConnectionError("the connection was lost before the answer; a line may have been received or not")


def flooded_error() -> TimeoutError:
    """Return the error for an answer that too much comes before."""
    return TimeoutError("too much came before the answer")


class Verbs:
    """The verbs of `Client`."""

    _composer: Composer
    _connection: ClientConnection | ReconnectingConnection
    _receiving: Baton

    @abstractmethod
    def send(self, text: str) -> None:
        """Send one line as it is."""

    @overload
    def say(self, text: str, *, confirm: Literal[False] = False) -> None: ...
    @overload
    def say(self, text: str, *, confirm: Literal[True]) -> Message: ...
    def say(self, text: str, *, confirm: bool = False) -> Message | None:
        """Say a text to the room, each of its lines as a message, also such as `exit` or `/help`.

        Args:
            text: one or more lines, none of them empty; each at most `max_line_bytes` bytes in UTF-8, and 5 more where
                it has to be escaped.
            confirm: wait for the message as the room published it: one line only, and with echo.

        Returns:
            With confirm, the message. It also comes to `receive`, in its place.

        Raises:
            ValueError: `text` can't be sent; nothing was.
            Refused: with confirm: the room didn't publish it.
            TimeoutError, ConnectionError: with confirm: no answer in time, or before a loss (with reconnect): the room
                may publish it or not. A refusal, or with reconnect the message or an `Unconfirmed`, comes to `receive`.
            RuntimeError: confirm without echo.
            NotConnected, ConnectionClosed: as for `send`. With confirm no line is queued.
        """
        if confirm:
            return message_of(self._ask(self._composer.say_and_ask(text), self._composer.timeout))
        for line in self._composer.say(text):
            self.send(line)
        return None

    def act(self, text: str) -> None:
        """Describe an action: others receive `* NAME text`.

        Args:
            text: one line, not blank.

        Raises:
            ValueError: `text` is no such line; nothing was sent.
            NotConnected, ConnectionClosed: as for `send`.
        """
        self.send(self._composer.act(text))

    def tell(self, name: str, text: str) -> None:
        """Send a private message to one member.

        Args:
            name: the member's name, in upper or lower case. If nobody has it, an `Error` (`no_such_member`) comes.
            text: one line, not blank.

        Raises:
            ValueError: no member can have that name, or `text` is no such line; nothing was sent.
            NotConnected, ConnectionClosed: as for `send`.
        """
        self.send(self._composer.tell(name, text))

    def rename(self, name: str) -> None:
        """Ask for another name. A `Renamed` answers, or an `Error`; in plain text, a `Notice`.

        Args:
            name: the name.

        Raises:
            ValueError: the name breaks the rule; nothing was sent.
            NotConnected, ConnectionClosed: as for `send`.
        """
        self.send(self._composer.rename(name))

    def members(self) -> list[MemberInfo]:
        """Ask for the members of the room, at one moment; needs events.

        Returns:
            Them all, this one included, in the order in which they got their names.

        Raises:
            TimeoutError: no answer within the `timeout` of the client.
            Refused: too many questions at once.
            RuntimeError: the client was made without events.
            ConnectionError: with reconnect: the connection was lost before the answer.
            NotConnected, ConnectionClosed, ProtocolError: as for `send`.
        """
        return members_of(self._ask(self._composer.ask_members(), self._composer.timeout))

    def leave(self) -> None:
        """Leave the room. The events before the end of the conversation can still be received.

        Raises:
            ConnectionClosed: as for `send`.
        """
        self.send(EXIT)

    def _ask(self, exchange: Exchange, timeout: float | None) -> Exchange:
        """Send the line of an exchange, and return it when it is over. Other events stay for `receive`."""
        deadline = deadline_of(timeout)
        exchange.on_settled = self._receiving.notify
        self._connection.ask(exchange)
        try:
            while not exchange.is_settled:
                self._wait_for(exchange, deadline)
        except BaseException:
            exchange.is_abandoned = True
            raise
        if not exchange.is_over:
            raise self._connection.ended.with_traceback(None) if self._connection.ended else lost_error()
        return exchange

    def _wait_for(self, exchange: Exchange, deadline: float | None) -> None:
        """Read once, or wait for another thread's read that settles an exchange."""
        check(deadline)
        if exchange.is_flooded:
            raise flooded_error()
        with self._receiving.hold() as reading:
            if reading.acquire_unless(lambda: exchange.is_settled, lock_timeout(deadline)):
                if self._connection.ended:
                    raise self._connection.ended.with_traceback(None)
                self._connection.read(deadline)
            elif not exchange.is_settled:
                raise late_error()
