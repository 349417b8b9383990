"""Lines whose answers are awaited. No sockets, no waiting: both clients are built on it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from chatkit.client.backlog import memory_of
from chatkit.errors import ProtocolError, Refused
from chatkit.events import Error, Event, MemberInfo, Members, Message, Notice
from chatkit.protocol.replies import NOT_SENT, unknown_command

# Events that may come before an answer, as memory: as many as before the answer to an opening.
MAX_WAITING_BYTES = 32 * 1024 * 1024

_numbers = count(1)


class Exchange:
    """A line, and the room's answers to it.

    Operations: `frame` the line to send it, `receive` each event of its connection until `is_settled`. Goal: tell its
    answers from those to other lines, also of other threads. Plan: the room answers in order. So the line is sent
    between two probes, commands that don't exist, and the errors about these frame its answers.

    Attributes:
        line: the line; "" for none: then the exchange is over when the room has received all earlier lines.
        is_message: whether the line becomes a message.
        answers: the answers so far.
        is_over: whether all answers have come.
        is_lost: whether the connection ended before.
        is_abandoned: whether its caller has given up.
        on_settled: called when `is_settled` becomes true.
    """

    def __init__(
        self,
        line: str = "",
        is_answer: Callable[[Event], bool] = lambda event: False,
        *,
        is_message: bool = False,
    ) -> None:
        """Prepare an exchange.

        Args:
            is_answer: tells whether an event that comes in the place of the answers is one.
        """
        self.line = line
        self.is_message = is_message
        self.answers: list[Event] = []
        self.is_over = self.is_lost = self.is_abandoned = False
        self.on_settled: Callable[[], None] | None = None
        self._is_answer = is_answer
        self._begin, self._end = f"probe-{next(_numbers)}", f"probe-{next(_numbers)}"
        self._has_begun = False
        self._bytes = 0

    @property
    def is_settled(self) -> bool:
        """Tell whether there is nothing more to wait for."""
        return self.is_over or self.is_lost

    @property
    def is_flooded(self) -> bool:
        """Tell whether too much has come before the answer."""
        return self._bytes > MAX_WAITING_BYTES

    @property
    def encoded(self) -> bytes:
        """Return the line as bytes."""
        return f"{self.line}\n".encode() if self.line else b""

    def frame(self, data: bytes) -> bytes:
        """Return the bytes to send at once for the line, which is encoded as `data`."""
        return f"/{self._begin}\n".encode() + data + f"/{self._end}\n".encode()

    def receive(self, event: Event) -> bool:
        """Apply an event. Return whether it is for the exchange alone.

        A message is for everyone. So is the refusal of an abandoned line.
        """
        self._bytes += memory_of(event)
        if isinstance(event, Notice) and event.text in (unknown_command(self._begin), unknown_command(self._end)):
            self._has_begun = True
            if event.text == unknown_command(self._end):
                self.is_over = True
                self._settle()
            return True
        if not self._has_begun or not self._is_answer(event):
            return False
        self.answers.append(event)
        return not (isinstance(event, Message) or (isinstance(event, Error) and self.is_abandoned))

    def lose(self) -> None:
        """Note that the connection has ended."""
        if not self.is_over:
            self.is_lost = True
            self._settle()

    def _settle(self) -> None:
        if self.on_settled:
            self.on_settled()


def _is_members(event: Event) -> bool:
    return isinstance(event, Members) or (isinstance(event, Error) and event.code == "too_many")


def ask_members() -> Exchange:
    """Return an exchange for the list of members."""
    return Exchange("/who", _is_members)


def members_of(exchange: Exchange) -> list[MemberInfo]:
    """Return the answer to `ask_members`.

    Raises:
        Refused: too many questions at once.
        ProtocolError: the server, an older one perhaps, doesn't list its members.
    """
    members, is_whole = list[MemberInfo](), False
    for event in exchange.answers:
        if isinstance(event, Members):
            members += event.members
            is_whole = not event.more
        elif isinstance(event, Error):
            raise Refused(event.text, event.code)
    if not is_whole:
        raise ProtocolError("the server doesn't list its members")
    return members


def _is_outcome(event: Event) -> bool:
    return event.own if isinstance(event, Message) else isinstance(event, Error) and event.text.startswith(NOT_SENT)


def say_and_ask(line: str) -> Exchange:
    """Return an exchange for a line that becomes a message."""
    return Exchange(line, _is_outcome, is_message=True)


def message_of(exchange: Exchange) -> Message:
    """Return the answer to `say_and_ask`.

    Raises:
        Refused: the room didn't let the message pass.
    """
    for event in exchange.answers:
        if isinstance(event, Message):
            return event
        if isinstance(event, Error):
            raise Refused(event.text.removeprefix(NOT_SENT), event.code)
    raise Refused("the room dropped it without a word")
