"""chat-client in pipes and scripts: how it ends, and what it says of input that it didn't send."""

from __future__ import annotations

import array
import json
import os
import shutil
import signal
import socket
import subprocess
import termios
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from chatkit import Message, SqliteHistory
from tests.helpers.commands import BIN, CONNECTED, DISCONNECTED, Run, Running, client_with, invoke, start_server
from tests.helpers.endless import NOTICE, WELCOME, endless_server
from tests.helpers.marks import needs
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve

fcntl = pytest.importorskip("fcntl")

QUICK = ("--exit-seconds", "0.5")
UNCONFIRMED = "chat-client: left, but the server didn't confirm it within 0.5 seconds"


def end_input(client: Running, how: str) -> None:
    """Leave: by `exit`, by the end of input, or by a signal."""
    assert client.process.stdin
    if how == "exit":
        client.type("exit")
    elif how == "end of input":
        client.process.stdin.close()
        client.process.stdin = None
    else:
        client.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("how", ["exit", "end of input", "SIGTERM"])
@pytest.mark.parametrize("server", ["stopped", "deaf", "endless"])
def test_a_server_that_ignores_the_end(run: Run, server: str, how: str) -> None:
    """One line and exit status 1 after `--exit-seconds`: it is stopped, reads nothing, or never stops sending."""
    with ExitStack() as stack:
        if server == "stopped":
            stopped, port = start_server(run)
        else:
            line = NOTICE if server == "endless" else None
            port = str(stack.enter_context(endless_server(line=line)).port)
        client = run("chat-client", "--port", port, *QUICK)
        assert client.line() == CONNECTED
        if server == "stopped":
            stopped.suspend()
            stack.callback(stopped.process.send_signal, signal.SIGCONT)
        begun = time.monotonic()
        end_input(client, how)
        status, _, err = client.ends()
        assert (status, err) == (1, f"{UNCONFIRMED}\n")
        assert 0.5 <= time.monotonic() - begun < DEADLINE / 2


@needs(shutil.which("nc"), "nc")
@pytest.mark.parametrize("how", ["exit", "end of input", "SIGTERM"])
def test_nc_as_the_server(run: Run, how: str) -> None:
    """It knows no `exit`, and ends with the client's side of the stream."""
    with ExitStack() as stack:
        client = run("chat-client", "--port", listening_nc(stack))
        assert client.line() == CONNECTED
        end_input(client, how)
        assert client.ends() == (0, f"{DISCONNECTED}\n", "")


