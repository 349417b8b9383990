"""chat-client on a terminal, without the editor, and chat-server's output, while strangers send what harms one."""

from __future__ import annotations

import signal
import socket
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.commands import CONNECTED, DISCONNECTED, Run, start_server
from tests.helpers.hostile import HOSTILE, NOT_UTF8, forbidden
from tests.helpers.peers import Peer
from tests.helpers.servers import Serve
from tests.helpers.terminals import Start, Terminal

pytestmark = pytest.mark.slow

pytest.importorskip("fcntl")  # of the shell below
pyte = pytest.importorskip("pyte", reason="pyte, the terminal emulator, is not installed")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Start]:
    """terminal(port) gives a chat-client without the editor that has joined."""
    with ExitStack() as stack:

        def start(port: int) -> Terminal:
            shown = Terminal(stack, tmp_path, port, "--plain")
            assert shown.line() == CONNECTED
            return shown

        yield start


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
            assert shown.line().startswith("2: ")
        assert shown.ends() == (3, "chat-client: disconnected: the server ended the conversation\r\n")
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
        pytest.param("\x03", -signal.SIGINT, marks=pytest.mark.timed),
        pytest.param("half\x03", -signal.SIGINT, marks=pytest.mark.timed),
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
    assert (status, last.removeprefix("half\r\n")[:27]) == (3, "chat-client: disconnected: ")
    assert last.count("\n") == 2
    assert shown.attributes() == shown.attributes_before
    assert shown.typed_for_the_shell() == b""


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
