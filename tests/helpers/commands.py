"""The real commands, in processes of their own or in this one."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from chatkit.__main__ import main as chatkit_main
from chatkit.cli.client.main import main as client_main
from chatkit.cli.history import main as history_main
from chatkit.cli.server.main import main as server_main
from tests.helpers.peers import DEADLINE

MAINS: dict[str, click.Command] = {
    "chat-server": server_main,
    "chat-client": client_main,
    "chat-history": history_main,
    "python -m chatkit": chatkit_main,
}

BIN = Path(sys.executable).parent
CONNECTED = "Connected to chat server. Type 'exit' to leave."
DISCONNECTED = "Disconnected from server."


def read_line(descriptor: int, received: bytes, end: bytes) -> tuple[bytes, bytes]:
    """Return (the next line without its `end`, the bytes read beyond it)."""
    while end not in received:
        ready, _, _ = select.select([descriptor], [], [], DEADLINE)
        assert ready, f"no line in time, but {received!r}"
        data = os.read(descriptor, 65536)
        assert data, f"ended after {received!r}"
        received += data
    line, _, rest = received.partition(end)
    return line, rest


class Running:
    """A command that runs, its output read line by line as it comes."""

    def __init__(self, *command: str, **options: Any) -> None:
        streams: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [str(BIN / command[0]) if "/" not in command[0] else command[0], *command[1:]], bufsize=0, **streams
        )
        self._received = b""

    def line(self) -> str:
        assert self.process.stdout
        line, self._received = read_line(self.process.stdout.fileno(), self._received, b"\n")
        return line.decode()

    def type(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")

    def suspend(self) -> None:
        """Stop the process, until it gets SIGCONT. When this returns all its threads stand still."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def ends(self) -> tuple[int, str, str]:
        """Exit status, rest of stdout, stderr."""
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, (self._received + out).decode(), err.decode()


Run = Callable[..., Running]


def invoke(command: str, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Run a command in this process, for what it says of its options: exit status, stdout, stderr."""
    result = CliRunner().invoke(MAINS[command], arguments, prog_name=command, env=env, catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def start_server(run: Run, *options: str) -> tuple[Running, str]:
    """A chat-server on a free port, and that port."""
    server = run("chat-server", "--port", "0", *options)
    listening = re.fullmatch(r"Server listening on (?:127\.0\.0\.1|\[::1\]):([0-9]+)", server.line())
    assert listening
    return server, listening[1]


def join(run: Run, server: Running, port: str, *options: str) -> tuple[Running, str]:
    """A connected chat-client and its name, as the server prints it."""
    client = run("chat-client", "--port", port, *options)
    assert client.line() == CONNECTED
    joined = re.fullmatch(r"New connection from \('(?:127\.0\.0\.1|::1)', ([0-9]+)\)", server.line())
    assert joined
    return client, joined[1]


def client_with(run: Run, port: int, text: bytes | str, *options: str) -> tuple[int, str, str]:
    """Run chat-client with this input; return exit status, stdout, stderr."""
    program = [str(BIN / "chat-client"), "--port", str(port), *options]
    data = text.encode() if isinstance(text, str) else text
    done = subprocess.run(program, input=data, capture_output=True, timeout=DEADLINE)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def shell(command: str) -> tuple[int, str, str]:
    done = subprocess.run(["bash", "-c", f'PATH="{BIN}:$PATH"; {command}'], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


def checked(text: str) -> str:
    """Return `text`, which must hold no traceback and no key."""
    assert "Traceback" not in text
    assert "PRIVATE KEY" not in text
    return text


def err_line(running: Running) -> str:
    """The next line of stderr, which this reads alone."""
    assert running.process.stderr
    descriptor, line = running.process.stderr.fileno(), b""
    while not line.endswith(b"\n"):
        assert select.select([descriptor], [], [], DEADLINE)[0], f"no line in time, but {line!r}"
        byte = os.read(descriptor, 1)
        assert byte, f"ended after {line!r}"
        line += byte
    return checked(line.decode().removesuffix("\n"))


def ended(running: Running) -> tuple[int, str]:
    """Exit status and stderr of a command that showed nothing else."""
    status, out, err = running.ends()
    assert checked(out) == ""
    return status, checked(err)


def stop(server: Running) -> str:
    """Its stderr, up to its end."""
    server.process.send_signal(signal.SIGTERM)
    status, out, err = server.ends()
    assert (status, checked(out)) == (0, out)
    return checked(err)


def traffic(run: Run, port: str, seconds: float, most_bytes: int, tls: bool) -> Running:
    return run(
        sys.executable, "-m", "tests.helpers.traffic", port, str(seconds), str(most_bytes), *(["tls"] if tls else [])
    )


def limited_server(run: Run, descriptors: int, *options: str) -> tuple[Running, int]:
    """A chat-server that may have so many descriptors."""
    command = f'ulimit -n {descriptors}; exec "{BIN}/chat-server" --port 0 {" ".join(options)}'
    server = run(shutil.which("bash") or "bash", "-c", command)
    return server, int(server.line().rpartition(":")[2])
