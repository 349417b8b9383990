"""`Client` and chat-client while the server, the terminal or the process itself misbehaves."""

from __future__ import annotations

import logging
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from logging.handlers import QueueHandler

import pytest

from chatkit import Client, ConnectionClosed, Error, Limits, Notice, ProtocolError
from chatkit.cli.common import complain, fail
from chatkit.protocol.formats import encode_json
from chatkit.protocol.names import RULE
from tests.helpers.anything import FAR_TIMES
from tests.helpers.commands import CONNECTED, Run, Running
from tests.helpers.hostile import HOSTILE, forbidden
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.servers import Serve, Started

pytestmark = pytest.mark.slow

RESET = b"\1\0\0\0\0\0\0\0"
Records = queue.SimpleQueue[logging.LogRecord]


class FakeServer:
    """Accepts one conversation; the test says what it says."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # deaf sooner
        self._listener.settimeout(DEADLINE)
        self.port: int = self._listener.getsockname()[1]

    def command(self, port: int | None = None, **streams: int) -> Running:
        """A chat-client that has joined; its input stays open until the end of the test, or is what `streams` say."""
        reading, writing = os.pipe()
        self._stack.callback(os.close, writing)
        self._stack.callback(os.close, reading)
        client = Running("chat-client", "--port", str(port or self.port), **{"stdin": reading, **streams})
        self._stack.enter_context(client.process)
        self._stack.callback(client.process.kill)
        assert client.line() == CONNECTED
        return client

    def library(self) -> Client:
        return self._stack.enter_context(Client(port=self.port))

    def accept(self) -> socket.socket:
        sock = self._stack.enter_context(self._listener.accept()[0])
        sock.settimeout(DEADLINE)
        return sock

    @contextmanager
    def pouring(self, block: bytes, most_bytes: int | None = None) -> Iterator[None]:
        """Meanwhile a thread sends `block` after `block`, until it has sent that many bytes or the client is gone."""
        sock = self.accept()

        def pour() -> None:
            sent = 0
            with sock, suppress(ConnectionError):
                while most_bytes is None or sent < most_bytes:
                    sock.sendall(block)
                    sent += len(block)

        thread = threading.Thread(target=pour)
        thread.start()
        yield
        thread.join(DEADLINE)
        assert not thread.is_alive()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with ExitStack() as stack:
        yield FakeServer(stack)


def test_receive_from_a_mute_server(fake: FakeServer) -> None:
    """TimeoutError when the time is over; a later line is received all the same."""
    client, sock = fake.library(), fake.accept()
    for timeout in (0, 0.05):
        with pytest.raises(TimeoutError):
            client.receive(timeout)
    sock.sendall(b"*** at last\n")
    assert client.receive(DEADLINE) == Notice("at last")


def fill(descriptor: int) -> None:
    """Write lines until no more are taken: their reader waits for something else."""
    os.set_blocking(descriptor, False)
    while select.select([], [descriptor], [], 0.2)[1]:
        with suppress(BlockingIOError):
            os.write(descriptor, (b"1: " + b"x" * 1020 + b"\n") * 64)


@pytest.mark.parametrize("stuck", ["", "sending", "showing"])
def test_ctrl_c_at_once(stuck: str) -> None:
    """It ends by SIGINT in half a second, though the server is mute, reads nothing, or nobody reads what is shown."""
    took = []
    for _ in range(3):  # the fastest counts: a busy machine may hold up one
        with ExitStack() as stack:
            fake = FakeServer(stack)
            client, sock = fake.command(stdin=subprocess.PIPE), fake.accept()
            assert client.process.stdin
            if stuck:
                fill(client.process.stdin.fileno() if stuck == "sending" else sock.fileno())
            begun = time.monotonic()
            client.process.send_signal(signal.SIGINT)
            assert client.process.wait(DEADLINE) == -signal.SIGINT
            took.append(time.monotonic() - begun)
            assert client.ends()[2] == ""
        if took[-1] < 0.5:
            return
    pytest.fail(f"it took {took}")


PEAK = """
import re, sys
from chatkit import Client, ProtocolError
def peak():
    return int(re.search("VmHWM:\\\\s+([0-9]+) kB", open("/proc/self/status").read())[1])
with Client(port=int(sys.argv[1])) as client:
    before = peak()
    try:
        while client.receive(10): pass
    except ProtocolError as error:
        print(peak() - before, error)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system has no /proc")
