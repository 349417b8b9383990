"""Printing without waiting: every way in which a stream can refuse."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import pytest

from chatkit.cli.server import transcript as printer_module
from chatkit.cli.server.transcript import LogPrinter, Printer
from tests.helpers.hostile import HOSTILE, forbidden
from tests.helpers.peers import DEADLINE

TIMEOUT = 5.0


@pytest.fixture
def pipe() -> Iterator[tuple[Any, TextIO]]:
    """(reading end, a text stream on the writing end) of a pipe."""
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "w") as writer:
        yield reader, writer


def test_lines_come_out_as_they_happen(pipe: tuple[Any, TextIO]) -> None:
    """Each line is in the pipe soon after `put`, without any further one."""
    reader, stream = pipe
    printer = Printer(stream)
    for text in ("one", "two é"):
        printer.put(text)
        assert reader.readline() == text.encode() + b"\n"
    printer.close(TIMEOUT)


def test_a_pipe_that_nobody_reads(pipe: tuple[Any, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """`put` never waits; lines beyond the bound of memory are dropped, and counted where they are missing."""
    monkeypatch.setattr(printer_module, "MAX_WAITING_BYTES", 10_000 * sys.getsizeof("0" * 20))
    reader, stream = pipe
    os.set_blocking(stream.fileno(), False)
    filler = 0
    with suppress(BlockingIOError):
        while True:
            filler += os.write(stream.fileno(), b"x" * 1000)
    os.set_blocking(stream.fileno(), True)
    printer = Printer(stream)
    for number in range(20_000):
        printer.put(f"{number:020}")
    dropped = printer.dropped
    assert 20_000 - dropped == 10_001
    assert len(reader.read(filler)) == filler
    assert [reader.readline() for _ in range(10_001)] == [f"{number:020}\n".encode() for number in range(10_001)]
    printer.put("again")
    assert reader.readline() == f"*** {dropped} lines were dropped here\n".encode()
    assert reader.readline() == b"again\n"
    printer.close(TIMEOUT)


def test_a_reader_that_went_away() -> None:
    """A closed pipe loses the lines, and nothing else."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        printer = Printer(stream)
        printer.put("one")
        printer.close(TIMEOUT)
        assert printer.dropped == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk() -> None:
    """A stream that is full loses the lines, and nothing else."""
    with open("/dev/full", "w") as stream:
        printer = Printer(stream)
        printer.put("one")
        printer.close(TIMEOUT)
        assert printer.dropped == 1


def test_no_stream_at_all() -> None:
    """A closed standard output is None in Python."""
    printer = Printer(None)
    printer.put("one")
    printer.close(TIMEOUT)
    assert printer.dropped == 1


def test_a_stream_that_comes_back() -> None:
    """As soon as the stream takes lines again, it says how many are missing."""

    class Disk(io.RawIOBase):
        full = True
        written = b""
        wrote = threading.Semaphore(0)

        def write(self, data: Any) -> int | None:
            self.wrote.release()
            if self.full:
                raise OSError(28, "No space left on device")
            if len(data) % 2 == 0 and not self.written.endswith(b"\0"):
                self.written += b"\0"
                return None  # as a non-blocking stream says that it is full
            self.written = self.written.rstrip(b"\0") + bytes(data[:7])
            return len(data[:7])

        def writable(self) -> bool:
            return True

    disk = Disk()
    printer = Printer(io.TextIOWrapper(disk))  # type: ignore[type-var]
    printer.put("lost")
    assert disk.wrote.acquire(timeout=TIMEOUT)
    while not printer.dropped:
        pass
    disk.full = False
    printer.put("kept")
    printer.close(TIMEOUT)
    assert disk.written == b"*** 1 lines were dropped here\nkept\n"


def test_log_records(pipe: tuple[Any, TextIO]) -> None:
    """One record is one line, even with a stranger's text in it; a traceback follows line by line."""
    reader, stream = pipe
    printer = Printer(stream)
    handler, logger = LogPrinter(printer, "chat-server"), logging.getLogger("chatkit.test")
    logger.addHandler(handler)
    logger.propagate = False
    logger.warning("from %s", "a\nstranger\x1b[2J")
    try:
        raise LookupError("of the test\x1b")
    except LookupError:
        logger.exception("failed")
    logger.removeHandler(handler)
    printer.close(TIMEOUT)
    lines = [reader.readline().decode().rstrip("\n") for _ in range(3)]
    assert lines == ["chat-server: from a␊stranger␛[2J", "chat-server: failed", "Traceback (most recent call last):"]


def test_a_log_record_is_one_harmless_line(tmp_path: Path) -> None:
    """A record with any text, line ends included, is one line; so is each line of its traceback."""
    hostile = [*HOSTILE.values(), "two\nlines", "two\r\nlines"]
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        printer = Printer(stream)
        handler = LogPrinter(printer, "chat-server")
        for text in hostile:
            handler.handle(logging.LogRecord("x", logging.WARNING, "", 0, "said: %s", (text,), None))
        error = ValueError(HOSTILE["report"])
        handler.handle(logging.LogRecord("x", logging.ERROR, "", 0, "end", (), (ValueError, error, None)))
        printer.close(DEADLINE)
    lines = (tmp_path / "log").read_bytes().decode().split("\n")
    assert [line[:19] for line in lines] == ["chat-server: said: "] * len(hostile) + [
        "chat-server: end",
        "ValueError: ␛[6n␛[5",
        "",
    ]
    assert forbidden("\n".join(lines)) == []
