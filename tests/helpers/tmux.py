"""A pane of tmux with a real shell in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from tests.helpers.commands import BIN
from tests.helpers.peers import DEADLINE

HAS_TMUX = shutil.which("tmux")
PROMPT = "shell$"


class Pane:
    """A shell that knows the commands of chatkit, in 80 columns and 24 rows."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._socket = folder / "tmux"
        path = f"{BIN}:{os.environ['PATH']}"
        env = {**os.environ, "XDG_STATE_HOME": str(folder), "PATH": path, "PS1": f"{PROMPT} ", "NO_COLOR": "1"}
        for name in ("TMUX", "CHATKIT_PASSWORD"):
            env.pop(name, None)
        stack.callback(self._tmux, "kill-server")
        shell = ["bash", "--norc", "--noprofile", "-i"]
        self._tmux("-f", os.devnull, "new-session", "-d", "-x", "80", "-y", "24", *shell, env=env)
        self.until(PROMPT)

    def type(self, *keys: str) -> None:
        """Press keys: words as they are, and names such as Enter or C-z."""
        self._tmux("send-keys", *keys)

    def run(self, command: str) -> None:
        self.type(command, "Enter")

    def paste(self, text: str) -> None:
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def resize(self, columns: int) -> None:
        self._tmux("resize-window", "-x", str(columns))

    @property
    def lines(self) -> list[str]:
        """The lines of the pane, without blank ones at its end."""
        return self._tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def until(self, *last: str) -> None:
        """Wait until these are the last lines."""
        deadline = time.monotonic() + DEADLINE
        while [line.rstrip() for line in self.lines[-len(last) :]] != list(last):
            assert time.monotonic() < deadline, "\n".join(["not shown in time:", *self.lines])

    def until_jobs_are(self, *jobs: str) -> None:
        """Wait until the shell lists these jobs."""
        deadline = time.monotonic() + DEADLINE
        while True:
            self.run("clear; jobs; echo end of jobs")
            self.until("end of jobs", PROMPT)
            if self.lines[: len(jobs)] == list(jobs):
                return
            assert time.monotonic() < deadline, "\n".join(["not so in time:", *self.lines])

    def _tmux(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE).stdout
