"""Clients of a server that never stops sending: deadlines and `close` count there too, and memory is bounded."""

from __future__ import annotations

import asyncio
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatkit import AsyncClient, Client, ConnectionClosed, Disconnected, Limits, Notice, ProtocolError, Welcome, testing
from chatkit.client import connection, protocol
from chatkit.client.opening import Opening
from chatkit.client.protocol import ClientProtocol
from chatkit.protocol.replies import REPLAY_BEGINS, REPLAY_ENDS
from chatkit.testing import ChatRoom
from tests.helpers.aio import in_loop
from tests.helpers.endless import NEWS, NOTICE, OLD, WELCOME, endless_server
from tests.helpers.flooded import Flood
from tests.helpers.inside import is_receiving, transport_of
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve

SHORT = 0.1  # seconds


def receive_all(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


blocking = pytest.mark.parametrize("reconnect", [False, True])


@pytest.fixture
def flood(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flood]:
    """Every connection of a `Client` reads from it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        flood = Flood(listener)
        monkeypatch.setattr(connection, "connect", flood.connect)
        yield flood
        flood.end()


def in_time(call: Callable[[], object]) -> object:
    """Return the result of a call, or the exception that it raises. It must end."""
    results = list[object]()

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert results, "it doesn't end"
    return results[0]


@blocking
@pytest.mark.parametrize("line", [NOTICE, NEWS, b'{"type":"notice","text":"x"}\n'])
def test_the_opening_ends_in_time(flood: Flood, reconnect: bool, line: bytes) -> None:
    """`timeout` counts also while notices or unknown events arrive instead of the answer to `name`."""
    flood.line = line
    error = in_time(lambda: Client(port=flood.port, name="bob", timeout=SHORT, reconnect=reconnect))
    assert isinstance(error, TimeoutError)


@blocking
def test_the_opening_ends_in_time_in_a_loop(reconnect: bool) -> None:
    """The same with asyncio."""
    with endless_server() as server:

        @in_loop
        async def connect() -> None:
            with pytest.raises(TimeoutError):
                await AsyncClient(port=server.port, name="bob", timeout=SHORT, reconnect=reconnect).connect()

        connect()


@blocking
def test_too_much_before_the_opening_is_answered(reconnect: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long `timeout` is, the lines that wait are bounded, and the error says so."""
    monkeypatch.setattr(protocol, "MAX_OPENING_BYTES", 1 << 20)
    asked: dict[str, Any] = {"name": "bob", "timeout": None, "reconnect": reconnect}
    said = "the server sent over 1048576 bytes of lines before its answer"
    with endless_server() as server:
        error = in_time(lambda: Client(port=server.port, **asked))
        assert (type(error), str(error)) == (ProtocolError, said)

        @in_loop
        async def connect() -> None:
            with pytest.raises(ProtocolError, match=said):
                await AsyncClient(port=server.port, **asked).connect()

        connect()


@pytest.mark.parametrize(
    "line",
    [
        "*** x\n",
        "eve: x\n",
        "*** \U0001f600" + "x" * 500 + "\n",
        '{"type":"error","text":"x","code":"' + "y" * 90 + '"}\n',
    ],
)
def test_lines_before_the_answer_take_no_more_than_is_said(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the interpreter counts the memory; after the error nothing is left of them."""
    monkeypatch.setattr(protocol, "MAX_OPENING_BYTES", bound := 4 << 20)
    receiver = ClientProtocol(8192, Opening(name="bob"))
    data = line.encode() * 100
    tracemalloc.start()
    try:
        while not receiver.ended:
            receiver.receive_data(data)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bound / 10 < most < bound + 100_000
    assert not receiver.received


def test_as_many_lines_as_a_room_replays_are_no_error() -> None:
    """A thousand of the longest, with characters of four bytes in memory, come before the answer to a name."""
    receiver = ClientProtocol(8192, Opening(name="bob"))
    for _ in range(1000):
        receiver.receive_data(("a" * 32 + ": \U0001f600" + "x" * 8188 + "\n").encode())
    receiver.receive_data(b"*** you are now bob\n")
    assert not receiver.is_opening
    assert len(receiver.received) == 1000


@in_loop
async def test_a_long_replay_before_the_answer(serve: Serve) -> None:
    """More events than the client keeps for a program that doesn't receive, before `connect` is done."""
    started = serve(replay=3000, limits=Limits(history_size=5000))
    with ChatRoom(started.server) as room:
        (ann,) = room.join()
        for number in range(3000):
            ann.send(f"{number:0500}")
        await asyncio.to_thread(ann.sync)
        async with AsyncClient(port=started.port, name="bob", timeout=DEADLINE) as bob:
            begin, *events, end = [await bob.receive(DEADLINE) for _ in range(3002)]
        assert (begin, end) == (REPLAY_BEGINS, REPLAY_ENDS)
        assert [event.text for event in events] == [f"{number:0500}" for number in range(3000)]


def test_a_tls_handshake_that_drips(flood: Flood) -> None:
    """`timeout` counts also while a record of the handshake arrives byte by byte."""
    flood.scripts.append([b"\x16\x03\x03\x40\x00", *[b"\x02"] * 16_384])
    error = in_time(lambda: Client(port=flood.port, tls=True, timeout=0.01))
    assert isinstance(error, TimeoutError)


def test_an_opening_that_nobody_reads() -> None:
    """`timeout` counts while it is sent. A half line doesn't look like a whole one: the server sees a reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        huge: dict[str, Any] = {"password": "x" * 20_000_000, "max_line_bytes": 30_000_000}
        error = in_time(lambda: Client(port=listener.getsockname()[1], timeout=SHORT, **huge))
        assert isinstance(error, TimeoutError)
        sock, _ = listener.accept()
        with sock, pytest.raises(ConnectionResetError):
            receive_all(sock)


@pytest.mark.parametrize(("reconnect", "line"), [(False, NEWS), (True, NEWS), (True, OLD)])
def test_receive_ends_in_time(flood: Flood, reconnect: bool, line: bytes) -> None:
    """A timeout counts also while events arrive that the program doesn't get."""
    flood.scripts.append([WELCOME])
    flood.line = line
    client = Client(port=flood.port, events=True, after=9, reconnect=reconnect)
    assert isinstance(client.receive(DEADLINE), Welcome)
    for timeout in (0, SHORT):
        error = in_time(lambda timeout=timeout: client.receive(timeout))  # type: ignore[misc]
        assert isinstance(error, TimeoutError)
    assert in_time(lambda: client.close(SHORT)) is None


@pytest.mark.parametrize(("reconnect", "line"), [(False, NEWS), (True, OLD)])
def test_receive_ends_in_time_in_a_loop(reconnect: bool, line: bytes) -> None:
    """The same with asyncio."""
    with endless_server(WELCOME, line) as server:

        @in_loop
        async def receive() -> None:
            async with AsyncClient(port=server.port, events=True, after=9, reconnect=reconnect) as client:
                assert isinstance(await client.receive(DEADLINE), Welcome)
                with pytest.raises(TimeoutError):
                    await client.receive(SHORT)
                await client.close(SHORT)

        receive()


@blocking
def test_close_ends_a_receive_that_never_waits(reconnect: bool) -> None:
    """Another thread is in `receive`, without a timeout: `close` returns after its grace, and `receive` as well."""
    with endless_server(WELCOME, NEWS) as server:
        client = Client(port=server.port, events=True, reconnect=reconnect)
        assert isinstance(client.receive(DEADLINE), Welcome)
        caught = list[ConnectionClosed]()

        def receive() -> None:
            try:
                client.receive()
            except ConnectionClosed as closed:
                caught.append(closed)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        server.streaming.get(timeout=DEADLINE)
        assert is_receiving(client)
        assert in_time(lambda: client.close(SHORT)) is None
        thread.join(DEADLINE)
        assert [closed.clean for closed in caught] == [True]


@blocking
def test_close_in_a_loop_ends_in_time(reconnect: bool) -> None:
    """With asyncio, beside a task in `receive`."""
    with endless_server(WELCOME, NEWS) as server:

        @in_loop
        async def close() -> None:
            client = AsyncClient(port=server.port, events=True, reconnect=reconnect)
            await client.connect()
            assert isinstance(await client.receive(DEADLINE), Welcome)
            task = asyncio.create_task(client.receive())
            await asyncio.to_thread(server.streaming.get, timeout=DEADLINE)
            await client.close(SHORT)
            with pytest.raises(ConnectionClosed):
                await task

        close()


@in_loop
async def test_close_reads_behind_many_events(serve: Serve) -> None:
    """However many events wait, the server's end is found, long before the grace is over."""
    started = serve()
    async with AsyncClient(port=started.port) as client:
        for _ in range(3000):
            started.server.broadcast("x" * 1000)
        assert await client.receive(DEADLINE) == Notice("x" * 1000)
        while transport_of(client).is_reading():  # until it keeps as many as it may
            await asyncio.sleep(0)
        await client.close(grace=10 * DEADLINE)


@pytest.mark.usefixtures("at_once")
def test_close_ends_an_attempt_to_come_back(flood: Flood) -> None:
    """The attempt has no timeout, and the server streams: no thread is left after `close`."""
    flood.scripts += [[WELCOME, b""], []]
    flood.line = NEWS
    client = Client(port=flood.port, reconnect=True, timeout=None)
    assert isinstance(client.receive(DEADLINE), Welcome)
    assert isinstance(client.receive(DEADLINE), Disconnected)
    assert flood.has_begun.wait(DEADLINE)
    assert in_time(lambda: client.close(SHORT)) is None
    assert not [thread for thread in threading.enumerate() if thread.name == "chatkit-reconnector"]


@pytest.mark.usefixtures("at_once")
def test_an_attempt_to_come_back_is_bounded(flood: Flood, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much before the answer is the last attempt, as with the first connection."""
    monkeypatch.setattr(protocol, "MAX_OPENING_BYTES", 1 << 20)
    flood.scripts += [[WELCOME, b""], []]
    with Client(port=flood.port, reconnect=True, timeout=None) as client:
        assert isinstance(client.receive(DEADLINE), Welcome)
        assert isinstance(client.receive(DEADLINE), Disconnected)
        with pytest.raises(ProtocolError, match="before its answer"):
            client.receive(DEADLINE)


def test_send_ends_beside_an_endless_server(flood: Flood) -> None:
    """A sender that looks for answers takes in only so much before its line is sent."""
    flood.scripts.append([WELCOME])
    flood.line = NEWS
    client = Client(port=flood.port, reconnect=True)
    assert isinstance(client.receive(DEADLINE), Welcome)
    for number in range(301):
        assert in_time(lambda number=number: client.send(f"{number}")) is None  # type: ignore[misc]
    assert in_time(lambda: client.close(SHORT)) is None


def test_a_guest_of_a_test_waits_no_longer_than_it_says(flood: Flood, monkeypatch: pytest.MonkeyPatch) -> None:
    """`join` of `chatkit.testing` waits for an answer, beside a server that streams."""
    monkeypatch.setattr(testing, "TIMEOUT_SECONDS", SHORT)
    flood.line = NEWS
    with ChatRoom(flood) as room:  # type: ignore[arg-type]
        assert isinstance(in_time(room.join), TimeoutError)
