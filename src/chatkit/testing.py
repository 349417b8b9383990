"""Fixtures for tests of programs that use chatkit. pytest finds them once chatkit is installed.

    def test_greeting(chat_room):
        ann, bob = chat_room.join(2)
        ann.say("Hi!")
        bob.expect("Hi!", sender=ann)
        ann.expect_nothing()

`chat_server` is a running `Server`, `chat_room` a `ChatRoom` on it. For a server with a handler or limits of your own:

    with Server(port=0, handler=Moderation()) as server, ChatRoom(server) as room: ...

Nothing here sleeps or waits for silence. To prove that nothing was received, a guest sends a probe, an unknown command,
and finds no event before the server's answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import pytest

from chatkit.client.client import Client
from chatkit.client.exchange import Exchange
from chatkit.errors import ConnectionClosed
from chatkit.events import Event, Message, Private
from chatkit.server.server import Server

TIMEOUT_SECONDS = 5.0


class Guest(Client):
    """A `Client` with expectations, made by `ChatRoom.join`.

    Threads: as for `Client`: another thread, such as a bot under test, may receive from it.
    """

    def __init__(self, room: ChatRoom, **options: Any) -> None:
        """Connect to the room's server. Arguments and errors as for `Client`."""
        super().__init__(*room.server.address, **options)
        self._name: str = options.get("name") or str(self.address[1])
        self._room = room

    @property
    def name(self) -> str:
        """Return the member's name; after it has left, its last one."""
        for member in self._room.server.members:
            if member.address == self.address:
                self._name = member.name
        return self._name

    def receive(self, timeout: float | None = TIMEOUT_SECONDS) -> Event:
        """Wait for the next event, as `Client.receive`, but by default at most 5 seconds.

        Args:
            timeout: seconds to wait; 0 doesn't wait, None waits for ever.

        Returns:
            The event.

        Raises:
            TimeoutError, ConnectionClosed, ProtocolError: as for `Client.receive`.
        """
        return super().receive(timeout)

    def expect(self, text: str, *, sender: Guest | str | None = None, timeout: float = TIMEOUT_SECONDS) -> Event:
        """Assert that the next event has this text, and this sender if one is given.

        Args:
            text: the event's `text`.
            sender: a guest or a name; None for any sender.
            timeout: seconds to wait.

        Returns:
            The event.

        Raises:
            AssertionError: it is another event, or none in time.
        """
        __tracebackhide__ = True
        wanted = f"{text!r} from {getattr(sender, 'name', sender)}" if sender else repr(text)
        try:
            event = self.receive(timeout)
        except (TimeoutError, ConnectionClosed) as error:
            raise AssertionError(f"{self.name} expected {wanted}: {error}") from None
        found = event.sender if isinstance(event, Message | Private) else None
        if event.text != text or (sender and found != getattr(sender, "name", sender)):
            raise AssertionError(f"{self.name} expected {wanted}, received {event!r}")
        return event

    def expect_nothing(self) -> None:
        """Assert that nothing is left to receive, of all that the room's guests and the server have sent so far.

        Raises:
            AssertionError: there is an event.
        """
        __tracebackhide__ = True
        for guest in self._room.guests:
            with suppress(ConnectionClosed):  # the server has received every line of a guest that has left
                guest.sync()
        self._room.sync()
        with suppress(ConnectionClosed):
            self.sync()
        if self._received:
            raise AssertionError(f"{self.name} expected nothing, received {self._received[0]!r}")

    def sync(self) -> None:
        """Wait until the server has received this guest's lines, and this guest the server's lines up to then.

        Raises:
            TimeoutError: the server didn't answer within 5 seconds.
            ConnectionClosed: this guest has left.
        """
        self._ask(Exchange(), TIMEOUT_SECONDS)


class ChatRoom:
    """A server's guests, which leave at the end of `with`.

    Attributes:
        server: the server.
        guests: in the order in which they joined.
    """

    def __init__(self, server: Server) -> None:
        """Prepare a room without guests.

        Args:
            server: a running server.
        """
        self.server = server
        self.guests: list[Guest] = []

    def join(self, number: int = 1, **options: Any) -> list[Guest]:
        """Connect new guests. They are members of the room when it returns.

        Args:
            number: of guests.
            options: arguments of `Client`, the same for each guest.

        Returns:
            The new guests.

        Raises:
            Errors as for `Client`.
        """
        for _ in range(number):
            self.guests.append(Guest(self, **options))
        joined = self.guests[len(self.guests) - number :]
        for guest in joined:
            guest.sync()
        return joined

    def sync(self) -> None:
        """Wait until all lines of the server's own program are on their way to the guests."""
        done = threading.Event()
        with suppress(RuntimeError):  # the server isn't running: it sends nothing more
            self.server._pool.call_soon(done.set)
            done.wait(TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for guest in self.guests:
            guest.close(grace=0 if kind else TIMEOUT_SECONDS)


@pytest.fixture
def chat_server() -> Iterator[Server]:
    """Provide a running `Server` on a free port of 127.0.0.1.

    Resource handling: at the end of the test it is shut down, and the fixture asserts that no thread of it is left.
    """
    before = set(threading.enumerate())
    with Server(port=0) as server:
        yield server
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("chatkit-")]


@pytest.fixture
def chat_room(chat_server: Server) -> Iterator[ChatRoom]:
    """Provide a `ChatRoom` on `chat_server`: `ann, bob = chat_room.join(2)`. Its guests leave when the test ends."""
    with ChatRoom(chat_server) as room:
        yield room
