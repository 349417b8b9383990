"""chat-client on a pseudo-terminal, and chat-server's output, while strangers send what harms a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.helpers.commands import BIN, CONNECTED, DISCONNECTED, Run, read_line, start_server
from tests.helpers.hostile import HOSTILE, NOT_UTF8, forbidden
from tests.helpers.peers import Peer
from tests.helpers.servers import Serve

pytestmark = pytest.mark.slow

pytest.importorskip("fcntl")  # of the shell below
pyte = pytest.importorskip("pyte", reason="pyte, the terminal emulator, is not installed")

# What a shell is to its commands: it leads the terminal's session and outlives them. Without it the kernel would put
# the terminal's attributes back by itself when the client ends, and Ctrl-C would reach nobody.
SHELL = """
import fcntl, signal, subprocess, sys, termios
terminal = int(sys.argv[1])
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, lambda *_: None)
print(subprocess.run(sys.argv[2:], stdin=terminal, stdout=terminal, stderr=terminal).returncode, flush=True)
sys.stdin.read()
"""


class Terminal:
    """chat-client under a shell on a terminal that answers what asks it, as real ones do."""

    def __init__(self, stack: ExitStack, port: int) -> None:
        self.screen = pyte.Screen(200, 40)
        self.screen.write_process_input = self._answer
        self.answers: list[str] = []
        self.shown = ""
        self._stream = pyte.ByteStream(self.screen)
        self._waiting = b""
        self._master, self._slave = pty.openpty()
        stack.callback(os.close, self._master)
        stack.callback(os.close, self._slave)
        self.attributes_before = self.attributes()
        shell = [sys.executable, "-c", SHELL, str(self._slave), str(BIN / "chat-client"), "--port", str(port)]
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
        self._shell: subprocess.Popen[bytes] = subprocess.Popen(shell, pass_fds=[self._slave], **options)
        stack.enter_context(self._shell)
        stack.callback(self._shell.kill)
        assert self.line() == CONNECTED

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def line(self) -> str:
        """The next line that is shown; the emulator has seen it."""
        line, self._waiting = read_line(self._master, self._waiting, b"\r\n")
        return self._show(line + b"\r\n").removesuffix("\r\n")

    def ends(self) -> tuple[int, str]:
        """Return the client's exit status, and its last output."""
        assert self._shell.stdout
        status, _ = read_line(self._shell.stdout.fileno(), b"", b"\n")
        rest, self._waiting = self._waiting, b""
        while select.select([self._master], [], [], 0)[0]:
            rest += os.read(self._master, 65536)
        return int(status), self._show(rest)

    def _show(self, data: bytes) -> str:
        self._stream.feed(data)
        self.shown += data.decode().replace("\r\n", "\n")
        return data.decode()

    def _answer(self, data: str) -> None:
        self.answers.append(data)
        os.write(self._master, data.encode())


Start = Callable[[int], Terminal]


@pytest.fixture
def terminal() -> Iterator[Start]:
    """terminal(port) gives a chat-client that has joined."""
    with ExitStack() as stack:
        yield lambda port: Terminal(stack, port)


