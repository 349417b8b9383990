"""Witnesses that watch a server from outside, and trouble for its disk."""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from tests.helpers.peers import DEADLINE, Peer

LOST = "cannot write to the history, the chat continues without it: "
REFUSING = "cannot write to the history, messages are refused: "
BACK = "writing to the history again; it lacks {} messages"


class Witness:
    """A member that reads JSON, and so sees ids.

    seen: (id, text) of each message, as it came. newest: the room's newest id when it joined. events: all that came.
    """

    def __init__(self, port: int | str, after: int | None = None) -> None:
        self.peer = Peer(int(port))
        self.events: list[dict[str, Any]] = []
        self._rest = b""
        self.peer.send(b"/json\n" if after is None else b"/json %d\n" % after)
        self.newest: int = self.wait_for("welcome")["newest"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()

    @property
    def seen(self) -> list[tuple[int, str]]:
        return [(event["id"], event["text"]) for event in self.events if event["type"] == "message"]

    def wait_for(self, kind: str, text: str | None = None) -> dict[str, Any]:
        """The first event of this kind, and with this text, that there is or comes."""
        place = 0
        while True:
            for event in self.events[place:]:
                if event["type"] == kind and text in (None, event.get("text")):
                    return event
            place = len(self.events)
            assert self.look(DEADLINE), f"no {kind} in time, but {self.events[-3:]}"

    def look(self, seconds: float) -> bool:
        """Take in what comes; False if nothing does for so long. ConnectionError: it is over."""
        if not select.select([self.peer.sock], [], [], max(0.0, seconds))[0]:
            return False
        data = self.peer.sock.recv(1 << 20)
        if not data:
            raise ConnectionAbortedError
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.events += map(json.loads, lines)
        return True

    def look_to_the_end(self) -> None:
        """Read everything that had reached this host when the server died."""
        with suppress(ConnectionError):
            while self.look(DEADLINE):
                pass


class Talker:
    """Says something, and waits until the witness sees it."""

    def __init__(self, port: int | str) -> None:
        self.witness = Witness(port)
        self.peer = Peer(int(port))

    def say(self, *texts: str) -> list[int]:
        """The ids."""
        self.peer.send("".join(f"{text}\n" for text in texts).encode())
        return [self.witness.wait_for("message", text)["id"] for text in texts]

    def close(self) -> None:
        self.peer.close()
        self.witness.peer.close()


Talk = Callable[[int | str], Talker]


class Log(logging.Handler):
    """The operator's log, one line at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(record.getMessage())

    def line(self) -> str:
        """The next line, when it comes."""
        return self._lines.get(timeout=DEADLINE)

    def has_line(self, seconds: float) -> bool:
        """Whether there is one, or comes one so soon; it is still the next."""
        with suppress(queue.Empty):
            line = self._lines.get(timeout=seconds)
            assert self._lines.empty(), f"two lines: {line!r}, {self._lines.get()!r}"
            self._lines.put(line)
            return True
        return False

    def rest(self) -> list[str]:
        """Return the other lines that there are by now."""
        return [self._lines.get() for _ in range(self._lines.qsize())]


@contextmanager
def tampering(pid: int, *injections: str) -> Iterator[None]:
    """Have `strace -e inject=...` tamper with a process's system calls, inside of `with`."""
    names = ",".join(injection.partition(":")[0] for injection in injections)
    rules = [word for injection in injections for word in ("-e", f"inject={injection}")]
    command = [
        shutil.which("strace") or "strace",
        "-f",
        "-o",
        os.devnull,
        "-e",
        f"trace={names}",
        *rules,
        "-p",
        str(pid),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        assert select.select([strace.stderr], [], [], DEADLINE)[0]
        said = strace.stderr.readline()
        if "attached" not in said and "CI" not in os.environ:
            pytest.skip(said)
        assert "attached" in said
        try:
            yield
        finally:
            strace.terminate()
            if not select.select([strace.stderr], [], [], DEADLINE)[0]:
                strace.kill()


def rows(path: Path) -> list[tuple[int, str]]:
    """(id, text) of what is in a history; AssertionError if the file isn't whole."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute("SELECT id, text FROM messages ORDER BY rowid").fetchall()


def beside(path: Path) -> dict[str, bytes]:
    """Every file in its folder."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def wait_until(done: Callable[[], bool], talker: Talker) -> None:
    """Let the talker say something again and again until then."""
    until = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < until
        talker.say(f"waiting since {time.monotonic()}")
