"""The programs that people have in place of `nc`: telnet and PuTTY."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.helpers.commands import read_line
from tests.helpers.marks import needs
from tests.helpers.peers import Peer
from tests.helpers.servers import Reads, Serve


@contextmanager
def on_terminal(*command: str) -> Iterator[int]:
    """Run a command on a terminal of its own; yields the other side of that."""
    near, far = pty.openpty()
    with ExitStack() as stack:
        stack.callback(os.close, near)
        setsid = ["setsid", "--ctty", *command]  # Ctrl-C reaches a program on its controlling terminal alone
        program = stack.enter_context(subprocess.Popen(setsid, stdin=far, stdout=far, stderr=far))
        stack.callback(program.kill)
        os.close(far)
        yield near


def says(talker: Peer, terminal: int) -> None:
    """A line from the room is shown, whole, and behind it there is nothing else."""
    talker.send(b"news\n")
    _, rest = read_line(terminal, b"", f"{talker.name}: news\r\n".encode())
    assert not rest


@needs(shutil.which("telnet") and shutil.which("setsid"), "telnet and setsid")
def test_telnet_with_ctrl_c(serve: Serve, reads: Reads) -> None:
    """After Ctrl-C, telnet shows nothing until the server has answered."""
    started = serve()
    reader = started.peer()
    with on_terminal("telnet", "127.0.0.1", str(started.port)) as terminal:
        read_line(terminal, b"", b"Escape character is")
        os.write(terminal, b"one\n")
        name, _, text = reader.line().decode().partition(": ")
        assert text == "one"
        reads.wait_for(name)
        for _ in range(3):
            os.write(terminal, b"\x03")
            reads.wait_for(name)
            says(reader, terminal)
        os.write(terminal, b"two\n")
        assert reader.line().decode() == f"{name}: two"


@needs(shutil.which("plink"), "plink")
def test_putty(serve: Serve) -> None:
    """PuTTY, whose command for scripts is plink, asks for seven options at once; it edits lines itself then."""
    started = serve()
    reader = started.peer()
    with on_terminal("plink", "-batch", "-telnet", "-P", str(started.port), "127.0.0.1") as terminal:
        started.events.wait_for("join")
        started.events.wait_for("join")
        os.write(terminal, b"one\n")
        assert reader.line().endswith(b": one")
        says(reader, terminal)
