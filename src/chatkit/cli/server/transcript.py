"""The transcript and the log of `chat-server`, printed without waiting: a bounded queue and a thread per stream."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TextIO

from chatkit import Handler, Member, Message
from chatkit.net.sockets import Address, host_and_port
from chatkit.protocol.sanitize import visible

# A thousand of the longest lines, and what Python needs around them.
MAX_WAITING_BYTES = 16 * 1024 * 1024
# Lines that arrive within this time after a write are written together.
GATHER_SECONDS = 0.02
# Bounds the number of lines whose fate is unknown when a write never returns.
MAX_LINES_PER_WRITE = 256


class Printer:
    """A thread that writes lines to a stream, so that `put` never waits.

    Lines are dropped and counted when more than MAX_WAITING_BYTES wait, when the stream refuses them, and when
    they still wait at the end. The count is printed in place of the lines, as soon as the stream accepts it. A stream
    of None accepts nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # Unbuffered: after a failed write, the rest of a buffer would be written later, or twice.
        self._raw = getattr(stream.buffer, "raw", stream.buffer) if stream else None
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        # Each counter is written by the callers of `put` (one at a time) or by the thread, never by both.
        self._put_lines = self._put_bytes = 0
        self._taken_lines = self._taken_bytes = 0
        self._rejected_lines = self._rejected_reported = 0
        self._lost_lines = self._lost_reported = 0
        self._in_line = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chatkit-printer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Return the number of lines that were not printed. After `close`, lines that still wait count, too."""
        waiting = self._put_lines - self._taken_lines if self._closing.is_set() else 0
        return self._rejected_lines + self._lost_lines + waiting

    def put(self, line: str) -> None:
        """Print `line` soon. Only one thread at a time may call this."""
        if self._put_bytes - self._taken_bytes > MAX_WAITING_BYTES:
            self._rejected_lines += 1
            return
        if missing := self._rejected_lines - self._rejected_reported:
            self._rejected_reported = self._rejected_lines
            self._enqueue(_dropped(missing))
        self._enqueue(line)

    def close(self, timeout: float) -> None:
        """Wait until all lines are printed, at most `timeout` seconds."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout)

    def _enqueue(self, line: str) -> None:
        self._put_lines += 1
        self._put_bytes += sys.getsizeof(line)
        self._queue.put(line)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            lines = [first, *self._take_waiting()]
            missing = self._lost_lines - self._lost_reported
            if missing and not self._write([_dropped(missing)]):
                self._lost_reported += missing
            for start in range(0, len(lines), MAX_LINES_PER_WRITE):
                batch = lines[start : start + MAX_LINES_PER_WRITE]
                self._lost_lines += self._write(batch)
                self._taken_lines += len(batch)
                self._taken_bytes += sum(map(sys.getsizeof, batch))
            self._closing.wait(GATHER_SECONDS)

    def _take_waiting(self) -> list[str]:
        """Return the lines in the queue. The mark of the end is put back for `_run`."""
        lines = []
        for _ in range(self._queue.qsize()):
            if (line := self._queue.get()) is None:
                self._queue.put(None)
                break
            lines.append(line)
        return lines

    def _write(self, lines: list[str]) -> int:
        """Write lines. Return how many the stream refused. After half a line, a line end comes first."""
        if not self._raw:
            return len(lines)
        data = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
        left = memoryview(b"\n" + data if self._in_line else data)
        try:
            while left:
                written = self._raw.write(left)
                if written is None:  # the stream is non-blocking, and full
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
    """The handler of `chat-server`, which prints messages, joins and leaves. It uses the public interface only."""

    def __init__(self, printer: Printer, listening: Callable[[Address], None] = lambda address: None) -> None:
        """Prepare the handler.

        Args:
            listening: called with the server's address before the first connection.
        """
        self._printer = printer
        self._listening = listening
        self._print = printer.put

    @property
    def dropped(self) -> int:  # type: ignore[override]  # counted by the printer
        """Return the number of lines that were not printed."""
        return self._printer.dropped

    def on_listening(self, address: Address) -> None:
        """Print the address."""
        self._listening(address)
        self._print(f"Server listening on {host_and_port(address)}")

    def on_join(self, member: Member) -> None:
        """Print the new member's address."""
        self._print(f"New connection from {member.address}")

    def on_message(self, message: Message, member: Member) -> Message:
        """Print the message, and accept it."""
        self._print(visible(str(message)))
        return message

    def on_rename(self, member: Member, old_name: str) -> None:
        """Print both names."""
        self._print(f"{old_name} is now {member.name}")

    def on_leave(self, member: Member, reason: str) -> None:
        """Print the member's address."""
        self._print(f"Connection from {member.address} closed.")


class LogPrinter(logging.Handler):
    """A log handler that prints each record as one line and its traceback after it, with control characters visible."""

    def __init__(self, printer: Printer, prefix: str) -> None:
        super().__init__()
        self._print = printer.put
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        self._print(f"{self._prefix}: {visible(record.getMessage())}")
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).split("\n"):
                self._print(visible(line))
