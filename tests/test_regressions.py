"""Each of these was a bug once."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import unicodedata
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit import AsyncClient, Client, ConnectionClosed, Message, NameTaken, Notice, Server
from chatkit.client.protocol import ClientProtocol
from chatkit.events import Joined, Left, Private, Welcome
from chatkit.net.sockets import Address
from chatkit.protocol import names
from chatkit.protocol.formats import FORMATS, JSON, TEXT
from chatkit.protocol.names import check_name
from chatkit.room.batch import Batch, BatchBuilder, Received
from chatkit.room.members import Member
from chatkit.room.room import Room
from chatkit.server.connection import Connection
from chatkit.testing import ChatRoom, Guest
from tests.helpers.aio import in_loop, raw_server, waiting_send
from tests.helpers.commands import Run, client_with, start_server
from tests.helpers.desks import Desk
from tests.helpers.inside import hold_up, interrupt_starts, room_of, workers_of
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.processes import resident_kib
from tests.helpers.servers import Serve


@pytest.mark.skipif(not Path("/proc").exists(), reason="this system has no /proc")
def test_a_replay_is_shared(run: Run) -> None:
    """300 members that ask for 1000 long lines and don't read them cost little more memory than one."""
    server, port = start_server(run, "--drain-seconds", "0.1")
    talker, reader = Peer(int(port)), Peer(int(port))
    for number in range(1000):
        talker.send(b"%08d" % number + b"x" * 8000 + b"\n")
        reader.line()
    askers = [Peer(int(port), receive_buffer=4096) for _ in range(300)]
    grown = []
    for asking in (askers[:1], askers[1:]):
        before = resident_kib(server.process.pid)
        for asker in asking:
            asker.send(b"/json 0\n")
            assert asker.line().startswith(b'{"type":"welcome"')
        grown.append(resident_kib(server.process.pid) - before)
    assert sum(grown) < 100_000
    for peer in (talker, reader, *askers):
        peer.reset()


