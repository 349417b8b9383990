"""Fixtures for tests of what you build with chatkit; pytest finds them by itself once chatkit is installed.

    def test_greeting(chat_room):
        ann, bob = chat_room.join(2)
        ann.send("Hi!")
        bob.expect("Hi!", sender=ann)
        ann.expect_nothing()

`chat_server` is a running `Server`, `chat_room` a `ChatRoom` on it. For a server with a handler or limits of your own:

    with Server(port=0, handler=Moderation()) as server, ChatRoom(server) as room: ...

Nothing here sleeps or waits for silence: absence is proved by asking the server for a sign and finding nothing before it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import pytest

from chatkit.client.client import Client
from chatkit.errors import ConnectionClosed
from chatkit.events import Event, Message, Private
from chatkit.server.server import Server

TIMEOUT_SECONDS = 5.0
# How often to look whether another thread, which receives from the same guest, has seen a sign.
LOOK_SECONDS = 0.05


class _Inbox(deque[Event]):
    """What a guest has received, without the signs that it asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.signs: dict[str, threading.Event] = {}

    def append(self, event: Event) -> None:
        for sign, seen in list(self.signs.items()):  # another thread may ask for one
            if sign in event.text:
                seen.set()
                return
        super().append(event)

    def extend(self, events: Iterable[Event]) -> None:
        for event in events:
            self.append(event)


class Guest(Client):
    """A `Client` that knows what to expect. A thread of its own, such as a bot under test, may receive from it."""

    def __init__(self, room: ChatRoom, **options: Any) -> None:
        super().__init__(*room.server.address, **options)
        self._name: str = options.get("name") or str(self.address[1])
        self._room = room
        self._inbox = _Inbox()
        self._inbox.extend(self._received)
        self._received = self._connection.received = self._inbox

    @property
    def name(self) -> str:
        """What the others see, or saw last."""
        for member in self._room.server.members:
            if member.address == self.address:
                self._name = member.name
        return self._name

    def receive(self, timeout: float | None = TIMEOUT_SECONDS) -> Event:
        """As `Client.receive`, but it doesn't wait for ever unless told to."""
        return super().receive(timeout)

    def expect(self, text: str, *, sender: Guest | str | None = None, timeout: float = TIMEOUT_SECONDS) -> Event:
        """The next event has this text, and this sender if one is given. AssertionError: it is another one, or none."""
        __tracebackhide__ = True
        wanted = f"{text!r} from {getattr(sender, 'name', sender)}" if sender else repr(text)
        try:
            event = self.receive(timeout)
        except (TimeoutError, ConnectionClosed) as error:
            raise AssertionError(f"{self.name} expected {wanted}: {error}") from None
        said_by = event.sender if isinstance(event, Message | Private) else None
        if event.text != text or (sender and said_by != getattr(sender, "name", sender)):
            raise AssertionError(f"{self.name} expected {wanted}, received {event!r}")
        return event

    def expect_nothing(self) -> None:
        """Of all that the guests of the room have sent, and the server has said, nothing was left to receive here.

        AssertionError: something was.
        """
        __tracebackhide__ = True
        for guest in self._room.guests:
            with suppress(ConnectionClosed):  # who has left has been heard to the end
                guest.sync()
        self._room.sync()
        with suppress(ConnectionClosed):
            self.sync()
        if self._inbox:
            raise AssertionError(f"{self.name} expected nothing, received {self._inbox[0]!r}")

    def sync(self) -> None:
        """Return when the server has heard all that was sent here, and what came up to then can be received.

        TimeoutError: the server gave no sign. ConnectionClosed: this guest has left.
        """
        sign, seen = f"/{secrets.token_hex(8)}", threading.Event()
        self._inbox.signs[sign] = seen
        self.send(sign)  # an unknown command is answered to us alone
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not seen.is_set():
            if self._receiving.acquire(timeout=LOOK_SECONDS):  # else another thread receives, and may see the sign
                try:
                    if self._connection.ended:
                        raise self._connection.ended.with_traceback(None)
                    if not seen.is_set():
                        self._connection.read(deadline)
                finally:
                    self._receiving.release()
            elif time.monotonic() > deadline:
                raise TimeoutError("the server gave no sign")
        del self._inbox.signs[sign]


class ChatRoom:
    """Guests of a server, who leave at the end of `with`. guests: those that are there."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.guests: list[Guest] = []

    def join(self, number: int = 1, **options: Any) -> list[Guest]:
        """So many new guests, in the room when it returns. options: as for `Client`."""
        for _ in range(number):
            self.guests.append(Guest(self, **options))
        joined = self.guests[len(self.guests) - number :]
        for guest in joined:
            guest.sync()
        return joined

    def sync(self) -> None:
        """Return when all that the server's own program has said is on its way to the guests."""
        said = threading.Event()
        with suppress(RuntimeError):  # the server isn't running: it says nothing more
            self.server._pool.call_soon(said.set)
            said.wait(TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for guest in self.guests:
            guest.close(grace=0 if kind else TIMEOUT_SECONDS)


@pytest.fixture
def chat_server() -> Iterator[Server]:
    """A running server on a free port of 127.0.0.1. It is shut down at the end, and has left no thread."""
    before = set(threading.enumerate())
    with Server(port=0) as server:
        yield server
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("chatkit-")]


@pytest.fixture
def chat_room(chat_server: Server) -> Iterator[ChatRoom]:
    """A room on `chat_server`: `ann, bob = chat_room.join(2)`."""
    with ChatRoom(chat_server) as room:
        yield room
