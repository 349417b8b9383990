"""chat-client on a terminal that it shares with a shell: its begin, its ends, and stops in between."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.commands import CONNECTED, DISCONNECTED, Run, start_server
from tests.helpers.endless import endless_server
from tests.helpers.marks import needs
from tests.helpers.peers import Peer
from tests.helpers.servers import Serve, Started
from tests.helpers.terminals import Start, Terminal
from tests.helpers.tmux import HAS_TMUX, PROMPT, Pane

pytestmark = pytest.mark.slow


@pytest.fixture
def pane(tmp_path: Path) -> Iterator[Pane]:
    with ExitStack() as stack:
        yield Pane(stack, tmp_path)


ENDS = [
    ("exit\rlate\r", 0),
    ("\x04", 0),
    ("half\x04\x15\x04", 0),
    ("\x03", -signal.SIGINT),
    ("half\x03late\r", -signal.SIGINT),
]


@pytest.mark.parametrize(("keys", "status"), ENDS)
def test_a_terminal_that_is_left_is_as_before(serve: Serve, editor: Start, keys: str, status: int) -> None:
    """After `exit`, Ctrl-D and Ctrl-C, also in the middle of a line: its modes, and no half line on the screen."""
    started = serve()
    shown = editor(started.port)
    shown.type(keys)
    ended, _ = shown.ends()
    last = ["exit"] if "exit" in keys else []
    assert (ended, shown.lines) == (status, [CONNECTED, *last, *([DISCONNECTED] if status == 0 else [])])
    assert (shown.attributes(), shown.cursor[0]) == (shown.attributes_before, 0)
    assert shown.shown.count("\x1b[?2004h") == shown.shown.count("\x1b[?2004l")


# chat-client, interrupted between the greeting and the first key.
INTERRUPTED = """
import signal
from chatkit.cli.client.main import main
from chatkit.cli.client.output import TextOutput
begin = TextOutput.begin
def begin_and_interrupt(self):
    begin(self)
    signal.raise_signal(signal.SIGINT)
TextOutput.begin = begin_and_interrupt
main()
"""


@pytest.mark.parametrize("option", ["--color=auto", "--plain"])
def test_ctrl_c_before_the_first_key(serve: Serve, tmp_path: Path, option: str) -> None:
    """The terminal is as before, though nothing was begun to be read."""
    with ExitStack() as stack:
        command = [sys.executable, "-c", INTERRUPTED]
        shown = Terminal(stack, tmp_path, serve().port, option, command=command)
        assert shown.ends()[0] == -signal.SIGINT
        assert (shown.attributes(), shown.lines) == (shown.attributes_before, [CONNECTED])


@pytest.mark.parametrize("option", ["--color=auto", "--plain"])
def test_a_server_that_dies(run: Run, tmp_path: Path, option: str) -> None:
    """One line on a line of its own, the modes as before, and nothing of the half typed line for the shell."""
    server, port = start_server(run)
    with ExitStack() as stack:
        shown = Terminal(stack, tmp_path, port, option)
        if option != "--plain":
            shown.ready()
        shown.until(lambda: CONNECTED in shown.lines)
        shown.type("rm -rf half")
        shown.until(lambda: shown.lines[-1].endswith("half"))
        server.process.send_signal(signal.SIGKILL)
        status, _ = shown.ends()
        assert (status, shown.lines[-1].startswith("chat-client: disconnected: ")) == (3, True)
        assert shown.attributes() == shown.attributes_before
        assert shown.typed_for_the_shell() == b""


@pytest.mark.parametrize("option", ["--color=auto", "--plain"])
def test_keys_behind_exit_are_nobodys(tmp_path: Path, option: str) -> None:
    """They are typed while the server takes its time to end the conversation."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        shown = Terminal(stack, tmp_path, listener.getsockname()[1], option)
        with listener.accept()[0] as sock:
            if option != "--plain":
                shown.ready()
            shown.until(lambda: CONNECTED in shown.lines)
            shown.type("exit\r")
            shown.until_line("exit")
            assert sock.recv(4096) == b"exit\n"
            shown.type("rm -rf half\rmore")
        assert shown.ends()[0] == 0
        assert (shown.attributes(), shown.typed_for_the_shell()) == (shown.attributes_before, b"")


@pytest.mark.parametrize("option", ["--color=auto", "--plain"])
def test_sigterm_on_a_terminal(serve: Serve, tmp_path: Path, option: str) -> None:
    """An orderly leave, also in the middle of a line."""
    started = serve()
    with ExitStack() as stack:
        shown = Terminal(stack, tmp_path, started.port, option)
        if option != "--plain":
            shown.ready()
        shown.until(lambda: CONNECTED in shown.lines)
        shown.type("rm -rf half")
        shown.until(lambda: shown.lines[-1].endswith("half"))
        os.kill(shown.client, signal.SIGTERM)
        assert shown.ends()[0] == 0
        assert shown.lines[-1].endswith(DISCONNECTED)
        assert (shown.attributes(), shown.typed_for_the_shell()) == (shown.attributes_before, b"")
        assert started.events.wait_for("leave") == "exit"