@pytest.mark.parametrize("first", [b"", b"1: hi\n"])
def test_an_endless_line_takes_little_memory(fake: FakeServer, first: bytes) -> None:
    """100 MB without a line end: a ProtocolError, for less than 8 MiB of memory at any time."""
    command = [sys.executable, "-c", PEAK, str(fake.port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process, fake.pouring(first + b"x" * 100_000_000, most_bytes=1):
        out, _ = process.communicate(timeout=DEADLINE)
    grown, _, error = out.partition(" ")
    assert error == "the server sent a line longer than 1048576 bytes\n"
    assert int(grown) < 8 * 1024


def test_the_command_and_an_endless_line(fake: FakeServer) -> None:
    """Exit status 3, one line on stderr, nothing of the endless line on stdout."""
    client = fake.command()
    with fake.pouring(b"x" * 1_000_000, most_bytes=100_000_000):
        err = "chat-client: disconnected: the server sent a line longer than 1048576 bytes\n"
        assert client.ends() == (3, "", err)


@pytest.mark.parametrize("data", [b"1: \xff\n", b"1: \xed\xa0\x80\n", b"1: \x9b6n\n"], ids=["FF", "surrogate", "C1"])
def test_bad_utf8(fake: FakeServer, data: bytes) -> None:
    """The lines before it come out, then a ProtocolError. The command shows escapes, and goes on."""
    client, sock = fake.library(), fake.accept()
    sock.sendall(b"*** before\n" + data + b"*** after\n")
    assert client.receive(DEADLINE) == Notice("before")
    for _ in range(2):
        with pytest.raises(ProtocolError, match="the server sent a line not valid UTF-8"):
            client.receive(DEADLINE)
    sock.close()
    command = fake.command()
    fake.accept().sendall(b"*** before\n" + data + b"*** after\n")
    shown = data.removesuffix(b"\n").decode(errors="backslashreplace")
    assert [command.line() for _ in range(3)] == ["*** before", shown, "*** after"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_server_that_dies_in_a_line(fake: FakeServer, reset: bool) -> None:
    """The whole lines come out, the half one never; the command ends with status 3 and one line."""
    client, command = fake.library(), fake.command()
    socks = [fake.accept(), fake.accept()]
    for sock in socks:
        sock.sendall(b"1: whole\n1: ha")
    assert str(client.receive(DEADLINE)) == command.line() == "1: whole"
    for sock in socks:
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
    reason = "Connection reset by peer" if reset else "the server ended in the middle of a line"
    with pytest.raises(ConnectionClosed, match=reason) as caught:
        client.receive(DEADLINE)
    assert not caught.value.clean
    assert command.ends() == (3, "", f"chat-client: disconnected: {reason}\n")


BAD_TEXT = "".join(HOSTILE.values()).replace("\n", "")
WELCOME = b'{"type":"welcome","name":"1","newest":0,"epoch":"1"}\n'
ENDINGS = {
    "refused": (("--name", "ada"), f"*** {BAD_TEXT}\n".encode(), "disconnected: "),
    "not supported": (
        ("--name", "ada"),
        f"*** {RULE}{BAD_TEXT}\n".encode(),
        "disconnected: the server doesn't support",
    ),
    "refused on return": (("--reconnect",), f"*** {BAD_TEXT}\n".encode(), "disconnected: "),
    "refused in JSON": (("--json",), encode_json(Notice(BAD_TEXT)), "disconnected: "),
    "an error": (("--once",), WELCOME + encode_json(Error(BAD_TEXT, "bad_name")), ""),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_servers_words_on_stderr_are_shown_not_obeyed(fake: FakeServer, run: Run, ending: str) -> None:
    """Whatever it says in an error, each complaint is one line, with nothing in it that a terminal obeys."""
    options, said, complaint = ENDINGS[ending]
    client = run("chat-client", "--port", str(fake.port), *options)
    with fake.accept() as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        status, out, err = client.ends()
    assert (status, forbidden(out)) == (3, [])
    assert err.startswith(f"chat-client: {complaint}")
    assert forbidden(err) == []
    assert len(err.splitlines()) == err.count("chat-client: ")


def private(time: str) -> bytes:
    return b'{"type":"private","from":"a","text":"x","time":"%s"}\n' % time.encode()


@pytest.mark.parametrize("line", [*map(private, FAR_TIMES), b'{"type":"renamed","old":"1","name":"a b"}\n'])
@pytest.mark.parametrize("option", ["--json", "--reconnect"])
def test_a_server_that_sends_no_events(fake: FakeServer, run: Run, option: str, line: bytes) -> None:
    """A time that no clock shows, a name that nobody can have: exit status 3 and one line."""
    client = run("chat-client", "--port", str(fake.port), option)
    with fake.accept() as sock:
        sock.recv(1000)
        sock.sendall(WELCOME + line)
        status, _, err = client.ends()
    assert (status, err) == (3, "chat-client: disconnected: the server sent a line that isn't an event\n")


def test_a_private_line_before_the_welcome(fake: FakeServer, run: Run) -> None:
    """It comes as plain text, which has no time; so has its JSON."""
    client = run("chat-client", "--port", str(fake.port), "--json")
    with fake.accept() as sock:
        sock.recv(1000)
        sock.sendall(b"ada (private): psst\n" + WELCOME)
        sock.shutdown(socket.SHUT_WR)
        assert client.line() == '{"type":"private","from":"ada","text":"psst"}'
        assert client.process.wait(DEADLINE) == 3  # its input is still open


@pytest.mark.parametrize("name", HOSTILE)
def test_every_complaint_is_one_harmless_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """All commands print their errors by these two functions."""
    complain("chat-client", f"{HOSTILE[name]}\nchat-client: forged")
    with pytest.raises(SystemExit):
        fail("chat-server", HOSTILE[name], HOSTILE[name])
    err = capsys.readouterr().err
    assert forbidden(err) == []
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["chat-client", "chat-server"]


def test_a_reader_that_has_seen_enough(fake: FakeServer) -> None:
    """Its stdout closed in the middle of an endless stream, the command ends quietly: exit status 0."""
    command = fake.command()
    assert command.process.stdout
    assert command.process.stderr
    with fake.pouring(b"1: good\n" * 10_000):
        assert command.line() == "1: good"
        command.process.stdout.close()
        assert command.process.wait(DEADLINE) == 0
        assert command.process.stderr.read() == b""


@pytest.fixture
def logged() -> Iterator[Records]:
    """Records of the library's log, to wait on."""
    records: Records = queue.SimpleQueue()
    handler, logger = QueueHandler(records), logging.getLogger("chatkit")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def talk_until_cut_off(started: Started, ann: Peer, bob: Peer) -> list[str]:
    """Have ann talk and bob read along until the room disconnects somebody; return the lines."""
    said: list[str] = []
    while not started.server.stats.slow_consumers:
        assert len(said) < 50_000, "nobody was cut off"
        block = [f"{len(said) + number} {'x' * 990}" for number in range(50)]
        ann.send("".join(f"{text}\n" for text in block).encode())
        said += [f"{ann.name}: {text}" for text in block]
        assert [line.decode() for line in bob.lines(len(block))] == said[-len(block) :]
    return said


def test_a_stopped_client_is_cut_off(serve: Serve, fake: FakeServer, logged: Records) -> None:
    """The others get every line; woken up, it shows a gapless prefix and ends with exit status 3 and one line."""
    started = serve(limits=Limits(max_pending_bytes=1_500_000, drain_seconds=0.2))
    client = fake.command(started.port)
    client.suspend()
    ann, bob = started.peers(2)
    said = talk_until_cut_off(started, ann, bob)
    assert started.events.wait_for("leave") == "slow consumer"
    closed = logged.get(timeout=DEADLINE).getMessage()
    ann.send(b"on\n")
    assert bob.line() == f"{ann.name}: on".encode()
    client.process.send_signal(signal.SIGCONT)
    status, out, err = client.ends()
    *shown, rest = out.split("\n")
    why, reason = "more than 1500000 bytes were waiting", "Connection reset by peer"
    if " 0 lines undelivered" in closed:  # the kernel took the rest after all
        assert shown.pop() == f"*** you were cut off: {why}"
        reason = "the server ended the conversation"
    assert closed.endswith(f" lines undelivered: {why}")
    assert (status, err, rest) == (3, f"chat-client: disconnected: {reason}\n", "")
    assert shown == said[: len(shown)]
    assert 0 < len(shown) < len(said)
