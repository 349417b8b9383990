"""`AsyncClient` against the real server and servers that misbehave; shared promises are tested on both clients."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from contextlib import suppress
from typing import Any, Self
from unittest.mock import ANY

import pytest

from chatkit import AsyncClient, Client, ConnectionClosed, Event, Limits, NameTaken, Notice, ProtocolError, Server
from chatkit.client import backlog
from chatkit.events import Error, Gap, Joined, Left, Message, Renamed, Welcome
from chatkit.testing import ChatRoom
from tests.helpers.aio import BLOCK, in_loop, raw_server, waiting_send
from tests.helpers.inside import aio_connection_of, transport_of
from tests.helpers.leaks import open_descriptors
from tests.helpers.peers import DEADLINE

pytestmark = pytest.mark.usefixtures("each_loop")

RESET = b"\1\0\0\0\0\0\0\0"


class Blocking:
    """`Client` behind the verbs of `AsyncClient`, so that one test asks both."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    async def __aenter__(self) -> Self:
        self._client = await asyncio.to_thread(Client, **self._options)
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self._client.close)

    async def send(self, text: str) -> None:
        await asyncio.to_thread(self._client.send, text)

    async def receive(self, timeout: float) -> Event:
        return await asyncio.to_thread(self._client.receive, timeout)


Kind = type[AsyncClient] | type[Blocking]
both = pytest.mark.parametrize("kind", [AsyncClient, Blocking])


async def received(client: AsyncClient | Blocking, number: int) -> list[Event]:
    return [await client.receive(DEADLINE) for _ in range(number)]


async def lines_of(sock: socket.socket, number: int) -> list[str]:
    data = b""
    while data.count(b"\n") < number:
        data += await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
    return data.decode().split("\n")[:-1]


@in_loop
async def test_a_conversation(chat_server: Server, chat_room: ChatRoom) -> None:
    """Lines go out and come in, `async for` ends with `exit`, and the port is the name."""
    (ann,) = chat_room.join()
    async with AsyncClient(port=chat_server.port) as bob:
        await bob.send("Hi!")
        assert ann.expect("Hi!", sender=str(bob.address[1]))
        for text in "abc":
            ann.send(text)
        assert await received(bob, 3) == [Message(ann.name, text) for text in "abc"]
        chat_server.broadcast("last")
        events = aiter(bob)
        assert await anext(events) == Notice("last")
        await bob.send("exit")
        assert [event async for event in events] == []
        assert [event async for event in bob] == []
        with pytest.raises(ConnectionClosed, match="the server ended the conversation"):
            await bob.receive()
        with pytest.raises(ConnectionClosed, match="the server ended the conversation"):
            await bob.send("x")


@in_loop
async def test_send_eof_still_hears() -> None:
    """After the end of this side's lines, the server's lines arrive; saying more is too late."""
    async with raw_server() as (client, sock):
        await client.send("one")
        await client.send_eof()
        assert await lines_of(sock, 1) == ["one"]
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        with pytest.raises(ConnectionClosed):
            await client.send("two")
        sock.sendall(b"*** bye\n")
        sock.shutdown(socket.SHUT_WR)
        assert [event async for event in client] == [Notice("bye")]


@in_loop
async def test_close_returns_when_all_was_heard(chat_server: Server) -> None:
    """When `close` returns the server has taken what was sent, and the member has left; twice is as good as once."""
    for _ in range(20):
        client = AsyncClient(port=chat_server.port)
        await client.connect()
        await client.send("one last thing")
        await client.close()
        assert chat_server.members == []
        await client.close()
    assert chat_server.stats.messages == 20
    for verb in (client.receive(), client.send("x")):
        with pytest.raises(ConnectionClosed, match="this client is closed"):
            await verb
    assert [event async for event in client] == []


