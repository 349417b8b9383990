"""Printing without waiting: one thread per stream, a bounded queue in front of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TextIO

from chatkit import Handler, Member, Message
from chatkit.net.sockets import Address, host_and_port
from chatkit.protocol.sanitize import visible

# What may wait for a reader of the transcript, in characters: a thousand of the longest lines.
MAX_WAITING = 16 * 1024 * 1024
# Lines that come within this time of the last write go out as one write.
GATHER_SECONDS = 0.02
# One write carries so many at the most: of a write that never returns, nobody knows how much was printed.
LINES_AT_ONCE = 256


class Printer:
    """Writes lines to a stream from a thread of its own; who says `put` never waits.

    What can't be printed is dropped and counted: because more than MAX_WAITING characters wait, because the
    stream refuses it, or because it is still waiting at the end. The count is printed where the lines are missing,
    as soon as the stream takes it. A stream of None takes nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # Unbuffered: what a buffer holds when a write fails would come out later, or twice.
        self._raw = getattr(stream.buffer, "raw", stream.buffer) if stream else None
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        # Each counter has one writer: whoever puts (one at a time), or the thread.
        self._put_lines = self._put_characters = 0
        self._taken_lines = self._taken_characters = 0
        self._refused_lines = self._refused_reported = 0
        self._lost_lines = self._lost_reported = 0
        self._in_line = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chatkit-printer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not printed; after `close` also those that waited too long (with one unfinished write)."""
        waiting = self._put_lines - self._taken_lines if self._closing.is_set() else 0
        return self._refused_lines + self._lost_lines + waiting

    def put(self, line: str) -> None:
        """Print `line` soon. One caller at a time."""
        if self._put_characters - self._taken_characters > MAX_WAITING:
            self._refused_lines += 1
            return
        if missing := self._refused_lines - self._refused_reported:
            self._refused_reported = self._refused_lines
            self._enqueue(_dropped(missing))
        self._enqueue(line)

    def close(self, timeout: float) -> None:
        """Print what waits, at most for `timeout` seconds."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout)

    def _enqueue(self, line: str) -> None:
        self._put_lines += 1
        self._put_characters += len(line)
        self._queue.put(line)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            lines = [first, *self._waiting()]
            missing = self._lost_lines - self._lost_reported
            if missing and not self._write([_dropped(missing)]):
                self._lost_reported += missing
            for start in range(0, len(lines), LINES_AT_ONCE):
                some = lines[start : start + LINES_AT_ONCE]
                self._lost_lines += self._write(some)
                self._taken_lines += len(some)
                self._taken_characters += sum(map(len, some))
            self._closing.wait(GATHER_SECONDS)

    def _waiting(self) -> list[str]:
        """What is in the queue now; if that is the end, it is put back for `_run` to see."""
        lines = []
        for _ in range(self._queue.qsize()):
            if (line := self._queue.get()) is None:
                self._queue.put(None)
                break
            lines.append(line)
        return lines

    def _write(self, lines: list[str]) -> int:
        """How many of the lines the stream refused. A line it took half of is ended before the next one."""
        if not self._raw:
            return len(lines)
        data = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
        left = memoryview(b"\n" + data if self._in_line else data)
        try:
            while left:
                written = self._raw.write(left)
                if written is None:  # a stream that somebody made non-blocking, and full
                    self._closing.wait(GATHER_SECONDS)
                elif written:
                    self._in_line = left[written - 1] != ord("\n")
                    left = left[written:]
        except OSError:
            return min(len(lines), bytes(left).count(b"\n"))
        return 0


def _dropped(lines: int) -> str:
    return f"*** {lines} lines were dropped here"


class Transcript(Handler):
    """The handler of `chat-server`: prints what happens. Uses nothing that other handlers don't have."""

    def __init__(self, printer: Printer, listening: Callable[[Address], None] = lambda address: None) -> None:
        self._printer = printer
        self._listening = listening
        self._print = printer.put

    @property
    def dropped(self) -> int:  # type: ignore[override]  # counted by the printer
        return self._printer.dropped

    def on_listening(self, address: Address) -> None:
        self._listening(address)
        self._print(f"Server listening on {host_and_port(address)}")

    def on_join(self, member: Member) -> None:
        self._print(f"New connection from {member.address}")

    def on_message(self, message: Message) -> Message:
        self._print(visible(str(message)))
        return message

    def on_rename(self, member: Member, old_name: str) -> None:
        self._print(f"{old_name} is now {member.name}")

    def on_leave(self, member: Member, reason: str) -> None:
        self._print(f"Connection from {member.address} closed.")


class LogPrinter(logging.Handler):
    """Log records as lines of a printer: a record's text is one line, whatever is in it; a traceback follows."""

    def __init__(self, printer: Printer, prefix: str) -> None:
        super().__init__()
        self._print = printer.put
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        self._print(f"{self._prefix}: {visible(record.getMessage())}")
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).split("\n"):
                self._print(visible(line))
