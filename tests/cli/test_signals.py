"""Signals at the commands: which of them end a room, and which leave it alone."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import termios

import pytest

from tests.helpers.commands import BIN, CONNECTED, DISCONNECTED, Run, Running, err_line, join, start_server, stop
from tests.helpers.marks import needs, over_tls
from tests.helpers.peers import DEADLINE, Peer

pytestmark = pytest.mark.slow

fcntl = pytest.importorskip("fcntl")


def server_that_ignores(run: Run, signals: str) -> tuple[Running, str]:
    """A chat-server that was started with these signals ignored, as by nohup or by a script's `&`, and its port."""
    bash = shutil.which("bash") or ""
    server = run(bash, "-c", f"trap '' {signals}; exec {BIN}/chat-server --port 0")
    return server, server.line().rpartition(":")[2]


@needs(shutil.which("bash"), "bash")
@pytest.mark.parametrize("ignored", ["INT", "HUP"])
def test_a_signal_that_was_ignored_stays_ignored(run: Run, ignored: str) -> None:
    """Ctrl-C for a script doesn't reach its room in the background, nor the end of a session one under nohup."""
    server, port = server_that_ignores(run, ignored)
    server.process.send_signal(getattr(signal, f"SIG{ignored}"))
    client, name = join(run, server, port)
    client.type("hi")
    assert server.line() == f"{name}: hi"
    assert stop(server) == ""


@needs(shutil.which("bash"), "bash")
def test_a_client_in_the_background(run: Run) -> None:
    """It isn't ended by a Ctrl-C that it was started to ignore."""
    server, port = start_server(run)
    client = run(shutil.which("bash") or "", "-c", f"trap '' INT; exec {BIN}/chat-client --port {port}")
    assert client.line() == CONNECTED
    server.line()
    client.process.send_signal(signal.SIGINT)
    client.type("exit")
    assert client.ends() == (0, f"{DISCONNECTED}\n", "")


def test_two_signals_at_once_are_one_for_the_client(run: Run) -> None:
    """The second one doesn't cut the client's end short."""
    program = (
        "import signal\n"
        "from chatkit import Client\n"
        "from chatkit.cli.client.main import main\n"
        "close = Client.close\n"
        "def interrupted(client, grace):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    close(client, grace)\n"
        "    print('closed', flush=True)\n"
        "Client.close = interrupted\n"
        f"main(['--port', '{start_server(run)[1]}'])\n"
    )
    client = run("python", "-c", program)
    assert client.line() == CONNECTED
    client.process.send_signal(signal.SIGINT)
    assert client.ends() == (-signal.SIGINT, "closed\n", "")


def test_a_hangup_without_a_certificate(run: Run) -> None:
    """While its terminal stands, or if it never had one, a room without TLS lives on, and says that it did nothing."""
    server, port = start_server(run)
    server.process.send_signal(signal.SIGHUP)
    assert err_line(server) == "chat-server: there is nothing to reload: the room has no certificate"
    client, name = join(run, server, port)
    client.type("hi")
    assert server.line() == f"{name}: hi"
    assert stop(server) == ""


@over_tls
def test_a_terminal_that_goes(run: Run, tls_options: list[str]) -> None:
    """The room on it ends in order: everything is delivered."""
    master, slave = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    server = run("chat-server", "--port", "0", *tls_options, preexec_fn=take_terminal)
    os.close(slave)
    port = int(server.line().rpartition(":")[2])
    tls = bool(tls_options)
    ann, bob = Peer(port, tls=tls), Peer(port, tls=tls)
    assert [server.line().split()[0] for _ in range(2)] == ["New", "New"]
    ann.send(b"last\n")
    os.close(master)
    assert bob.rest() == f"{ann.name}: last\n".encode()
    assert server.process.wait(DEADLINE) == 0
    ann.close()
    bob.close()