@in_loop
async def test_receive_waits_no_longer_than_asked() -> None:
    """0 only looks; a timeout loses nothing, and a received event is taken whatever the timeout."""
    async with raw_server() as (client, sock):
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError):
                await client.receive(timeout)
        sock.sendall(b"*** a\n*** b\n*** c\n")
        assert await client.receive(DEADLINE) == Notice("a")
        assert await client.receive(0) == Notice("b")
        assert await client.receive() == Notice("c")
        with pytest.raises(TimeoutError):
            await client.receive(0)


@pytest.mark.parametrize("seed", range(5))
@in_loop
async def test_cancelled_receives_lose_nothing(chat_server: Server, chat_room: ChatRoom, seed: int) -> None:
    """However often a receive is cancelled or runs out of time, each message arrives once, in order."""
    chance, number = random.Random(seed), 300
    (ann,) = chat_room.join()
    async with AsyncClient(port=chat_server.port, events=True) as bob:
        assert isinstance(await bob.receive(DEADLINE), Welcome)
        ids, interrupted = list[int | None](), 0
        for text in range(number):
            ann.send(str(text))
            task = asyncio.create_task(bob.receive(chance.choice([None, 0, 0.0005])))
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                event = await task
                assert isinstance(event, Message)
                ids.append(event.id)
            except (TimeoutError, asyncio.CancelledError):
                interrupted += 1
        assert interrupted == number - len(ids) > 0
        ids += [event.id for event in await received(bob, interrupted) if isinstance(event, Message)]
        assert ids == list(range(1, number + 1))


@in_loop
async def test_tasks_share_a_client(chat_server: Server, chat_room: ChatRoom) -> None:
    """Several tasks send whole lines, several receive, at the same time: each message comes out once."""
    (ann,) = chat_room.join()
    async with AsyncClient(port=chat_server.port, events=True) as bob:

        async def take() -> list[int | None]:
            return [event.id async for event in bob if isinstance(event, Message)]

        takers = [asyncio.create_task(take()) for _ in range(3)]
        await asyncio.gather(*(bob.send(f"{task}.{line}") for task in range(3) for line in range(100)))
        assert sorted(ann.receive().text for _ in range(300)) == sorted(
            f"{t}.{n}" for t in range(3) for n in range(100)
        )
        for _ in range(200):
            ann.send("x")
        ann.sync()
        await bob.send("exit")
        ids = [number for taker in takers for number in await taker]
        assert sorted(ids, key=str) == sorted(range(301, 501), key=str)