@pytest.mark.parametrize("keys", ["exit\r", "\x04"])
def test_a_server_that_ignores_the_end(tmp_path: Path, keys: str) -> None:
    """One line after `--exit-seconds`, and the terminal as before."""
    with endless_server(line=None) as server, ExitStack() as stack:
        shown = Terminal(stack, tmp_path, server.port, "--exit-seconds", "0.5")
        shown.ready()
        shown.type(keys)
        status, _ = shown.ends()
        assert (status, "didn't confirm it within 0.5 seconds" in "".join(shown.lines)) == (1, True)
        assert shown.attributes() == shown.attributes_before


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """What was typed meanwhile is dropped there, too."""
    with socket.create_server(("127.0.0.1", 0)) as full, ExitStack() as stack:
        port = full.getsockname()[1]
        full.close()
        shown = Terminal(stack, tmp_path, port)
        shown.type("rm -rf half")
        status, _ = shown.ends()
        assert (status, shown.lines[-1].startswith("chat-client: cannot connect")) == (1, True)
        assert (shown.attributes(), shown.typed_for_the_shell()) == (shown.attributes_before, b"")


def test_typed_before_the_editor_is_ready(serve: Serve, tmp_path: Path) -> None:
    """It is kept: whole lines are sent, half a line is in the editor; lines that arrive are shown meanwhile."""
    started = serve()
    with ExitStack() as stack:
        shown = Terminal(stack, tmp_path, started.port)
        name = started.events.wait_for("join")
        peer = started.peer()
        peer.send(b"welcome\n")
        shown.type("early\rha")
        shown.ready()
        shown.type("lf")
        shown.until(lambda: shown.lines[-1] == f"{name}> half")
        assert peer.line() == f"{name}: early".encode()
        assert shown.lines.index(f"{peer.name}: welcome") < len(shown.lines) - 1


def join_in(pane: Pane, started: Started, command: str) -> tuple[str, Peer]:
    """Start a client in a pane; return its name, and another member."""
    pane.run(command)
    name = started.events.wait_for("join")
    pane.until(CONNECTED)
    return name, started.peer()


@needs(HAS_TMUX, "tmux")
def test_ctrl_z_and_fg(serve: Serve, pane: Pane) -> None:
    """The shell gets a terminal in order; in the background the client is stopped when it must read, as `cat` is."""
    started = serve()
    client = f"chat-client --port {started.port}"
    name, peer = join_in(pane, started, client)
    pane.type("half")
    pane.until(CONNECTED, f"{name}> half")
    pane.type("C-z")
    stopped = f"[1]+  Stopped                 {client}"
    pane.until(stopped, PROMPT)
    pane.run("stty -a | grep -o ' echo '")
    pane.until(" echo", PROMPT)
    peer.send(b"meanwhile\n")
    pane.run("bg")
    pane.until_jobs_are(stopped)
    pane.run("fg")
    pane.until(client, f"{peer.name}: meanwhile", f"{name}> half")
    pane.run(" line")
    assert peer.line() == f"{name}: half line".encode()
    pane.run("exit")
    pane.until("half line", "exit", DISCONNECTED, PROMPT)


@needs(HAS_TMUX, "tmux")
def test_started_in_the_background(serve: Serve, pane: Pane) -> None:
    """It connects and shows the greeting, then it is stopped, since it must read; `fg` continues it."""
    started = serve()
    client = f"chat-client --port {started.port}"
    pane.run(f"{client} &")
    name = started.events.wait_for("join")
    pane.until(f"{PROMPT} {CONNECTED}")
    pane.until_jobs_are(f"[1]+  Stopped                 {client}")
    pane.run("fg")
    pane.until(client)
    pane.type("hello")
    pane.until(client, f"{name}> hello")
    pane.type("C-c")
    pane.until(client, "", PROMPT)  # bash has added the empty line: it knows of the signal
    pane.run("echo status $?")
    pane.until("status 130", PROMPT)


@needs(HAS_TMUX, "tmux")
def test_a_real_terminal(serve: Serve, pane: Pane) -> None:
    """A paste, a new size and wide characters in tmux; no answer of the terminal gets into the chat."""
    started = serve()
    name, peer = join_in(pane, started, f"chat-client --port {started.port}")
    pane.type("日本語 😀")
    pane.until(CONNECTED, f"{name}> 日本語 😀")
    pane.type(" and more than fits into the narrow pane")
    pane.until(CONNECTED, f"{name}> 日本語 😀 and more than fits into the narrow pane")
    pane.resize(30)
    peer.send(b"narrow\n")
    pane.until(f"{peer.name}: narrow", f"{name}> 日本語 😀 and more than", " fits into the narrow pane")
    pane.resize(80)
    pane.until(CONNECTED, f"{peer.name}: narrow", f"{name}> 日本語 😀 and more than fits into the narrow pane")
    pane.type("Enter")
    assert peer.line() == f"{name}: 日本語 😀 and more than fits into the narrow pane".encode()
    pane.paste("".join(f"line {number}\n" for number in range(20)))
    pane.until("Send 20 lines? [y/N]")
    pane.type("y")
    assert peer.lines(20)[-1] == f"{name}: line 19".encode()
    pane.run("/quit")
    pane.until("line 19", "/quit", DISCONNECTED, PROMPT)
    assert started.events.wait_for("leave") == "exit"
