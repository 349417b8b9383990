"""The real commands in processes of their own: the contract, byte for byte, and how each fault ends."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from chatkit import Limits
from tests.helpers.commands import (
    BIN,
    CONNECTED,
    DISCONNECTED,
    Run,
    Running,
    client_with,
    invoke,
    join,
    read_line,
    shell,
    start_server,
)
from tests.helpers.marks import needs
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.servers import Serve

pytestmark = pytest.mark.slow


def chat_of_three(server: Running, clients: list[tuple[Any, str]]) -> None:
    """Run the conversation of the contract, and check each screen."""
    script = [(0, "Hi!"), (1, "Hello!"), (2, "How are you guys doing?"), (1, "Good.")]
    for who, text in script:
        typist, name = clients[who]
        typist.type(text)
        assert server.line() == f"{name}: {text}"
        for reader, _ in clients:
            if reader is not typist:
                assert reader.line() == f"{name}: {text}"
    for who in (0, 2, 1):
        leaver, name = clients[who]
        leaver.type("exit")
        assert leaver.line() == DISCONNECTED
        assert server.line() == f"Connection from ('127.0.0.1', {name}) closed."


def test_the_contract_through_pipes(run: Run) -> None:
    """One server, three clients, exactly the lines of the contract and nothing else."""
    server, port = start_server(run)
    clients = [join(run, server, port) for _ in range(3)]
    chat_of_three(server, clients)
    for client, _ in clients:
        assert client.ends() == (0, "", "")
    server.process.send_signal(signal.SIGINT)
    assert server.ends() == (0, "", "")


class Terminal:
    """A chat-client on a pseudo-terminal, without the editor, seen as a person sees it."""

    def __init__(self, port: str) -> None:
        self.master, slave = pty.openpty()
        command = [str(BIN / "chat-client"), "--plain", "--port", port]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.received = b""

    def line(self) -> str:
        line, self.received = read_line(self.master, self.received, b"\r\n")
        return line.decode()

    def type(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\n")
        assert self.line() == line  # the terminal's echo

    def close(self) -> int:
        status = self.process.wait(DEADLINE)
        os.close(self.master)
        return status


def test_the_contract_through_a_terminal(run: Run) -> None:
    """Three people type the same conversation at terminals."""
    server, port = start_server(run)
    clients = []
    for _ in range(3):
        terminal = Terminal(port)
        assert terminal.line() == CONNECTED
        clients.append((terminal, server.line().split()[-1].rstrip(")")))
    chat_of_three(server, clients)
    assert [terminal.close() for terminal, _ in clients] == [0, 0, 0]


def test_python_m(run: Run) -> None:
    """`python -m chatkit server|client` is the same as the two commands."""
    server = run("python", "-m", "chatkit", "server", "--port", "0")
    port = server.line().rpartition(":")[2]
    client = run("python", "-m", "chatkit", "client", "--port", port)
    assert client.line() == CONNECTED
    client.type("exit")
    assert client.ends() == (0, DISCONNECTED + "\n", "")


def test_the_default_port(run: Run) -> None:
    """Without options both meet at 127.0.0.1:12345."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 12345))
        except OSError:
            pytest.skip("port 12345 is in use on this machine")
    server = run("chat-server")
    assert server.line() == "Server listening on 127.0.0.1:12345"
    client = run("chat-client")
    assert client.line() == CONNECTED
    client.type("exit")
    assert client.ends()[0] == 0


@pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")
def test_ipv6(run: Run) -> None:
    """Addresses print as 2-tuples there too."""
    server, port = start_server(run, "--host", "::1")
    client, name = join(run, server, port, "--host", "::1")
    client.type("exit")
    assert client.ends()[0] == 0
    assert server.line() == f"Connection from ('::1', {name}) closed."


@pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")
def test_an_address_with_brackets(run: Run) -> None:
    """As the server prints it; it isn't printed with two pairs."""
    server, port = start_server(run, "--host", "[::1]")
    join(run, server, port, "--host", "[::1]")
    assert client_with(run, 1, "", "--host", "[::1]")[2] == (
        "chat-client: cannot connect to [::1]:1: Connection refused (is chat-server running there?)\n"
    )