@pytest.mark.parametrize(("steps", "times"), [(0, 0), (1, 1), (3, 1)])
@in_loop
async def test_a_cancelled_send_has_sent_once(steps: int, times: int) -> None:
    """Its line goes out whole and once; none of it does if the send hadn't begun to run."""
    async with raw_server() as (client, sock):
        number, filler = await waiting_send(client)
        task = asyncio.create_task(client.send("mark"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        filler.cancel()
        for cancelled in (task, filler):
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        end = asyncio.create_task(client.send("end"))
        assert await lines_of(sock, number + times + 2) == [BLOCK] * (number + 1) + ["mark"] * times + ["end"]
        await end
        sock.close()


@in_loop
async def test_send_waits_for_a_slow_server() -> None:
    """Little is piled up for a server that reads nothing; once it reads, the send returns and nothing is missing."""
    async with raw_server() as (client, sock):
        number, task = await waiting_send(client)
        assert transport_of(client).get_write_buffer_size() < 200_000
        assert await lines_of(sock, number + 1) == [BLOCK] * (number + 1)
        await task
        sock.close()


@pytest.mark.parametrize("waits_in", ["receive", "iteration", "send", "both"])
@in_loop
async def test_close_ends_every_wait(waits_in: str) -> None:
    """If the server neither reads nor answers, `close` ends after its grace; waiting calls get ConnectionClosed."""
    async with raw_server() as (client, sock):
        waiting: list[asyncio.Task[Any]] = []
        if waits_in == "iteration":
            waiting.append(asyncio.create_task(anext(aiter(client), None)))
        if waits_in in ("receive", "both"):
            waiting.append(asyncio.create_task(client.receive()))
        if waits_in in ("send", "both"):
            waiting.append((await waiting_send(client))[1])
        await asyncio.sleep(0)
        assert not [task for task in waiting if task.done()]
        await client.close(grace=0.05)
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert (
                result is None if waits_in == "iteration" else (isinstance(result, ConnectionClosed) and result.clean)
            )
        with suppress(ConnectionResetError):
            while await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
                pass


async def read_to_the_end(sock: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
        pass


@in_loop
async def test_close_of_an_async_client_never_cuts_a_line_in_order() -> None:
    """Towards a server that reads nothing it ends with a reset, not with half a line and a clean end."""
    async with raw_server() as (client, sock):
        _, waiting = await waiting_send(client)
        await client.close(grace=0.1)
        with pytest.raises(ConnectionClosed):
            await waiting
        with pytest.raises(ConnectionResetError):
            await read_to_the_end(sock)


@in_loop
async def test_sending_while_it_closes() -> None:
    """A send that begins after `close` did gets ConnectionClosed, as one that begins after it ended."""
    async with raw_server() as (client, sock):
        closing = asyncio.create_task(client.close())
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        with pytest.raises(ConnectionClosed):
            await client.send("x")
        sock.close()
        await closing


@pytest.mark.parametrize(
    ("data", "reset", "error", "reason"),
    [
        (b"", False, None, "^"),
        (b"", True, ConnectionClosed, "Connection reset by peer"),
        (b"half a li", False, ConnectionClosed, "the server ended in the middle of a line"),
        (b"1: \xff\n", False, ProtocolError, "the server sent a line not valid UTF-8"),
        (b"{}\n", False, ProtocolError, "the server sent a line that isn't an event"),
        (b"x" * (1 << 21), False, ProtocolError, "longer than 1048576 bytes"),
    ],
)
@in_loop
async def test_how_a_conversation_ends(data: bytes, reset: bool, error: type[Exception] | None, reason: str) -> None:
    """One documented error each, at every call; earlier lines arrive, half a line never comes out."""
    async with raw_server() as (client, sock):
        sock.sendall(b"*** hello\n")
        assert await client.receive(DEADLINE) == Notice("hello")
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(sock, data)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        if error is None:
            assert [event async for event in client] == []
            return
        for _ in range(2):
            with pytest.raises(error, match=reason):
                await client.receive(DEADLINE)
        with pytest.raises(error, match=reason):
            await anext(aiter(client))


@both
@in_loop
async def test_events(chat_server: Server, chat_room: ChatRoom, kind: Kind) -> None:
    """First the welcome with the own name, then messages with id and time, joins, leaves and names, in order."""
    (ann,) = chat_room.join()
    ann.send("before")
    ann.sync()
    async with kind(port=chat_server.port, name="bob", events=True) as bob:
        assert await received(bob, 1) == [Welcome("bob", 1, ANY)]
        (cid,) = chat_room.join()
        cid.send("Hi!")
        cid.send("/nick cid")
        cid.send("exit")
        joined, message, *others = await received(bob, 4)
        assert joined == Joined(cid.name)
        assert isinstance(message, Message)
        assert (message.sender, message.text, message.id) == (cid.name, "Hi!", 2)
        assert message.time is not None
        assert others == [Renamed(cid.name, "cid"), Left("cid")]
        await bob.send("/nick ann")
        await bob.send("/nick 1")
        await bob.send("/msg")
        assert await bob.receive(DEADLINE) == Renamed("bob", "ann")
        codes = [event.code for event in await received(bob, 2) if isinstance(event, Error)]
        assert codes == ["bad_name", "bad_usage"]


@both
@pytest.mark.parametrize(
    ("after", "missing", "first"), [(0, 2, 3), (1, 1, 3), (2, 0, 3), (4, 0, 5), (5, 0, 6), (9, 0, 6)]
)
@in_loop
async def test_after(kind: Kind, after: int, missing: int, first: int) -> None:
    """Messages after that id, then live ones: no gap that isn't told, nothing twice."""
    with Server(port=0, limits=Limits(history_size=3)) as server, ChatRoom(server) as room:
        (ann,) = room.join()
        for number in range(1, 6):
            ann.send(str(number))
        ann.sync()
        async with kind(port=server.port, events=True, after=after) as bob:
            for number in range(6, 9):
                ann.send(str(number))
            welcome, *events = await received(bob, 1 + bool(missing) + 9 - first)
            assert isinstance(welcome, Welcome)
            assert welcome.newest == 5
            assert events[: bool(missing)] == [Gap(missing)][: bool(missing)]
            messages = [event for event in events[bool(missing) :] if isinstance(event, Message)]
            assert [(message.id, message.text) for message in messages] == [(n, str(n)) for n in range(first, 9)]


@pytest.mark.parametrize("seed", range(3))
@both
@in_loop
async def test_after_while_others_talk(chat_server: Server, chat_room: ChatRoom, kind: Kind, seed: int) -> None:
    """Between the replay and live messages nothing is missing and nothing comes twice."""
    (ann,) = chat_room.join()

    def talk(number: int) -> None:
        for _ in range(number):
            ann.send("x")

    talk(seed)
    ann.sync()
    talking = asyncio.create_task(asyncio.to_thread(talk, 900 - seed))
    async with kind(port=chat_server.port, events=True, after=seed) as bob:
        events = await received(bob, 901 - seed)
        assert [event.id for event in events if isinstance(event, Message)] == list(range(seed + 1, 901))
    await talking


@both
@in_loop
async def test_name(chat_server: Server, chat_room: ChatRoom, kind: Kind) -> None:
    """When the client is there it has its name; a taken one raises NameTaken, one against the rule ValueError."""
    (ann,) = chat_room.join()
    async with kind(port=chat_server.port, name="bob") as bob:
        assert [member.name for member in chat_server.members] == [ann.name, "bob"]
        await bob.send("Hi!")
        ann.expect("Hi!", sender="bob")
        for events in (False, True):
            with pytest.raises(NameTaken, match="the name Bob is taken"):
                async with kind(port=chat_server.port, name="Bob", events=events):
                    pass
    for wrong in ("5", "a b", ""):
        with pytest.raises(ValueError, match="a name begins with a letter"):
            async with kind(port=chat_server.port, name=wrong):
                pass


ANSWERS = [
    (b"*** the name ada is taken\n", NameTaken, "the name ada is taken"),
    (b"*** the room is full\n", ConnectionClosed, "the room is full"),
    (b"", ConnectionClosed, "the server ended the conversation"),
    (b"*** the ro", ConnectionClosed, "in the middle of a line"),
    (b"{}\n", ProtocolError, "isn't an event"),
    (None, TimeoutError, "^"),  # asyncio gives it no words
]


@both
@pytest.mark.parametrize(("answer", "error", "reason"), ANSWERS)
@in_loop
async def test_a_connect_that_fails(kind: Kind, answer: bytes | None, error: type[Exception], reason: str) -> None:
    """The server's answer is the reason, silence is a TimeoutError, and no socket stays open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = open_descriptors()

        listener.settimeout(DEADLINE)

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(answer or b"")
                if answer is not None:
                    sock.shutdown(socket.SHUT_WR)
                while sock.recv(100):
                    pass

        serving = threading.Thread(target=serve)
        serving.start()
        timeout = 0.05 if answer is None else DEADLINE
        with pytest.raises(error, match=reason):
            async with kind(port=listener.getsockname()[1], name="ada", timeout=timeout):
                pass
        await asyncio.to_thread(serving.join)
        assert open_descriptors() <= before


@pytest.mark.parametrize("steps", range(6))
@in_loop
async def test_a_cancelled_connect_leaves_nothing(steps: int) -> None:
    """Wherever it is cancelled its socket is closed; the client can be closed, and connects no second time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = open_descriptors()
        client = AsyncClient(port=listener.getsockname()[1], name="ada")
        task = asyncio.create_task(client.connect())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()
        assert open_descriptors() <= before


@pytest.mark.parametrize("options", [{}, {"name": "ada"}, {"events": True}])
@pytest.mark.parametrize("steps", range(1, 4))
def test_close_while_it_connects(chat_server: Server, steps: int, options: dict[str, Any]) -> None:
    """`connect` ends with ConnectionClosed, soon, and nothing is left."""

    @in_loop
    async def close_soon() -> None:
        client = AsyncClient(port=chat_server.port, timeout=2, **options)
        connecting = asyncio.create_task(client.connect())
        for _ in range(steps):
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionClosed, match="this client is closed"):
            await connecting

    close_soon()


@in_loop
async def test_no_server_there() -> None:
    """An OSError passes through untouched; the client that failed can be closed, and connects no second time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for client, error in (
        (AsyncClient(port=port), ConnectionRefusedError),
        (AsyncClient("no such host"), socket.gaierror),
    ):
        with pytest.raises(error):
            await client.connect()
        with pytest.raises(RuntimeError, match="connects once"):
            await client.connect()
        await client.close()


@in_loop
async def test_the_wrong_time(chat_server: Server) -> None:
    """Before `connect` there is only RuntimeError, and closing is nothing; connecting twice is one too."""
    client = AsyncClient(port=chat_server.port)
    for verb in (client.send("x"), client.receive(), client.send_eof(), anext(aiter(client))):
        with pytest.raises(RuntimeError, match="isn't connected"):
            await verb
    with pytest.raises(RuntimeError, match="isn't connected"):
        _ = client.address
    await client.close()
    async with client:
        with pytest.raises(RuntimeError, match="connects once"):
            await client.connect()
        with pytest.raises(ValueError, match="not sent"):
            await client.send("a\nb")
    with pytest.raises(RuntimeError, match="connects once"):
        await client.connect()


@pytest.mark.parametrize(
    ("bound", "value", "events"),
    [("MAX_WAITING_EVENTS", 10, 10), ("MAX_WAITING_BYTES", 100_000, 100_000 // len(BLOCK) + 1)],
    ids=["events", "bytes"],
)
@in_loop
async def test_a_client_that_takes_nothing_stops_reading(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int, events: int
) -> None:
    """Not much more than a bound waits for a client that doesn't receive; in the end all arrive, in order."""
    monkeypatch.setattr(backlog, bound, value)
    number, one_read = 2000, 256 * 1024
    async with raw_server() as (client, sock):
        lines = "".join(f"*** {line} {BLOCK}\n" for line in range(number)).encode()
        pouring = asyncio.create_task(asyncio.get_running_loop().sock_sendall(sock, lines))
        for _ in range(3):
            while transport_of(client).is_reading():
                await asyncio.sleep(0)
        assert len(aio_connection_of(client).received) <= events + one_read // len(BLOCK) + 1
        assert not pouring.done()
        assert [event.text.split()[0] for event in await received(client, number)] == [str(n) for n in range(number)]
        await pouring
        sock.close()
        assert [event async for event in client] == []


@in_loop
async def test_a_loop_that_was_held_up_reads_before_it_is_late() -> None:
    """An event that came in the turn in which the timeout is over counts."""
    async with raw_server() as (client, sock):
        loop = asyncio.get_running_loop()

        def hold_up() -> None:
            until = loop.time() + 0.1
            while loop.time() < until:
                pass
            sock.send(b"*** hi\n")

        loop.call_soon(hold_up)
        assert await client.receive(0.05) == Notice("hi")
        sock.close()