def listening_nc(stack: ExitStack) -> str:
    """Start `nc -l`; return its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    process = subprocess.Popen(["nc", "-l", "127.0.0.1", port], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    stack.enter_context(process)
    stack.callback(process.kill)
    table, address = Path("/proc/net/tcp"), f":{int(port):04X} 00000000:0000 0A"
    deadline = time.monotonic() + DEADLINE
    while address not in table.read_text():
        assert time.monotonic() < deadline
    return port


@pytest.mark.parametrize("size", [0, 20_000_000])
def test_once_at_a_server_that_reads_nothing(run: Run, size: int) -> None:
    """The same, also while a line of its input waits to be sent."""
    with endless_server(WELCOME, line=None) as server:
        status, out, err = client_with(run, server.port, (b"x" * 999 + b"\n") * (size // 1000), "--once", *QUICK)
    assert (status, out) == (1, "")
    assert err.startswith(UNCONFIRMED)
    assert ("lines of input were not sent" in err, err.count("\n")) == (size > 0, 1)


@pytest.mark.parametrize("options", [(), ("--once",), ("--json",)])
@pytest.mark.parametrize(
    ("text", "number"), [("a\nexit\nb\n", 1), ("exit\nb\n\nc", 3), ("exit\n" + "x\n" * 50_000, 50_000)]
)
def test_input_after_exit(run: Run, serve: Serve, options: tuple[str, ...], text: str, number: int) -> None:
    """It is counted, whatever is there by then; exit status 1."""
    status, _, err = client_with(run, serve().port, text, *options)
    assert (status, err) == (1, f"chat-client: {number} lines of input after exit were not sent\n")


def test_exit_before_the_end_of_input(run: Run, serve: Serve) -> None:
    """Input that may still come is no reason to wait."""
    client = run("chat-client", "--port", str(serve().port))
    assert client.line() == CONNECTED
    client.type("exit")
    assert client.process.wait(DEADLINE) == 0


@needs(shutil.which("bash"), "bash")
def test_ctrl_c_ends_a_loop(run: Run, serve: Serve) -> None:
    """The client ends by the signal, so bash ends, too."""
    heed = "trap - INT; while :; do chat-client --port"
    script = f"PATH={BIN}:$PATH; {heed} {serve().port}; done"
    loop = run(shutil.which("bash") or "", "-c", script, start_new_session=True)
    assert loop.line() == CONNECTED
    os.killpg(loop.process.pid, signal.SIGINT)
    assert loop.ends() == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("option", ["--plain", "--reconnect", "--json", "--once", "--no-input"])
def test_signals_leave_in_order(run: Run, serve: Serve, option: str, number: int) -> None:
    """The room hears `exit`; exit status 0."""
    started = serve()
    client = run("chat-client", "--port", str(started.port), option)
    if option == "--once":
        client.type("hi")
        started.events.wait_for("message")
    elif option == "--json":
        assert json.loads(client.line())["type"] == "welcome"
    else:
        assert client.line() == CONNECTED
    client.process.send_signal(number)
    assert started.events.wait_for("leave") == "exit"  # before `ends` ends its input
    status, out, err = client.ends()
    assert (status, out, err) == (0, "" if option in ("--once", "--json") else f"{DISCONNECTED}\n", "")


def test_a_second_signal(run: Run) -> None:
    """SIGTERM twice: the client waits for no server."""
    with endless_server(line=None) as server:
        client = run("chat-client", "--port", str(server.port))
        assert client.line() == CONNECTED
        sock = server.streaming.get(timeout=DEADLINE)
        client.process.send_signal(signal.SIGTERM)
        sock.settimeout(DEADLINE)
        assert sock.recv(100) == b"exit\n"
        client.process.send_signal(signal.SIGTERM)
        assert client.ends() == (-signal.SIGTERM, "", "")


@needs(shutil.which("unshare") and os.getuid() == 0, "unshare")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_the_first_process_of_a_container(run: Run, serve: Serve, number: int, status: int) -> None:
    """It has no default actions: the same ends, by an exit status."""
    command = [shutil.which("unshare") or "", "--pid", "--fork", str(BIN / "chat-client")]
    outside = run(*command, "--port", str(serve().port))
    assert outside.line() == CONNECTED
    (client,) = Path(f"/proc/{outside.process.pid}/task/{outside.process.pid}/children").read_text().split()
    os.kill(int(client), number)
    assert outside.ends() == (status, f"{DISCONNECTED}\n" if status == 0 else "", "")


def read_when_full(reading: int) -> bytes:
    """Read a pipe to its end, but not before it is full."""
    deadline, waiting = time.monotonic() + DEADLINE, array.array("i", [0])
    while waiting[0] < 60_000:
        assert time.monotonic() < deadline, f"{waiting[0]} bytes are there"
        fcntl.ioctl(reading, termios.FIONREAD, waiting)
    with open(reading, "rb") as file:
        return file.read()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_never_blocks(run: Run, serve: Serve, unbuffered: str) -> None:
    """It loses nothing of the chat, though its reader is slow."""
    started = serve()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    client = run("chat-client", "--port", str(started.port), "--no-input", "--count", "5000", stdout=writing, env=env)
    os.close(writing)
    started.events.wait_for("join")
    lines = [f"{number} {'x' * 90}" for number in range(5000)]
    peer = started.peer()
    peer.send("".join(f"{line}\n" for line in lines).encode())
    shown = [f"{peer.name}: {line}" for line in lines]
    assert read_when_full(reading).decode().splitlines() == [CONNECTED, *shown, DISCONNECTED]
    assert client.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("option", ["--json", "--last=9999"])
def test_a_history_on_an_output_that_never_blocks(run: Run, tmp_path: Path, unbuffered: str, option: str) -> None:
    """The same for chat-history."""
    history = SqliteHistory(tmp_path / "chat.db")
    with closing(history):
        history.open()
        history.append([Message("ada", "x" * 90, number, 1e9) for number in range(1, 5001)])
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = run("chat-history", str(tmp_path / "chat.db"), option, stdout=writing, env=env)
    os.close(writing)
    lines = read_when_full(reading).decode().splitlines()
    assert (len(lines), len({line.count("x") for line in lines})) == (5000, 1)
    assert command.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("options", [(), ("--once",)])
def test_an_input_that_cannot_be_read(run: Run, serve: Serve, options: tuple[str, ...]) -> None:
    """One line, and exit status 1."""
    with open(os.devnull, "wb") as output:
        client = run("chat-client", "--port", str(serve().port), *options, stdin=output)
    status, _, err = client.ends()
    assert (status, err) == (1, "chat-client: cannot read the input: Bad file descriptor\n")


def test_no_input_is_read(run: Run, serve: Serve) -> None:
    """An empty input ends nothing, and a full one stays unread."""
    started = serve()
    for stdin in (subprocess.DEVNULL, subprocess.PIPE):
        client = run("chat-client", "--port", str(started.port), "--no-input", stdin=stdin)
        assert client.line() == CONNECTED
        if client.process.stdin:
            client.type("secret")
        peer = started.peer()
        peer.send(b"hi\n")
        assert client.line() == f"{peer.name}: hi"
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(DEADLINE) == 0
        peer.close()
    assert started.server.stats.messages == 2


@pytest.mark.parametrize("option", ["--plain", "--json", "--reconnect"])
def test_count(run: Run, serve: Serve, option: str) -> None:
    """It leaves after that many messages, and shows no more; other events don't count."""
    started = serve()
    client = run("chat-client", "--port", str(started.port), option, "--name", "bob", "--count", "3")
    peer = started.peer()
    started.events.wait_for("join")
    client.line()
    started.server.broadcast("soon")
    assert peer.line() == b"*** soon"
    peer.send(b"one\n/msg bob two\n/me three\nfour\nfive\n")
    assert started.events.wait_for("leave") == "exit"
    status, out, err = client.ends()
    assert (status, err) == (0, "")
    words = [word for word in ("one", "two", "three", "four", "five") if word in out]
    assert (words, "soon" in out) == (["one", "two", "three"], True)