@pytest.mark.parametrize("command", ["/msg {} hi", "/nick {}"])
def test_a_long_name_is_not_normalised(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """4080 combining marks in disorder would take seconds inside the room's lock: their name is nobody's."""
    normalised = list[str]()

    def normalize(form: str, text: str) -> str:
        normalised.append(text)
        return text

    fake = SimpleNamespace(normalize=normalize, name=unicodedata.name, category=unicodedata.category)
    desk = Desk(Room())
    ann = desk.join(1)
    monkeypatch.setattr(names, "unicodedata", fake)
    desk.hear(ann, command.format("x"), command.format("\u0301" * 2040 + "\u0323" * 2040))
    assert ann.received.startswith(b"*** ")
    assert ann.received.count(b"\n") == 2
    assert set(map(len, normalised)) == {1}


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


def test_on_listening_uses_the_server() -> None:
    """It may ask and say anything; a shutdown is refused as in other hooks, instead of waiting for itself for ever."""
    seen = list[object]()

    class Curious:
        def on_listening(self, address: Address) -> None:
            with pytest.raises(RuntimeError, match="hook"):
                server.shutdown()
            server.broadcast("anybody here?")
            seen.extend((address, server.members, server.stats.members, server.stats.messages))

    server = Server(port=0, handler=Curious())
    starting = threading.Thread(target=server.start)
    starting.start()
    starting.join(DEADLINE)
    assert not starting.is_alive()
    with Client(port=server.port) as client:
        server.broadcast("sentinel")
        assert client.receive(DEADLINE) == Notice("sentinel")
    server.shutdown()
    assert seen == [server.address, [], 0, 0]


def some_batch(random: random.Random, members: list[Member]) -> Batch:
    """What a turn might bring: lines, answers and announcements in any order."""
    builder = BatchBuilder(random.choice([(TEXT,), FORMATS]))
    for number in range(random.randrange(1, 6)):
        member = random.choice(members)
        match random.randrange(4):
            case 0:
                builder.tell(member, TEXT, TEXT.encode(Notice(f"told {number}")))
            case 1:
                builder.announce(Joined(member.name), random.choice([FORMATS, (JSON,)]), exclude=member)
            case 2:
                builder.announce(Left(member.name), FORMATS)
            case _:
                builder.say(member, Message(member.name, "é" * number or "x", number + 1, 0.0))
    return builder.batch() or Batch()


@pytest.mark.parametrize("seed", range(200))
def test_merged_batches_are_the_batches(seed: int) -> None:
    """Who joined after k of them gets exactly the later ones, everyone else all; each byte as without merging."""
    rolls = random.Random(seed)
    here = [Member(f"m{number}", ("127.0.0.1", number)) for number in range(4)]
    joining = {Member(f"n{number}", ("127.0.0.1", number)): rolls.randrange(9) for number in range(4)}
    batches = list[Batch]()
    for number in range(8):
        batches.append(some_batch(rolls, here + [member for member, after in joining.items() if after <= number]))
    merged = Batch.merged(batches, joining)
    for member in (*here, *joining):
        for format in FORMATS:
            after = joining.get(member, 0) if format is TEXT else 0
            pieces = [piece for batch in batches[after:] for piece in batch.lines(format).pieces_for(member)]
            assert b"".join(merged.lines(format).pieces_for(member)) == b"".join(pieces)
    assert merged.messages == [message for batch in batches for message in batch.messages]


def test_many_joins_are_few_writes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is announced while the worker is busy is one write for each member; each hears of those after it."""
    started = serve(announce=True)
    ann = started.peer()
    assert started.events.wait_for("join") == ann.name
    writes, free = list[object](), threading.Event()
    for verb in ("write", "write_pieces"):

        def counted(self: Connection, data: Any, write: Any = getattr(Connection, verb)) -> bool:
            writes.append(self)
            return bool(write(self, data))

        monkeypatch.setattr(Connection, verb, counted)

    hold_up(workers_of(started.server)[0], free)
    newcomers = started.peers(50)
    order = [started.events.wait_for("join") for _ in newcomers]
    free.set()
    for number, name in enumerate(order):
        peer = next(peer for peer in newcomers if peer.name == name)
        for later in order[number + 1 :]:
            assert peer.line() == f"*** {later} joined".encode()
    assert ann.lines(50) == [f"*** {name} joined".encode() for name in order]
    assert max(writes.count(connection) for connection in writes) < 5


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("held_up", [False, True])
def test_stats_are_exact_while_members_join(serve: Serve, threads: int, held_up: bool) -> None:
    """Who joins between two messages gets the later one, and counts for it alone, also where both are one write."""
    started = serve(threads=threads, announce=True)
    peers, free = [started.peer()], threading.Event()
    assert started.events.wait_for("join") == peers[0].name
    (talker,) = started.server.members

    for worker in workers_of(started.server) if held_up else ():
        hold_up(worker, free)
    for number in range(30):
        peers.append(started.peer())
        assert started.events.wait_for("join") == peers[-1].name
        room_of(started.server).receive([Received(talker, [f"{number}"])])
    free.set()
    for first, peer in enumerate(peers[1:]):
        heard = list[bytes]()
        while not heard or not heard[-1].endswith(b": 29"):
            heard.append(peer.line())
        said = [line for line in heard if not line.startswith(b"*** ")]
        assert said == [f"{talker.name}: {number}".encode() for number in range(first, 30)]
        assert len(heard) - len(said) == 29 - first
    assert (started.server.stats.messages, started.server.stats.deliveries) == (30, sum(range(1, 31)))


@pytest.mark.parametrize(
    "name",
    [
        *("\u115f", "\u1160", "\uac00\u115f", "\uac00\u1160", "\U00013441", "\U00013442", "\U00013000\U00013441"),
        *("\U00010300\U00010a80", "\U00010a80\U00010300"),
    ],
)
def test_names_that_deceive(name: str) -> None:
    """Letters that can't be seen, and two scripts whose names begin with the same word; one by one they may."""
    with pytest.raises(ValueError, match="a name begins with a letter"):
        check_name(name)
    for letter in "\uac00\U00010300\U00010a80\U00013000":
        check_name(letter)


def test_a_private_line_before_the_welcome_is_kept() -> None:
    """Nobody tells it again; what was said to all before the welcome would be told twice."""
    session = ClientProtocol(8192, password=None, name=None, events=True, after=None)
    session.receive_data(
        b'ada (private): psst\nada: hi\n{"type":"welcome","name":"1","newest":1,"epoch":"0123456789abcdef"}\n'
    )
    assert list(session.received) == [Private("ada", "psst"), Welcome("1", 1, "0123456789abcdef")]


@pytest.mark.parametrize("line", ["/json", "/json 0", "/json x"])
def test_once_is_not_fooled_by_json_in_its_input(run: Run, serve: Serve, line: str) -> None:
    """Its input is said and its refusals told; the room is known to have heard all of it."""
    started = serve()
    peer = started.peer()
    status, out, err = client_with(run, started.port, f"before\n{line}\nafter\n", "--once")
    assert (status, out) == (1, "")
    assert err in ("chat-client: you read JSON already\n", "chat-client: usage: /json [AFTER [EPOCH]]\n")
    assert [peer.line().partition(b": ")[2] for _ in range(2)] == [b"before", b"after"]


def test_guests_that_cannot_all_join(chat_server: Server) -> None:
    """Two can't have one name: the first is a guest, who leaves with the others; nothing leaks."""
    with ChatRoom(chat_server) as room:
        with pytest.raises(NameTaken):
            room.join(2, name="ada")
        assert [guest.name for guest in room.guests] == ["ada"]
        (bob,) = room.join()
        bob.expect_nothing()
    assert chat_server.members == []


def test_expect_nothing_while_a_bot_waits(chat_room: ChatRoom) -> None:
    """A guest that a thread receives from doesn't hold up the others, and loses nothing to their signs."""
    bot, ann, bob = chat_room.join(3)
    heard = list[str]()

    def serve_as_bot(bot: Guest) -> None:
        with suppress(ConnectionClosed):
            while True:
                heard.append(bot.receive(None).text)
                bot.send(f"echo {heard[-1]}")

    thread = threading.Thread(target=serve_as_bot, args=(bot,))
    thread.start()
    for number in range(20):
        ann.send(f"{number}")
        bob.expect(f"{number}", sender=ann)
        for guest in (ann, bob):
            guest.expect(f"echo {number}", sender=bot)
            guest.expect_nothing()
    bot.close()
    thread.join(DEADLINE)
    assert heard == [str(number) for number in range(20)]


@pytest.mark.parametrize("opening", [b"", b"/json\n"])
def test_more_pieces_than_one_write_takes(serve: Serve, opening: bytes) -> None:
    """Who talks in turns with another one gets a batch in thousands of pieces (IOV_MAX is 1024), and all of it."""
    started = serve()
    ann, bob = started.peers(2)
    ann.send(opening + b"/who\n")
    ann.pass_over(bob.name.encode())
    ann.line()
    members = {member.name: member for member in started.server.members}
    turns = [Received(members[peer.name], [f"{number:05}"]) for number in range(3000) for peer in (ann, bob)]
    room_of(started.server).receive(turns)
    started.server.broadcast("end")
    for number in range(3000):
        line = ann.line()
        assert bob.name.encode() in line
        assert b"%05d" % number in line
        assert bob.line() == f"{ann.name}: {number:05}".encode()
    assert b"end" in ann.line()


def test_send_after_send_eof(chat_server: Server) -> None:
    """Both clients: ConnectionClosed, at once and again; what comes can still be received."""
    with Client(port=chat_server.port) as client:
        client.send_eof()
        for _ in range(2):
            with pytest.raises(ConnectionClosed):
                client.send("x")
        assert list(client) == []

    @in_loop
    async def in_a_loop() -> None:
        async with AsyncClient(port=chat_server.port) as client:
            await client.send_eof()
            for _ in range(2):
                with pytest.raises(ConnectionClosed):
                    await client.send("x")
            assert [event async for event in client] == []

    in_a_loop()
    assert chat_server.stats.messages == 0


def test_a_start_that_is_interrupted_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C while a thread begins: what it needs isn't freed before it has ended."""
    interrupt_starts(monkeypatch, threading.Event())
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        Server(port=0).start()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE)
    assert not caplog.records
