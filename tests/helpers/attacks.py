"""A chat-server under attack by members of one kind: text, JSON, TLS, or with a history."""

from __future__ import annotations

import math
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.helpers.commands import BIN, Run, Running
from tests.helpers.peers import DEADLINE, Peer, token_seconds, trusting
from tests.helpers.processes import resident_kib

# Each kind, and how many times longer than text it may take: beside thousands, and beside few. Beside thousands a line
# is ten times as long in JSON, and is encrypted for each in TLS. With a history a line waits for two more threads.
KINDS = {"text": (1, 1), "json": (6, 1), "tls": (6, 1), "history": (2, 2)}

# A name of 32 letters that take four bytes each: an answer or a line is as long as it gets.
LONG_NAME = b"/nick " + "\U00012000".encode() * 31 + b"\n"

# Connect, send, and reset, over and over: the arguments are the port, the seconds, the number that stay connected
# meanwhile, and the bytes. It has a process of its own, as a thread would hold up the one that measures.
STORM = """
import socket, struct, sys, time
port, most, data = int(sys.argv[1]), int(sys.argv[3]), sys.argv[4].encode()
until = time.monotonic() + float(sys.argv[2])
peers, number = [], 0
print("begun", flush=True)
while time.monotonic() < until:
    number += 1
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        peer.bind((f"127.{sys.argv[5]}.{number // 200 % 200}.{number % 200 + 1}", 0))
        peer.connect(("127.0.0.1", port))
        peer.send(data)
    except OSError:
        pass
    peers.append(peer)
    for peer in peers[: len(peers) - most]:
        peer.close()
    del peers[: len(peers) - most]
"""


class Attack:
    """A chat-server, and those that join it. The talkers that measure it are plain members, as is its output.

    Attributes:
        kind: the kind of members that attack, one of KINDS.
        server, port: the running chat-server, and its port.
    """

    def __init__(self, kind: str, run: Run, folder: Path, certificate: Path, long: bool) -> None:
        self.kind = kind
        self._run = run
        self._folder = folder
        self._options = {"tls": ["--tls-cert", str(certificate)], "history": ["--history", str(folder / "chat.db")]}
        self._long = long

    def start(self, *options: str) -> None:
        """Start chat-server on a free port. Its output is read, and forgotten, by another process."""
        reader, writer = os.pipe()
        program = ["/bin/bash", "-c", 'exec "$@" > >(head -n 1; cat > /dev/null) 2> "$0"', str(self._folder / "err")]
        command = [str(BIN / "chat-server"), "--port", "0", *self._options.get(self.kind, []), *options]
        self.server: Running = self._run(*program, *command, stdout=writer)
        os.close(writer)
        with open(reader) as lines:
            self.port = int(lines.readline().rpartition(":")[2])
        self._before = resident_kib(self.server.process.pid)

    def seconds(self, short: float) -> float:
        """Return how long to attack: ten times as long with --long-attacks."""
        return short * 10 if self._long else short

    def allowed(self, seconds: float, *, thousands: bool = False) -> float:
        """Return how long a token may take, if it may take so long among members that speak text."""
        beside_thousands, beside_few = KINDS[self.kind]
        return seconds * (beside_thousands if thousands else beside_few)

    @contextmanager
    def peers(self, number: int, **options: Any) -> Iterator[list[Peer]]:
        """Connect so many members that speak text; reset them at the end."""
        with ExitStack() as stack:
            connected = list[Peer]()
            for _ in range(number):
                connected.append(Peer(self.port, tls=self.kind == "tls", **options))
                stack.callback(connected[-1].reset)
            yield connected

    @contextmanager
    def attackers(self, number: int, **options: Any) -> Iterator[list[Peer]]:
        """Connect so many members of the kind that attacks."""
        with self.peers(number, **options) as connected:
            for peer in connected if self.kind == "json" else []:
                peer.send(b"/json\n")
                peer.pass_over(b"welcome")
            yield connected

    @contextmanager
    def connections(self, number: int, *, tls: bool = False) -> Iterator[list[socket.socket]]:
        """Connect so many sockets, from several addresses, as one has not enough ports; close them at the end."""
        context = trusting()
        with ExitStack() as stack:
            sockets = list[socket.socket]()
            for index in range(number):
                source = f"127.0.0.{2 + index % 8}", 0
                sock = socket.create_connection(("127.0.0.1", self.port), DEADLINE, source)
                sockets.append(context.wrap_socket(sock) if tls else sock)
                stack.callback(sockets[-1].close)
            yield sockets

    @contextmanager
    def crowd(self, number: int, data: Callable[[int], bytes] = lambda index: b"") -> Iterator[None]:
        """Connect so many members of the kind that attacks; once all are there, each sends its `data`."""
        with self.connections(number, tls=self.kind == "tls") as sockets:
            for sock in sockets if self.kind == "json" else []:
                sock.sendall(b"/json\n")
                while b"welcome" not in sock.recv(65536):
                    pass
            for index, sock in enumerate(sockets):
                sock.sendall(data(index))
            yield

    @contextmanager
    def storm(self, seconds: float, data: str = "", most: int = 1) -> Iterator[None]:
        """Have two processes connect, send, and reset, as fast as they can; `most` of each stay for a while."""
        arguments = [str(self.port), str(seconds), str(most), data]
        storms = [self._run(sys.executable, "-c", STORM, *arguments, str(number)) for number in (1, 2)]
        for storm in storms:
            assert storm.line() == "begun"
        yield
        for storm in storms:
            assert storm.ends()[0] == 0

    def begin(self) -> None:
        """Remember the memory that the server takes now."""
        self._before = resident_kib(self.server.process.pid)

    @property
    def grown(self) -> float:
        """By how many MiB the server has grown since `begin`."""
        return (resident_kib(self.server.process.pid) - self._before) / 1024

    def log(self) -> str:
        """Return the last lines that the server has logged."""
        return (self._folder / "err").read_text()[-2000:]

    @property
    def descriptors(self) -> int:
        """How many descriptors the server has."""
        return len(os.listdir(f"/proc/{self.server.process.pid}/fd"))


@contextmanager
def reading(peer: Peer) -> Iterator[None]:
    """Read everything that a peer gets, in a thread, until it is closed at the end."""

    def read() -> None:
        with suppress(OSError):
            while peer.sock.recv(1 << 20):
                pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield
    with suppress(OSError):
        peer.sock.shutdown(socket.SHUT_RDWR)
    thread.join(DEADLINE)


@contextmanager
def flooding(flooders: Sequence[Peer], line: bytes) -> Iterator[None]:
    """Send a line over and over from all of them, and read their answers, in a thread."""
    going = threading.Event()
    thread = threading.Thread(target=flood, args=(flooders, line * (65536 // len(line)), going), daemon=True)
    going.set()
    thread.start()
    yield
    going.clear()
    thread.join(DEADLINE)


def flood(flooders: Sequence[Peer], data: bytes, going: threading.Event) -> None:
    """Send and receive as fast as the server takes it, until `going` is cleared."""
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


def tokens_p99(talker: Peer, reader: Peer, seconds: float) -> float:
    """Send one token after the other for so long; return what 99 of 100 took at the most."""
    taken, until = list[float](), time.monotonic() + seconds
    while time.monotonic() < until:
        taken.append(token_seconds(talker, reader))
    return sorted(taken)[int(len(taken) * 0.99)]


def best(measure: Callable[[], float], bound: float) -> float:
    """Measure up to three times, as the machine may be busy with something else; return the first below the bound."""
    measured = math.inf
    for _ in range(3):
        if (measured := min(measured, measure())) < bound:
            break
    return measured