@needs(shutil.which("nc"), "nc")
@pytest.mark.parametrize("typed", ["hi\n", "hi"])
def test_nc_is_a_member(run: Run, serve: Serve, typed: str) -> None:
    """`printf 'hi' | nc -N` says its line, with and without line end, and ends."""
    started = serve()
    peer = started.peer()
    done = subprocess.run(
        ["nc", "-N", "127.0.0.1", str(started.port)], input=typed, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert peer.line().endswith(b": hi")


def test_a_file_in_a_pipe(run: Run, serve: Serve) -> None:
    """The whole file is sent, and only the contract's lines come out."""
    started = serve()
    peer = started.peer()
    lines = [f"line {number}" for number in range(20_000)]
    assert client_with(run, started.port, "\r\n".join(lines)) == (0, f"{CONNECTED}\n{DISCONNECTED}\n", "")
    assert [line.decode().partition(": ")[2] for line in peer.lines(len(lines))] == lines


def test_input_after_exit_is_not_sent(run: Run, serve: Serve) -> None:
    """`exit` ends it; later lines are counted, and the exit status is 1."""
    started = serve()
    peer = started.peer()
    status, out, err = client_with(run, started.port, "a\n exit \nb\n")
    assert (status, out.splitlines()[-1]) == (1, DISCONNECTED)
    assert err == "chat-client: 1 lines of input after exit were not sent\n"
    started.server.broadcast("sentinel")
    assert peer.lines(2)[1] == b"*** sentinel"


def test_input_that_the_wire_cannot_carry(run: Run, serve: Serve) -> None:
    """One line on stderr for each bad line, with its number; the others are sent."""
    started = serve()
    peer = started.peer()
    status, out, err = client_with(
        run, started.port, b"\xc3\xa9\n\xff\n123456789\n\x1b[2J\nb\n", "--max-line-bytes", "8"
    )
    assert (status, out) == (0, f"{CONNECTED}\n{DISCONNECTED}\n")
    assert err.splitlines() == [
        "chat-client: line 2 of the input was not sent: not valid UTF-8",
        "chat-client: line 3 of the input was not sent: longer than 8 bytes",
    ]
    assert [line.partition(b": ")[2].decode() for line in peer.lines(3)] == ["é", "␛[2J", "b"]


def test_a_line_that_is_too_long_for_the_server(run: Run, serve: Serve) -> None:
    """The server's own word on it is shown."""
    started = serve(limits=Limits(max_line_bytes=4))
    status, out, err = client_with(run, started.port, "12345\n")
    assert (status, out.splitlines()[1], err) == (0, "*** not sent: longer than 4 bytes", "")


def test_lines_of_strangers_are_made_visible(run: Run) -> None:
    """Neither program prints a control or a bidi character of a stranger's, and one line stays one line."""
    server, port = start_server(run)
    client, _ = join(run, server, port)
    peer = Peer(int(port))
    peer.send("\x1b]0;x\x07 \x9b \u202e \u2028 \r x\n".encode())
    shown = f"{peer.name}: ␛]0;x␇ \\x9b \\u202e \\u2028 ␍ x"
    assert client.line() == shown
    server.line()
    assert server.line() == shown
    peer.close()


def test_output_that_cannot_be_encoded(run: Run, serve: Serve) -> None:
    """A terminal without UTF-8 sees escapes, no traceback."""
    started = serve()
    client = run("chat-client", "--port", str(started.port), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert client.line() == CONNECTED
    started.server.broadcast("é")
    assert client.line() == "*** \\xe9"
    client.type("exit")
    assert client.ends()[0] == 0


@pytest.mark.parametrize("how", ["end", "reset", "half a line"])
def test_the_server_goes_away(run: Run, how: str) -> None:
    """The client leaves at once, even while it waits for input: one line on stderr, exit status 3."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = run("chat-client", "--port", str(listener.getsockname()[1]))
        sock, _ = listener.accept()
        assert client.line() == CONNECTED
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif how == "half a line":
            sock.sendall(b"51044: hal")
        sock.close()
        assert client.process.wait(DEADLINE) == 3  # its input is still open
        reasons = {
            "end": "the server ended the conversation",
            "reset": "Connection reset by peer",
            "half a line": "the server ended in the middle of a line",
        }
        assert client.ends() == (3, "", f"chat-client: disconnected: {reasons[how]}\n")


def test_input_that_could_not_be_sent_is_counted(run: Run) -> None:
    """A server that goes while it reads nothing: how many lines of the input stayed is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = run("chat-client", "--port", str(listener.getsockname()[1]))
        sock, _ = listener.accept()
        assert client.line() == CONNECTED

        assert client.process.stdin
        os.set_blocking(client.process.stdin.fileno(), False)
        while select.select([], [client.process.stdin], [], 0.5)[1]:  # until the client waits for the server
            client.process.stdin.write(b"x" * 99 + b"\n")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        status, out, err = client.ends()
        assert (status, out) == (3, "")
        stayed = re.fullmatch(r"chat-client: disconnected: .*; ([0-9]+) lines of input were not sent\n", err)
        assert stayed
        assert 0 < int(stayed[1]) <= 660


def test_faults_at_the_start(run: Run, serve: Serve) -> None:
    """Each ends with exit status 1 and one clear line."""
    port = str(serve().port)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = str(listener.getsockname()[1])
    bind, connect_to = "chat-server: cannot listen on", "chat-client: cannot connect to"
    hint_bind = "(is a server running already? --port 0 takes a free one)"
    hint_connect = "(is chat-server running there?)"
    for command, reason in {
        ("chat-server", "--port", port): f"{bind} 127.0.0.1:{port}: Address already in use {hint_bind}",
        ("chat-server", "--host", "no.such.invalid"): f"{bind} no.such.invalid:12345: no such host",
        ("chat-client", "--port", nobody): f"{connect_to} 127.0.0.1:{nobody}: Connection refused {hint_connect}",
        ("chat-client", "--host", "no.such.invalid"): f"{connect_to} no.such.invalid:12345: no such host",
    }.items():
        assert run(*command).ends() == (1, "", reason + "\n")


# Runs chat-server as if there were no thread left for the one with the number argv[1].
WITHOUT_THREADS = """
import sys, threading
from chatkit.cli.server.main import main

def start_or_fail(thread):
    begun.append(thread)
    if len(begun) == int(sys.argv[1]):
        raise RuntimeError("can't start new thread")
    start(thread)

begun, start, threading.Thread.start = [], threading.Thread.start, start_or_fail
main(["--port", "0", "--history", sys.argv[2]], prog_name="chat-server")
"""


@pytest.mark.parametrize("number", range(1, 8))
def test_a_server_without_threads(run: Run, tmp_path: Path, number: int) -> None:
    """Whichever it lacks: one line, exit status 1, and the history is free."""
    server = run(sys.executable, "-c", WITHOUT_THREADS, str(number), str(tmp_path / "chat.db"))
    status, _, err = server.ends()
    assert (status, err) == (1, "chat-server: can't start new thread\n")
    assert [file.name for file in tmp_path.iterdir()] == ["chat.db"] * (number > 2)


def test_a_server_without_descriptors(run: Run, tmp_path: Path) -> None:
    """With too few of them, the last line says so, and there is no traceback."""
    pytest.importorskip("resource")
    path = tmp_path / "chat.db"
    for number, words in (
        (8, f"Too many open files ({path}, SQLITE_CANTOPEN)"),
        (14, "cannot start: Too many open files"),
    ):
        command = f'ulimit -n {number}; exec "{BIN}/chat-server" --port 0 --history "{path}"'
        status, _, err = run(shutil.which("bash") or "bash", "-c", command).ends()
        assert (status, err.splitlines()[-1]) == (1, f"chat-server: {words}")
        assert err.count("\n") == 2, "and one that max_clients is 1"


@pytest.mark.parametrize("usage", ["chat-server --port 65536", "chat-client --port x", "chat-client --nonsense"])
def test_wrong_usage(usage: str) -> None:
    """Exit status 2, and the reason."""
    status, out, err = invoke(*usage.split())
    assert (status, out) == (2, "")
    assert "Error: " in err


@needs(shutil.which("bash"), "bash")
def test_closed_and_full_streams_of_the_client(serve: Serve) -> None:
    """No input is an empty one; no place for the output ends it with one line; a reader that has enough, quietly."""
    client = f"chat-client --port {serve().port}"
    assert shell(f"{client} <&-") == (0, f"{CONNECTED}\n{DISCONNECTED}\n", "")
    assert shell(f"{client} </dev/null >&-") == (
        1,
        "",
        "chat-client: cannot show the chat: standard output is closed\n",
    )
    assert shell(f"{client} 0>/dev/null")[0::2] == (1, "chat-client: cannot read the input: Bad file descriptor\n")
    if os.path.exists("/dev/full"):
        err = "chat-client: cannot show the chat: No space left on device\n"
        assert shell(f"{client} </dev/null >/dev/full") == (1, "", err)
    status, out, err = shell(f"echo x | (sleep 0.1; cat) | {client} | head -1; exit ${{PIPESTATUS[2]}}")
    assert (status, out, err) == (0, CONNECTED + "\n", "")
    assert shell(f"{client} </dev/null 2>&-")[0] == 0


def chat_a_while(port: int) -> None:
    ann, bob = connect(port), connect(port)
    for number in range(100):
        ann.send(b"%d\n" % number)
        assert bob.line() == f"{ann.name}: {number}".encode()
    ann.close()
    bob.close()


@needs(shutil.which("bash"), "bash")
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_server_without_streams_runs_on(run: Run, streams: str) -> None:
    """Closed or full output never stops the room."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = run(shutil.which("bash") or "bash", "-c", f'exec "{BIN}/chat-server" --port {port} {streams}')
    chat_a_while(port)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(DEADLINE) == 0


def test_a_server_whose_reader_went_away(run: Run) -> None:
    """As in `chat-server | head -1`: the room runs on, the log says what was not printed."""
    server, port = start_server(run)
    assert server.process.stdout
    server.process.stdout.close()
    chat_a_while(int(port))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(DEADLINE) == 0
    assert server.process.stderr
    assert re.fullmatch(
        r"chat-server: up to 10[24] lines of the transcript were not printed\n", server.process.stderr.read().decode()
    )


def connect(port: int) -> Peer:
    """A peer of a server that may not listen yet."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return Peer(port)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline


@contextmanager
def measured(most: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < most


ENDS = [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
ENDS += [[getattr(signal, name)] for name in ("SIGBREAK",) if hasattr(signal, name)]


@pytest.mark.parametrize("numbers", ENDS)
def test_a_signal_ends_the_server(run: Run, numbers: list[int]) -> None:
    """All get the messages and an end of stream, also beside one that never reads; exit 0 in 5 s.

    GNU `timeout` and a shell's process group send a second one at once: it changes nothing.
    """
    server, port = start_server(run)
    talker, reader = Peer(int(port)), Peer(int(port))
    deaf = Peer(int(port), receive_buffer=4096)
    for _ in range(6000):
        talker.send(b"x" * 999 + b"\n")
        assert len(reader.line()) > 999
    talker.send(b"last\n")
    with measured(most=5.0):
        drain = threading.Thread(target=server.process.communicate)
        for number in numbers:
            server.process.send_signal(number)
        drain.start()
        assert reader.rest() == f"{talker.name}: last\n".encode()
        assert server.process.wait(DEADLINE) == 0
    drain.join(DEADLINE)
    for peer in (talker, reader, deaf):
        peer.close()


def test_ctrl_c_in_the_client(run: Run, serve: Serve) -> None:
    """It ends by SIGINT, nothing else is said."""
    client = run("chat-client", "--port", str(serve().port))
    assert client.line() == CONNECTED
    client.process.send_signal(signal.SIGINT)
    assert client.ends() == (-signal.SIGINT, "", "")


def test_options_from_the_environment(run: Run) -> None:
    """Every option is also CHATKIT_<OPTION>."""
    server = run("chat-server", env={**os.environ, "CHATKIT_PORT": "0", "CHATKIT_MAX_CLIENTS": "1"})
    port = server.line().rpartition(":")[2]
    env = {**os.environ, "CHATKIT_PORT": port}
    first = run("chat-client", env=env)
    assert first.line() == CONNECTED
    second = run("chat-client", env=env)
    assert second.process.wait(DEADLINE) == 3  # its input is still open
    lost = "chat-client: disconnected: the server ended the conversation\n"
    assert second.ends() == (3, f"{CONNECTED}\n*** the room is full\n", lost)


@pytest.mark.parametrize("command", ["chat-server", "chat-client", "python -m chatkit"])
def test_help_and_version(command: str) -> None:
    """-h and --help are the same; --version names the project."""
    short, long = invoke(command, "-h"), invoke(command, "--help")
    assert short == long
    assert short[1].startswith(f"Usage: {command} ")
    if command == "chat-server":
        for limit in fields(Limits):
            assert f"--{limit.name.replace('_', '-')} " in short[1]
    assert invoke(command, "--version") == (0, "chatkit 0.1.0\n", "")


def test_an_end_that_hangs_is_forced(run: Run) -> None:
    """Five seconds after SIGTERM the process ends whatever hangs, with one line that says so."""
    program = (
        "import threading, chatkit\n"
        "from chatkit.cli.server import main\n"
        "main.END_SECONDS = 0.5\n"
        "chatkit.Server.shutdown = lambda *arguments: threading.Event().wait()\n"
        "main.main(['--port', '0'])\n"
    )
    server = run("python", "-c", program)
    peer = Peer(int(server.line().rpartition(":")[2]))
    assert server.line().startswith("New connection from ")
    server.process.send_signal(signal.SIGTERM)
    status, _, err = server.ends()
    peer.close()
    assert (status, err) == (1, "chat-server: the end took longer than 0.5 seconds, so it was forced\n")