@pytest.mark.parametrize("option", ["--count=1", "--no-input"])
def test_once_shows_nothing_and_needs_input(option: str) -> None:
    """Wrong usage."""
    status, _, err = invoke("chat-client", "--once", option)
    assert (status, "--once excludes --no-input and --count" in err) == (2, True)


@pytest.mark.parametrize("options", [(), ("--once",), ("--json",)])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-16-bom-be"])
def test_input_in_utf_16(run: Run, serve: Serve, encoding: str, options: tuple[str, ...]) -> None:
    """One line, exit status 1, and nothing is said."""
    started = serve()
    text = "\ufeff" * encoding.endswith("-bom-be") + "hi\nall\nof you\n"
    data = text.encode(encoding.replace("-bom-be", "-be"))
    status, _, err = client_with(run, started.port, data, *options)
    assert (status, err) == (1, "chat-client: the input is UTF-16, not UTF-8: nothing of it was sent\n")
    assert started.server.stats.messages == 0


def test_utf_16_byte_by_byte(run: Run, serve: Serve) -> None:
    """The first bytes may come alone."""
    started = serve()
    client = run("chat-client", "--port", str(started.port))
    assert client.line() == CONNECTED
    assert client.process.stdin
    for byte in "hi\n".encode("utf-16-le"):
        wait_until_read(client.process.stdin.fileno())
        client.process.stdin.write(bytes([byte]))
        if byte == 0:
            break
    status, _, err = client.ends()
    assert (status, err) == (1, "chat-client: the input is UTF-16, not UTF-8: nothing of it was sent\n")
    assert started.server.stats.messages == 0


def wait_until_read(pipe: int) -> None:
    """Wait until nothing is in a pipe."""
    deadline, waiting = time.monotonic() + DEADLINE, array.array("i", [1])
    while waiting[0]:
        assert time.monotonic() < deadline
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)


@pytest.mark.parametrize("options", [(), ("--once",)])
def test_input_in_latin_1(run: Run, serve: Serve, options: tuple[str, ...]) -> None:
    """The first letter beyond ASCII tells. One line, exit status 1; what comes before it was said."""
    started = serve()
    text = "plain\ncaf\xe9\nplain\nna\xefve\n".encode("latin-1")
    status, _, err = client_with(run, started.port, text, *options)
    assert (status, err) == (1, "chat-client: line 2 of the input isn't UTF-8: nothing from there on was sent\n")
    assert started.server.stats.messages == 1
