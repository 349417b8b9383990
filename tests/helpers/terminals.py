"""chat-client on a pseudo-terminal that an emulator shows, under a program that does what a shell does."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import BIN, read_line
from tests.helpers.peers import DEADLINE

fcntl = pytest.importorskip("fcntl")
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
# A program in which prompt_toolkit isn't installed.
WITHOUT_EXTRA = "import sys; sys.modules['prompt_toolkit'] = None; from chatkit.cli.client.main import main; main()"
REFLOWING = ("TMUX", "VTE_VERSION", "TERM_PROGRAM")
# The prompt is ready: keys reach the editor at once.
READY = "\x1b[?2004h"
# Comes out of the terminal behind all that was written to it before.
END = b"<end of the test>"


class Terminal:
    """chat-client under a shell on a terminal that answers what asks it, as real ones do."""

    def __init__(
        self, stack: ExitStack, state: Path, port: int | str, *options: str, command: Any = (), **env: str
    ) -> None:
        self.screen = pyte.Screen(100, 40)
        self.screen.write_process_input = self._answer
        self.answers: list[str] = []
        self.shown = ""
        self.bytes = b""
        self._stream = pyte.ByteStream(self.screen)
        self._waiting = b""
        self._master, self._slave = pty.openpty()
        stack.callback(os.close, self._master)
        stack.callback(os.close, self._slave)
        self._set_size(100)
        self.attributes_before = self.attributes()
        command = [*(command or [str(BIN / "chat-client")]), "--port", str(port), *options]
        shell = [sys.executable, "-c", SHELL, str(self._slave), *command]
        without = ("NO_COLOR", "CHATKIT_PASSWORD", *REFLOWING)  # the emulator is none of these
        base = {name: value for name, value in os.environ.items() if name not in without}
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
        env = {**base, "TERM": "xterm-256color", "XDG_STATE_HOME": str(state), **env}
        self._shell: subprocess.Popen[bytes] = subprocess.Popen(shell, pass_fds=[self._slave], env=env, **streams)
        stack.enter_context(self._shell)
        stack.callback(self._shell.kill)

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def paste(self, text: str) -> None:
        """Paste, as a terminal does that was asked to mark pastes."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int) -> None:
        self._set_size(columns)
        self.screen.resize(40, columns)

    def line(self) -> str:
        """The next line that is shown; the emulator has seen it."""
        line, self._waiting = read_line(self._master, self._waiting, b"\r\n")
        return self._show(line + b"\r\n").removesuffix("\r\n")

    def ready(self) -> Terminal:
        """Wait for the editor."""
        self.until(lambda: READY.encode() in self.bytes)
        return self

    def until(self, is_shown: Callable[[], bool]) -> None:
        """Show what comes until it is as it should be."""
        deadline = time.monotonic() + DEADLINE
        while not is_shown():
            left = max(0, deadline - time.monotonic())
            assert select.select([self._master], [], [], left)[0], "\n".join(["not shown in time:", *self.lines])
            self._show(os.read(self._master, 65536))

    def until_line(self, line: str) -> None:
        """Wait until this is the last line of the screen."""
        self.until_lines(line)

    def until_lines(self, *last: str) -> None:
        """Wait until these are the last lines of the screen."""
        self.until(lambda: self.lines[-len(last) :] == list(last))

    def watch(self, text: str, *, typed: str = "") -> float:
        """Return the seconds until this text comes, without the emulator, which would take time of its own.

        Args:
            typed: keys to press first; what came before them doesn't count.
        """
        begun = time.monotonic()
        if typed:
            while select.select([self._master], [], [], 0)[0]:
                os.read(self._master, 65536)
            self.type(typed)
        received = b""
        while text.encode() not in received:
            assert select.select([self._master], [], [], DEADLINE)[0], f"{text!r} doesn't come"
            received = received[-len(text) :] + os.read(self._master, 65536)
        return time.monotonic() - begun

    @property
    def client(self) -> int:
        """The process of the client."""
        (client,) = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text().split()
        return int(client)

    def cpu_seconds(self) -> float:
        """Return the time that the client has computed so far."""
        fields = Path(f"/proc/{self.client}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without blank ones at its end."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n").split("\n")

    @property
    def cursor(self) -> tuple[int, int]:
        return self.screen.cursor.x, self.screen.cursor.y

    def styles(self, line: str) -> dict[str, tuple[str, bool]]:
        """Return the color of each word in a line of the screen, and whether it is bold."""
        row = self.lines.index(line)
        words, column = {}, 0
        for word in line.split(" "):
            cell = self.screen.buffer[row][column]
            words[word] = (cell.fg, cell.bold)
            column += len(word) + 1
        return words

    def ends(self) -> tuple[int, str]:
        """Return the client's exit status, and its last output."""
        assert self._shell.stdout
        descriptor, status = self._shell.stdout.fileno(), b""
        rest, self._waiting = self._waiting, b""
        while not status.endswith(b"\n"):
            ready, _, _ = select.select([self._master, descriptor], [], [], DEADLINE)
            assert ready, "it doesn't end"
            if self._master in ready:
                rest += os.read(self._master, 65536)
            if descriptor in ready:
                status += os.read(descriptor, 1)
        os.write(self._slave, END)
        while END not in rest:
            assert select.select([self._master], [], [], DEADLINE)[0]
            rest += os.read(self._master, 65536)
        return int(status), self._show(rest.replace(END, b""))

    def typed_for_the_shell(self) -> bytes:
        """Return the keys that the next program on this terminal would read."""
        modes = self.attributes()
        modes[3] &= ~termios.ICANON
        termios.tcsetattr(self._slave, termios.TCSANOW, modes)
        return os.read(self._slave, 4096) if select.select([self._slave], [], [], 0)[0] else b""

    def _set_size(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def _show(self, data: bytes) -> str:
        self.bytes += data
        self._stream.feed(data)
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return data.decode(errors="replace")

    def _answer(self, data: str) -> None:
        self.answers.append(data)
        os.write(self._master, data.encode())


Start = Callable[..., Terminal]
