"""Hostile members: bursts, floods of tiny lines, unread answers. The room goes on, in bounded memory and time."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.commands import BIN, Run, Running
from tests.helpers.peers import DEADLINE, Peer, token_seconds
from tests.helpers.processes import linux, resident_kib

pytestmark = [pytest.mark.timed, linux]

MIB = 1024
# A name of 32 letters that take four bytes each: an answer or a line is as long as it gets.
LONG_NAME = "/nick " + "\U00012000" * 31


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Allow thousands of sockets in the test's process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


Attacked = Callable[..., tuple[Running, int]]


@pytest.fixture
def attacked(run: Run, tmp_path: Path) -> Iterator[Attacked]:
    """attacked(*options) starts a chat-server whose output goes to a file, and gives it and its port."""
    servers = list[Running]()

    def start(*options: str) -> tuple[Running, int]:
        reader, writer = os.pipe()
        program = ["/bin/bash", "-c", 'exec "$@" > >(head -n 1; cat > /dev/null) 2> "$0"', str(tmp_path / "err")]
        servers.append(run(*program, str(BIN / "chat-server"), "--port", "0", *options, stdout=writer))
        os.close(writer)
        with open(reader) as lines:
            return servers[-1], int(lines.readline().rpartition(":")[2])

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait(DEADLINE)


def reading(peer: Peer) -> threading.Thread:
    """Read everything that a peer gets, in a thread, until it is closed."""

    def read() -> None:
        with suppress(OSError):
            while peer.sock.recv(1 << 20):
                pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def flooding(peers: list[Peer], line: bytes, going: threading.Event) -> threading.Thread:
    """Send a line over and over from all peers, read their answers, in a thread until `going` is cleared."""
    data = line * (65536 // len(line))

    def flood() -> None:
        poll = select.epoll()
        by_number = {peer.sock.fileno(): peer for peer in peers}
        for number, peer in by_number.items():
            peer.sock.setblocking(False)
            poll.register(number, select.EPOLLIN | select.EPOLLOUT)
        while going.is_set():
            for number, events in poll.poll(0.1):
                with suppress(OSError):
                    if events & select.EPOLLIN and not by_number[number].sock.recv(1 << 20):
                        poll.unregister(number)
                    elif events & select.EPOLLOUT:
                        by_number[number].sock.send(data)
        poll.close()

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    return thread


def crowd(port: int, number: int) -> list[socket.socket]:
    """Return so many connected sockets; they come from several addresses, as one has not enough ports."""
    sockets = []
    for index in range(number):
        sock = socket.create_connection(
            ("127.0.0.1", port), timeout=DEADLINE, source_address=(f"127.0.0.{2 + index % 8}", 0)
        )
        sockets.append(sock)
    return sockets


@pytest.mark.parametrize(
    ("data", "seconds"),
    [("x\n/json\n", 0.25), ("/nick n{}\n/json 0\n/sync\n", 0.5)],
    ids=["switch", "return"],
)
def test_three_thousand_switch_at_once(attacked: Attacked, many_descriptors: None, data: str, seconds: float) -> None:
    """Members that ask for JSON in one moment get one delivery each: a token between two others is not held up."""
    _, port = attacked("--max-clients", "5000")
    talker, reader = Peer(port), Peer(port)
    sockets = crowd(port, 3000)
    for index, sock in enumerate(sockets):
        sock.send(data.format(index).encode())
    assert token_seconds(talker, reader) < seconds
    for sock in sockets:
        sock.close()
    assert token_seconds(talker, reader) < seconds
    talker.close()
    reader.close()


def test_thousands_of_announced_joins(attacked: Attacked, many_descriptors: None) -> None:
    """Four thousand that join at once are announced to all by one delivery."""
    _, port = attacked("--max-clients", "5000", "--announce")
    talker, reader = Peer(port), Peer(port)
    sockets = crowd(port, 4000)
    assert token_seconds(talker, reader) < 0.2
    for sock in sockets:
        sock.close()
    talker.close()
    reader.close()


@pytest.mark.parametrize("line", [b"a\n", b"/\n", b"/who\n", b"/nick x\n"], ids=["text", "slash", "who", "nick"])
@pytest.mark.parametrize(("number", "seconds"), [(1, 0.05), (32, 0.1)])
def test_a_token_beside_floods(attacked: Attacked, line: bytes, number: int, seconds: float) -> None:
    """Tiny lines, long answers and refusals of any number of members hold nobody up."""
    _, port = attacked("--announce")
    talker, reader, program = Peer(port), Peer(port), Peer(port)
    program.send(b"/json\n")
    peers, going = [Peer(port) for _ in range(number)], threading.Event()
    going.set()
    threads = [reading(program), flooding(peers, line, going)]
    token_seconds(talker, reader)
    taken, begun = [], time.monotonic()
    while time.monotonic() - begun < 2:
        taken.append(token_seconds(talker, reader))
    going.clear()
    threads[1].join(DEADLINE)
    assert sorted(taken)[int(len(taken) * 0.99)] < seconds, f"{max(taken):.3f} s at the most"
    for peer in (*peers, talker, reader, program):
        peer.reset()


def test_a_reader_that_reads_stays_in_a_burst(attacked: Attacked) -> None:
    """Lines of two bytes become a hundred each in JSON: 32 members send 32 KiB of them, and no reader is cut off."""
    _, port = attacked()
    reader = Peer(port)
    reader.send(b"/json\n")
    assert b"welcome" in reader.line()
    peers = [Peer(port) for _ in range(32)]
    for peer in peers:
        peer.send(b"a\n" * 16384)
    peers[0].send(b"the end\n")
    reader.pass_over(b'"text":"the end"')
    for peer in (*peers, reader):
        peer.reset()


def grown(server: Running, before: int) -> float:
    """Return by how many MiB the server has grown."""
    return (resident_kib(server.process.pid) - before) / MIB


@pytest.mark.parametrize("asks", [b"/json 0\n", b""], ids=["replay", "pending"])
def test_small_pieces_pin_no_batches(attacked: Attacked, asks: bytes) -> None:
    """A member that hardly reads, and floods, keeps a few bytes of each batch: not the batches."""
    server, port = attacked()
    talker, attacker = Peer(port), Peer(port, receive_buffer=4096)
    attacker.send(LONG_NAME.encode() + b"\n")
    for _ in range(700):
        talker.send(b"x" * 8000 + b"\n")
    talker.send(b"/sync\n")
    talker.pass_over(b"synced")
    attacker.send(asks)
    before, going, sent = resident_kib(server.process.pid), threading.Event(), 0
    going.set()
    threads = [reading(talker), flooding([attacker], b"a\n", going)]
    begun = time.monotonic()
    while time.monotonic() - begun < 4:
        talker.send(b"hi\n")
        sent += 1
        select.select([], [], [], 0.01)
    going.clear()
    threads[1].join(DEADLINE)
    assert grown(server, before) < 64
    for peer in (talker, attacker):
        peer.reset()


def test_answers_that_nobody_reads(attacked: Attacked) -> None:
    """A hundred members ask and read nothing: together they hold the budget, the largest are cut off, others go on."""
    server, port = attacked("--max-private-bytes", str(32 << 20))
    talker, reader = Peer(port), Peer(port)
    peers = [Peer(port, receive_buffer=4096) for _ in range(100)]
    for index, peer in enumerate(peers):
        letters = "".join(chr(0x12000 + (index >> bit & 1)) for bit in range(31, -1, -1))
        peer.send(f"/nick {letters}\n".encode())
        peer.pass_over(b"you are now")
    before, begun = resident_kib(server.process.pid), time.monotonic()
    while time.monotonic() - begun < 4:
        for peer in peers:
            with suppress(OSError):
                peer.sock.setblocking(False)
                peer.sock.send(b"/who\n" * 16)
        assert token_seconds(talker, reader) < 0.2
        assert grown(server, before) < 32 + 64
    for peer in (*peers, talker, reader):
        peer.reset()


@pytest.mark.parametrize("threads", ["1", "4"])
def test_the_end_beside_floods(attacked: Attacked, threads: str) -> None:
    """SIGTERM ends a server within 5 s while 200 members flood."""
    server, port = attacked("--threads", threads)
    peers, going = [Peer(port) for _ in range(200)], threading.Event()
    going.set()
    thread = flooding(peers, b"a\n", going)
    select.select([], [], [], 1)
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(DEADLINE) == 0
    assert time.monotonic() - begun < 5
    going.clear()
    thread.join(DEADLINE)
    for peer in peers:
        peer.reset()
