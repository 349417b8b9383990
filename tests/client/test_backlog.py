"""What a server may have a client keep: events that nobody takes, names, lines of lost connections, large numbers."""

from __future__ import annotations

import asyncio
import socket
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import pytest

from chatkit import (
    AsyncClient,
    Client,
    Event,
    NotConnected,
    Notice,
    ProtocolError,
    Renamed,
    Unconfirmed,
    Welcome,
)
from chatkit.client import aio_reconnect, backlog, inflight, resume
from chatkit.client.backlog import Backlog, memory_of
from chatkit.client.backoff import Backoff
from chatkit.client.opening import Opening
from chatkit.client.protocol import ClientProtocol
from tests.helpers.aio import in_loop
from tests.helpers.endless import WELCOME
from tests.helpers.inside import aio_connection_of, current_name, received_events
from tests.helpers.peers import DEADLINE
from tests.helpers.resuming import RESET, ROOM, message, resuming, unsure

OPENING = b"*** x\n" * 5000 + WELCOME  # about a MiB of memory


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many bytes more there are than at the start."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def rename(state: resume.ResumeState, times: int) -> None:
    for number in range(times):
        state.receive(Renamed(current_name(state), f"\U00012000{number}".ljust(32, "\U00012000")))


def test_names_without_end() -> None:
    """A server that renames the client over and over: the newest names are kept, as an echo may have any of them."""
    state = resuming()
    state.send("hi")
    with traced() as grown:
        rename(state, 20_000)
        assert grown() < 100_000
    state.send("ho")
    name = current_name(state)
    rename(state, 10)
    state.connection_lost(RESET)
    state.receive(Welcome("ada", 9, ROOM))
    assert state.receive(message(8, "ho", name)) == []


def test_losses_without_end() -> None:
    """A server that never acknowledges a line, and ends each connection: of older lines the number is kept."""
    state = resuming()
    with traced() as grown:
        for number in range(3 * inflight.MAX_LOST_CONNECTIONS):
            state.send(f"{number}")
            rename(state, 200)
            state.connection_lost(RESET)
            state.receive(Welcome("ada", 9, ROOM))
        assert grown() < 5_000_000
    (many, *others) = state.report_unknown()
    assert isinstance(many, Unconfirmed)
    assert "received 200 earlier lines" in many.text
    assert unsure(others) == [f"{number}" for number in range(200, 300)]


@pytest.mark.parametrize("kind", ["message", "gap", "synced", "welcome"])
def test_a_long_number(kind: str) -> None:
    """Python reads up to 4300 digits: none of them is kept."""
    number = "9" * 4300
    line = f'{{"type":"{kind}","id":{number},"newest":{number},"missing":{number},"time":"2026-01-01T00:00:00Z"'
    receiver = ClientProtocol(8192, Opening(events=True))
    receiver.receive_data(f'{line},"from":"a","text":"x","name":"a","epoch":"1"}}\n'.encode())
    assert isinstance(receiver.ended, ProtocolError)
    assert not receiver.received


def test_the_size_of_what_waits() -> None:
    """Events count one by one, and the bytes that were read since nothing waited."""
    events = deque[Event]()
    waiting = Backlog(events)
    for _ in range(backlog.MAX_WAITING_BYTES // 1000 + 1):  # taken at once
        waiting.count(1000)
    assert not waiting.is_full
    events.append(Notice("x"))
    waiting.count(backlog.MAX_WAITING_BYTES)
    assert waiting.is_full
    events.clear()
    waiting.count(1)
    assert not waiting.is_full
    events.extend([Notice("x")] * backlog.MAX_WAITING_EVENTS)
    assert not waiting.is_full
    events.append(Notice("x"))
    assert waiting.is_full
    assert not waiting.is_overfull
    events.extend([Notice("\U0001f600" * 1_000_000)] * 17)
    assert waiting.is_overfull


class Ending:
    """A thread whose connections each get OPENING, and then an end.

    Attributes:
        port: where it listens.
        connections: their number.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.connections = 0
        self._listener = listener

    def run(self) -> None:
        """Serve until the listener ends."""
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock, suppress(ConnectionError):
                    self.connections += 1
                    sock.recv(1000)
                    sock.sendall(OPENING)


@pytest.fixture
def ending() -> Iterator[Ending]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Ending(listener)
        thread = threading.Thread(target=server.run)
        thread.start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE)
        assert not thread.is_alive()


@pytest.mark.usefixtures("at_once")
def test_a_sender_comes_back_only_when_there_is_room(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each return brings events that nobody takes: when too many wait the client stays away, until some are taken."""
    monkeypatch.setattr(backlog, "MAX_ABSENT_BYTES", 4_000_000)
    with Client(port=ending.port, reconnect=True) as client:

        def send(times: int) -> None:
            for _ in range(times):
                with suppress(NotConnected):
                    client.send("x")

        while size_of(received_events(client)) < 4_000_000:
            send(100)
        before = ending.connections
        send(20_000)
        assert ending.connections <= before + 1
        assert size_of(received_events(client)) < 4_000_000 + 3_000_000
        while ending.connections <= before + 1:
            send(1)
            client.receive(DEADLINE)


def size_of(events: Iterable[Event]) -> int:
    return sum(map(memory_of, events))


@pytest.mark.timed
@in_loop
async def test_a_sender_in_a_loop_comes_back_only_when_there_is_room(
    ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with asyncio."""
    monkeypatch.setattr(backlog, "MAX_ABSENT_BYTES", 4_000_000)
    monkeypatch.setattr(aio_reconnect, "Backoff", lambda: Backoff(lambda least, most: 0))
    async with AsyncClient(port=ending.port, reconnect=True) as client:

        async def send(times: int) -> None:
            for _ in range(times):
                with suppress(NotConnected):
                    await client.send("x")
                await asyncio.sleep(0)

        waiting = aio_connection_of(client).received
        while size_of(waiting) < 4_000_000:
            await send(100)
        before = ending.connections
        await send(100)
        assert ending.connections <= before + 1
        assert size_of(waiting) < 4_000_000 + 3_000_000
        while waiting:
            await client.receive(DEADLINE)
        while ending.connections <= before + 1:
            await send(1)
