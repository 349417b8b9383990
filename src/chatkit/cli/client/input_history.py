"""The lines that were typed, kept in a file for the next session. No secrets: they stay out of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from chatkit.cli.common import state_folder
from chatkit.protocol.lines import parse_command
from chatkit.protocol.sanitize import clean

MAX_LINES = 1000

# What follows these is a password.
_SECRET_COMMANDS = ("password", "op")


def secret_start(line: str) -> int | None:
    """Return the place in a line at which its secret begins, or None if it has none."""
    stripped = line.lstrip()
    word, _ = parse_command(clean(stripped)) or ("", "")
    if word.casefold() not in _SECRET_COMMANDS:
        return None
    return len(line) - len(stripped) + len("/") + len(word)


def hide_secret(line: str) -> str:
    """Return a line as it may be shown, without its secret."""
    start = secret_start(line)
    return line if start is None or not line[start:].strip() else f"{line[:start]} ****"


class InputHistory:
    """A file of at most MAX_LINES lines, the latest last, that its owner alone can read.

    Several clients may use it at the same time: each line is appended at once. A file that can't be read or written is
    no reason to stop a chat: its lines are then only known to this process.
    """

    def __init__(self) -> None:
        folder = state_folder()
        self._path = folder / "chat-client_history" if folder else None

    def load(self) -> list[str]:
        """Return the lines, oldest first."""
        return self._read()[-MAX_LINES:]

    def add(self, line: str) -> None:
        """Append a line, unless it holds a secret."""
        if self._path and secret_start(line) is None and line.isprintable():
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._write(self._path, os.O_APPEND, [line])

    def trim(self) -> None:
        """Drop the oldest lines, if there are too many."""
        lines = self._read()
        if self._path and len(lines) > MAX_LINES:
            with suppress(OSError):
                new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
                self._write(new, os.O_TRUNC, lines[-MAX_LINES:])
                new.replace(self._path)

    def _read(self) -> list[str]:
        with suppress(OSError):
            return self._path.read_text("utf-8", "replace").splitlines() if self._path else []
        return []

    def _write(self, path: Path, flag: int, lines: list[str]) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write("".join(f"{line}\n" for line in lines).encode(errors="replace"))