@pytest.mark.parametrize("line", [HOSTILE["report"].encode(), NOT_UTF8], ids=["C0", "raw C1"])
def test_the_emulator_would_answer(line: bytes) -> None:
    """Shown as it is, such a line makes the terminal type: the tests below can fail."""
    screen, answers = pyte.Screen(80, 24), list[str]()
    screen.write_process_input = answers.append
    pyte.Stream(screen).feed(line.decode("latin-1"))
    assert answers
    assert forbidden(line.decode("latin-1"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_shown_not_obeyed(serve: Serve, terminal: Start, name: str) -> None:
    """No forbidden code point reaches the terminal, which never answers; the room hears only what was typed."""
    started = serve()
    shown = terminal(started.port)
    typist = started.events.wait_for("join")
    stranger, listener = started.peers(2)
    stranger.send(HOSTILE[name].encode() + b"\n" + NOT_UTF8 + b"\nlast\n")
    assert shown.line().startswith(f"{stranger.name}: ")
    assert shown.line() == f"{stranger.name}: last"
    shown.type("typed\n")
    assert listener.lines(3)[1:] == [f"{stranger.name}: last".encode(), f"{typist}: typed".encode()]
    assert (forbidden(shown.shown), shown.answers, shown.screen.title) == ([], [], "")
    assert shown.screen.display[0].rstrip() == CONNECTED


def test_a_hostile_server_is_shown_not_obeyed(terminal: Start) -> None:
    """The client itself lets nothing through, though the server passes everything on as it came."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shown = terminal(listener.getsockname()[1])
        with listener.accept()[0] as sock:
            for text in HOSTILE.values():
                sock.sendall(f"1: {text}\n".encode())
                assert shown.line().startswith("1: ")
            sock.sendall(b"2: " + NOT_UTF8 + b"\n")
            assert shown.ends() == (3, "chat-client: disconnected: the server sent a line not valid UTF-8\r\n")
    assert (forbidden(shown.shown), shown.answers, shown.screen.title) == ([], [], "")


@pytest.mark.parametrize("mark", ["\u0301", "\u20dd", "\u05b7", "\u0651", "\u0e49"], ids=unicodedata.name)
def test_marks_do_not_pile_up(serve: Serve, terminal: Start, mark: str) -> None:
    """In any script, at most four marks come in a row."""
    started = serve()
    shown = terminal(started.port)
    started.peer().send(f"e{mark * 200}\n".encode())
    shown.line()
    assert forbidden(shown.shown) == []


def test_a_half_typed_line_stays(serve: Serve, terminal: Start) -> None:
    """A line that arrives, hostile or not, takes nothing from the one that isn't entered yet."""
    started = serve()
    shown = terminal(started.port)
    peer = started.peer()
    shown.type("hel")
    for text in ("x", *HOSTILE.values()):
        peer.send(f"{text}\n".encode())
        shown.line()
    shown.type("lo\n")
    assert peer.line().endswith(b": hello")
    assert shown.answers == []


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ("exit\n", 0),
        ("\x04", 0),
        pytest.param("\x03", 130, marks=pytest.mark.timed),
        pytest.param("half\x03", 130, marks=pytest.mark.timed),
    ],
)
def test_a_terminal_that_is_left_is_as_before(serve: Serve, terminal: Start, keys: str, status: int) -> None:
    """After `exit`, Ctrl-D and Ctrl-C, also in the middle of a line, the terminal's attributes are what they were."""
    started = serve()
    shown = terminal(started.port)
    started.peer().send(HOSTILE["motion"].encode() + b"\n")
    shown.line()
    shown.type(keys)
    ended, last = shown.ends()
    assert (ended, DISCONNECTED in last) == (status, status == 0)
    assert shown.attributes() == shown.attributes_before


def test_a_terminal_after_the_death_of_the_server_is_as_before(run: Run, terminal: Start) -> None:
    """The client ends with exit status 3, one line, the same attributes."""
    server, port = start_server(run)
    shown = terminal(int(port))
    shown.type("half")
    server.process.send_signal(signal.SIGKILL)
    status, last = shown.ends()
    assert re.fullmatch(r"3 (half)?chat-client: disconnected: [^\n]+\r\n", f"{status} {last}")
    assert shown.attributes() == shown.attributes_before


def test_the_transcript_holds_one_harmless_line_per_message(run: Run) -> None:
    """chat-server prints what strangers said, line by line, and nothing that a terminal obeys."""
    server, port = start_server(run)
    peer = Peer(int(port))
    for text in HOSTILE.values():
        peer.send(text.encode() + b"\n" + NOT_UTF8 + b"\n")
    peer.send(b"exit\n")
    peer.rest()
    peer.close()
    server.process.send_signal(signal.SIGINT)
    status, out, err = server.ends()
    assert (status, err) == (0, "")
    lines = [line.replace(" from", ":").partition(":")[0] for line in out.split("\n")]
    assert lines == ["New connection", *[peer.name] * len(HOSTILE), "Connection", ""]
    assert forbidden(out) == []
