"""A pager for lines that don't fit the screen."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

from chatkit.cli.common import reason


class PagerError(Exception):
    """The pager can't be run."""


def show(lines: Iterator[str]) -> None:
    """Print lines on the terminal, through a pager if they don't fit the screen.

    Raises:
        PagerError: $PAGER can't be run.
    """
    head, is_whole = _take_screen(lines, *shutil.get_terminal_size())
    command = [] if is_whole else _command()
    if command:
        _page(command, chain(head, lines))
    else:
        sys.stdout.writelines(f"{line}\n" for line in chain(head, lines))
        sys.stdout.flush()


def _take_screen(lines: Iterator[str], columns: int, rows: int) -> tuple[list[str], bool]:
    """Take lines until they fill the screen, except for its last row. Returns (lines, whether there are no more)."""
    taken, used = list[str](), 0
    for line in lines:
        taken.append(line)
        used += max(1, -(-_count_cells(line) // columns))
        if used >= rows:
            return taken, False
    return taken, True


def _count_cells(line: str) -> int:
    """Return how many cells of a terminal a line takes: a little more for some sequences of emoji."""
    if line.isascii():
        return len(line)
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in line
    )


def _command() -> list[str]:
    """Return the words of the pager's command; none if there is no pager, or the terminal is too simple for one."""
    try:
        if words := shlex.split(os.environ.get("PAGER", "")):
            return words
    except ValueError as error:
        raise PagerError(str(error).lower()) from None
    return ["less"] if shutil.which("less") and os.environ.get("TERM") not in ("dumb", "emacs") else []


def _page(command: list[str], lines: Iterator[str]) -> None:
    """Write lines to a pager, and wait until it ends. Ctrl-C ends the writing alone: pagers use it, too."""
    environment = {"LESSCHARSET": "utf-8", **os.environ}  # else less shows codes in place of letters in some locales
    try:
        pager = subprocess.Popen(
            command, bufsize=1, stdin=subprocess.PIPE, env=environment, encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise PagerError(reason(error)) from None
    assert pager.stdin
    try:
        with suppress(BrokenPipeError), pager.stdin as pipe:  # left before the end
            pipe.writelines(f"{line}\n" for line in lines)
    finally:
        while pager.returncode is None:
            with suppress(KeyboardInterrupt):
                pager.wait()
