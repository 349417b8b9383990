"""What the tests share. No test sleeps or names a port; each blocking read has a deadline that matters only on failure."""

from __future__ import annotations

import gc
import os
import queue
import secrets
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from chatkit import Limits, Member, Message, Server
from chatkit.tls import server_context

DEADLINE = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-rounds", type=int, default=3, metavar="N", help="how often a test kills a server (3)")


@pytest.fixture
def kill_rounds(request: pytest.FixtureRequest) -> int:
    """How often to kill a server."""
    return int(request.config.getoption("--kill-rounds"))


def needs(found: object, what: str) -> pytest.MarkDecorator:
    """Marks a test that is skipped where a user lacks something, but never in CI."""
    return pytest.mark.skipif(not found and "CI" not in os.environ, reason=f"needs {what}")


class Recorder:
    """A handler that puts what happens into a queue, so that tests wait for it instead of sleeping."""

    def __init__(self) -> None:
        self.happened: queue.Queue[tuple[str, str]] = queue.Queue()

    def on_join(self, member: Member) -> None:
        self.happened.put(("join", member.name))

    def on_message(self, message: Message) -> Message:
        self.happened.put(("message", str(message)))
        return message

    def on_leave(self, member: Member, reason: str) -> None:
        self.happened.put(("leave", reason))

    def wait_for(self, kind: str) -> str:
        """The next happening of this kind; others before it are passed over."""
        while True:
            happened, what = self.happened.get(timeout=DEADLINE)
            if happened == kind:
                return what


class Peer:
    """The other end of a connection, as plain as `nc`."""

    def __init__(
        self, port: int, *, host: str = "127.0.0.1", receive_buffer: int | None = None, tls: bool = False
    ) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # how long something takes is the server's time
        try:
            self.sock.connect((host, port))
            self.name = str(self.sock.getsockname()[1])
            self.sock = trusting().wrap_socket(self.sock, suppress_ragged_eofs=False) if tls else self.sock
        except OSError:
            self.sock.close()
            raise
        self._received = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> bytes:
        """The next line, without its end."""
        while b"\n" not in self._received:
            data = self.sock.recv(65536)
            assert data, f"ended after {self._received!r}"
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def pass_over(self, token: bytes) -> None:
        """Read to the end of `token`, however much comes before it."""
        while token not in self._received:
            data = self.sock.recv(1 << 20)
            assert data, f"ended before {token!r}"
            self._received = self._received[-len(token) :] + data
        self._received = self._received.partition(token)[2]

    def drain(self) -> None:
        """Drop what has arrived."""
        self._received = b""
        self.sock.setblocking(False)
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            while self.sock.recv(1 << 20):
                pass
        self.sock.settimeout(DEADLINE)

    def lines(self, number: int) -> list[bytes]:
        return [self.line() for _ in range(number)]

    def rest(self) -> bytes:
        """Everything until the server's end of stream."""
        parts = [self._received]
        while data := self.sock.recv(1 << 20):
            parts.append(data)
        self._received = b""
        return b"".join(parts)

    def send_eof(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def token_seconds(talker: Peer, reader: Peer) -> float:
    """How long a fresh token takes from one member to another; what the reader gets before it is passed over."""
    token = secrets.token_hex(8).encode() + b"\n"
    talker.drain()
    begun = time.monotonic()
    talker.send(token)
    reader.pass_over(token)
    return time.monotonic() - begun


def assert_healthy(talker: Peer, reader: Peer) -> None:
    """A fresh token from one member reaches another in 200 ms."""
    assert token_seconds(talker, reader) < 0.2


class Started:
    """A server of a test, with its recorder, and peers that are closed when the test ends."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self._stack = stack
        self._tls = options.get("tls") is not None
        self.recorder = Recorder()
        self.server = stack.enter_context(Server(port=0, **{"handler": self.recorder, **options}))
        self.port = self.server.port

    def peer(self, **options: Any) -> Peer:
        peer = Peer(self.port, tls=self._tls, **options)
        self._stack.callback(peer.close)
        until = time.monotonic() + DEADLINE
        while self._tls and peer.name not in [member.name for member in self.server.members]:
            assert time.monotonic() < until  # the server's side of the handshake ends a moment after ours
        return peer

    def peers(self, number: int) -> list[Peer]:
        return [self.peer() for _ in range(number)]


over_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


def trusting() -> ssl.SSLContext:
    """For tests of something else than trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.fixture
def tls() -> bool:
    """Whether `serve`, and its peers, speak TLS; `over_tls` makes a test run with both."""
    return False


@pytest.fixture
def tls_options(tls: bool, certificate: Path) -> list[str]:
    """The same for chat-server."""
    return ["--tls-cert", str(certificate)] if tls else []


@pytest.fixture
def serve(tls: bool, certificate: Path) -> Iterator[Callable[..., Started]]:
    """serve(limits=..., threads=...) starts a server that is shut down, after its peers are closed, with the test."""
    with ExitStack() as stack:
        context = {"tls": server_context(certificate)} if tls else {}
        yield lambda **options: Started(stack, **context, **options)


@pytest.fixture
def small_limits() -> Limits:
    """Limits that a test can reach."""
    return Limits(max_line_bytes=64, max_pending_bytes=100_000, max_clients=3, stall_seconds=0.2, drain_seconds=0.3)


def open_descriptors() -> set[str]:
    """What this process holds open, where the system can say."""
    found = set()
    with suppress(FileNotFoundError):
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{number}")
                if target.startswith(("socket:", "pipe:", "anon_inode:")):
                    found.add(target)
    return found


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread and no socket outlives a test."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield
    assert set(threading.enumerate()) <= threads
    if open_descriptors() - descriptors:
        gc.collect()
    assert open_descriptors() <= descriptors


@pytest.fixture(autouse=True)
def tiny_switch_interval(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests marked `stress` run with a thread switch at almost every step: races show there, or never."""
    if not request.node.get_closest_marker("stress"):
        yield
        return
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
