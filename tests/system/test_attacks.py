"""Hostile members: bursts, floods of tiny lines, unread answers. The room goes on, in bounded memory and time."""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import BIN, Run, Running
from tests.helpers.peers import DEADLINE, Peer, token_seconds, trusting
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


def flooding(flooders: list[Peer], line: bytes, going: threading.Event) -> threading.Thread:
    """Send a line over and over from all of them, read their answers, in a thread until `going` is cleared."""
    data = line * (65536 // len(line))

    def flood() -> None:
        poll = select.epoll()
        by_number = {peer.sock.fileno(): peer for peer in flooders}
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


@contextmanager
def crowd(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Connect so many sockets, from several addresses, as one has not enough ports; close them at the end."""
    with ExitStack() as stack:
        addresses = [(f"127.0.0.{2 + index % 8}", 0) for index in range(number)]
        server = ("127.0.0.1", port)
        yield [
            stack.enter_context(socket.create_connection(server, timeout=DEADLINE, source_address=address))
            for address in addresses
        ]


@contextmanager
def peers(port: int, number: int, **options: Any) -> Iterator[list[Peer]]:
    """Connect so many peers; reset them at the end."""
    with ExitStack() as stack:
        connected = list[Peer]()
        for _ in range(number):
            connected.append(Peer(port, **options))
            stack.callback(connected[-1].reset)
        yield connected


def best(measure: Callable[[], float], bound: float) -> float:
    """Measure up to three times, as the machine may be busy with something else; return the first below the bound."""
    measured = math.inf
    for _ in range(3):
        if (measured := min(measured, measure())) < bound:
            break
    return measured


@pytest.mark.parametrize(
    ("data", "seconds"),
    [("x\n/json\n", 0.25), ("/nick n{}\n/json 0\n/sync\n", 0.5)],
    ids=["switch", "return"],
)
def test_three_thousand_switch_at_once(attacked: Attacked, many_descriptors: None, data: str, seconds: float) -> None:
    """Members that ask for JSON in one moment get one delivery each: a token between two others is not held up."""
    _, port = attacked("--max-clients", "5000")

    def storm() -> float:
        with peers(port, 2) as (talker, reader):
            with crowd(port, 3000) as sockets:
                for index, sock in enumerate(sockets):
                    sock.send(data.format(index).encode())
                switched = token_seconds(talker, reader)
            return max(switched, token_seconds(talker, reader))

    assert best(storm, seconds) < seconds


def test_thousands_of_announced_joins(attacked: Attacked, many_descriptors: None) -> None:
    """Four thousand that join at once are announced to all by one delivery."""
    _, port = attacked("--max-clients", "5000", "--announce")

    def storm() -> float:
        with peers(port, 2) as (talker, reader), crowd(port, 4000):
            return token_seconds(talker, reader)

    assert best(storm, 0.2) < 0.2


@pytest.mark.parametrize("line", [b"a\n", b"/\n", b"/who\n", b"/nick x\n"], ids=["text", "slash", "who", "nick"])
@pytest.mark.parametrize(("number", "seconds"), [(1, 0.05), (32, 0.1)])
def test_a_token_beside_floods(attacked: Attacked, line: bytes, number: int, seconds: float) -> None:
    """Tiny lines, long answers and refusals of any number of members hold nobody up."""
    _, port = attacked("--announce")

    def p99() -> float:
        with peers(port, 3) as (talker, reader, program), peers(port, number) as flooders:
            program.send(b"/json\n")
            going = threading.Event()
            going.set()
            thread = reading(program)
            flood = flooding(flooders, line, going)
            token_seconds(talker, reader)
            taken, begun = [], time.monotonic()
            while time.monotonic() - begun < 1.5:
                taken.append(token_seconds(talker, reader))
            going.clear()
            flood.join(DEADLINE)
        thread.join(DEADLINE)
        return sorted(taken)[int(len(taken) * 0.99)]

    assert best(p99, seconds) < seconds


def test_a_reader_that_reads_stays_in_a_burst(attacked: Attacked) -> None:
    """Lines of two bytes become a hundred each in JSON: 32 members send 32 KiB of them, and no reader is cut off."""
    _, port = attacked()
    reader = Peer(port)
    reader.send(b"/json\n")
    assert b"welcome" in reader.line()
    with peers(port, 32) as talkers:
        for talker in talkers:
            talker.send(b"a\n" * 16384)
        talkers[0].send(b"the end\n")
        reader.pass_over(b'"text":"the end"')
    reader.reset()


def grown(server: Running, before: int) -> float:
    """Return by how many MiB the server has grown."""
    return (resident_kib(server.process.pid) - before) / MIB


@pytest.mark.parametrize("asks", [b"/json 0\n", b""], ids=["replay", "pending"])
def test_small_pieces_pin_no_batches(attacked: Attacked, asks: bytes) -> None:
    """A member that hardly reads, and floods, keeps a few bytes of each batch: not the batches."""
    server, port = attacked()
    going = threading.Event()
    going.set()
    with peers(port, 2) as (talker, reader), peers(port, 1, receive_buffer=4096) as (attacker,):
        attacker.send(LONG_NAME.encode() + b"\n")
        for _ in range(700):
            talker.send(b"x" * 8000 + b"\n")
        talker.send(b"/sync\n")
        talker.pass_over(b"synced")
        attacker.send(asks)
        token_seconds(talker, reader)
        before, begun = resident_kib(server.process.pid), time.monotonic()
        flood = flooding([attacker], b"a\n", going)
        while time.monotonic() - begun < 4:
            token_seconds(talker, reader)  # a few bytes of each turn for the attacker
        going.clear()
        flood.join(DEADLINE)
        assert grown(server, before) < 64


def test_answers_that_nobody_reads(attacked: Attacked) -> None:
    """A hundred members ask and read nothing: together they hold the budget, the largest are cut off, others go on."""
    server, port = attacked("--max-private-bytes", str(32 << 20))
    with peers(port, 2) as (talker, reader), peers(port, 100, receive_buffer=4096) as asking:
        for index, peer in enumerate(asking):
            letters = "".join(chr(0x12000 + (index >> bit & 1)) for bit in range(31, -1, -1))
            peer.send(f"/nick {letters}\n".encode())
            peer.pass_over(b"you are now")
        before, begun, slowest = resident_kib(server.process.pid), time.monotonic(), 0.0
        while time.monotonic() - begun < 4:
            for peer in asking:
                with suppress(OSError):
                    peer.sock.setblocking(False)
                    peer.sock.send(b"/who\n" * 16)
            slowest = max(slowest, token_seconds(talker, reader))
            assert grown(server, before) < 32 + 64
        assert slowest < 0.5


@pytest.mark.parametrize("threads", ["1", "4"])
def test_the_end_beside_floods(attacked: Attacked, threads: str) -> None:
    """SIGTERM ends a server within 5 s while 200 members flood."""
    server, port = attacked("--threads", threads)
    going = threading.Event()
    going.set()
    with peers(port, 200) as flooders:
        flood = flooding(flooders, b"a\n", going)
        with peers(port, 2) as (talker, reader):
            for _ in range(20):
                token_seconds(talker, reader)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0
        assert time.monotonic() - begun < 5
        going.clear()
        flood.join(DEADLINE)


def test_refused_peers_take_few_descriptors(attacked: Attacked, many_descriptors: None) -> None:
    """A full room turns peers away without keeping them: two thousand that stay connected cost a bounded number."""
    server, port = attacked("--max-clients", "100")
    with crowd(port, 2000) as sockets, peers(port, 1) as (late,):
        assert late.rest() == b"*** the room is full\n"
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < 100 + 64 + 50
        assert len(sockets) == 2000


def test_a_token_beside_handshakes(attacked: Attacked, tmp_path: Path) -> None:
    """Hundreds of TLS handshakes with an RSA key of 4096 bits, a few milliseconds each, hold nobody up."""
    path = tmp_path / "rsa.pem"
    names = ["-subj", "/CN=localhost", "-keyout", str(path), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:4096", "-nodes", *names], check=True, capture_output=True
    )
    _, port = attacked("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(path))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        trusting().wrap_bio(incoming, outgoing).do_handshake()
    hello = outgoing.read()

    def p99() -> float:
        with peers(port, 2, tls=True) as (talker, reader), crowd(port, 300) as sockets:
            talker.drain()
            token_seconds(talker, reader)
            for sock in sockets:
                sock.send(hello)
            return max(token_seconds(talker, reader) for _ in range(20))

    assert best(p99, 0.1) < 0.1
