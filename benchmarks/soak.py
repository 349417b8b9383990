"""A server under churn, floods and stalls, for as long as you like: does anything grow, or get lost?

python benchmarks/soak.py --seconds 3600
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import click

SERVER = [sys.executable, "-m", "chatkit", "server", "--port", "0"]
# Small, so that a soak of a minute sees members cut off for either reason.
LIMITS = ["--max-pending-bytes", "1000000", "--stall-seconds", "2", "--drain-seconds", "1"]
DEADLINE = 10.0  # for whatever should come at once; after it a token counts as lost
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER with no time: close sends a reset
LAST_WORDS = {"end": b"hello\n", "exit": b"hello\nexit\n", "reset": b"hello\nhalf a l", "silent": b""}
TOKEN_PAUSE_SECONDS = 0.01
FLOOD_SECONDS = 1.0
FLOOD_PAUSE_SECONDS = 5.0


@dataclass
class Counts:
    """The work of the threads so far; each thread writes only fields of its own."""

    connections: int = 0
    tokens: int = 0
    flooded: int = 0
    cut_off: int = 0
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Usage:
    """The resources that the server's process holds."""

    memory_kib: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        status = Path(f"/proc/{pid}/status").read_text()
        memory, threads = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) for name in ("VmRSS", "Threads"))
        return cls(memory, len(list(Path(f"/proc/{pid}/fd").iterdir())), threads)


def connect(port: int, receive_buffer: int | None = None) -> socket.socket:
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(DEADLINE)
    sock.connect(("127.0.0.1", port))
    return sock


def tokens(port: int, counts: Counts, over: threading.Event) -> None:
    """Two healthy members: one says a token, the other must hear it, over and over, until `over`."""
    with connect(port) as ann, connect(port) as bob:
        ignorer = threading.Thread(target=ignore_all, args=(ann,))
        ignorer.start()
        try:
            while not over.is_set():
                token = f"token {counts.tokens}\n".encode()
                start = time.perf_counter()
                ann.sendall(token)
                wait_for(bob, f"{ann.getsockname()[1]}: ".encode() + token, start + DEADLINE)
                counts.latencies.append(time.perf_counter() - start)
                counts.tokens += 1
                over.wait(TOKEN_PAUSE_SECONDS)
        except OSError as error:
            counts.failures.append(f"token {counts.tokens} was lost: {error}")
        ann.shutdown(socket.SHUT_WR)
        bob.shutdown(socket.SHUT_WR)
        ignore_all(bob)
        ignorer.join()


def wait_for(sock: socket.socket, line: bytes, deadline: float) -> None:
    """Read until this line came, and keep nothing: line by line, Python would be too slow for a flood."""
    tail = b""
    while line not in tail:
        if time.perf_counter() > deadline:
            raise TimeoutError("it didn't come in time")
        data = sock.recv(1 << 18)
        if not data:
            raise ConnectionError("the server ended this conversation")
        tail = tail[-len(line) :] + data


def ignore_all(sock: socket.socket) -> None:
    """Read until the end, and keep nothing."""
    with suppress(OSError):
        sock.settimeout(None)
        while sock.recv(1 << 18):
            pass


def churn(port: int, counts: Counts, over: threading.Event) -> None:
    """Join, perhaps say something, leave: in order, with a reset, or silently."""
    while not over.is_set():
        with connect(port) as sock:
            leaving = random.choice(list(LAST_WORDS))
            with suppress(OSError):
                sock.sendall(LAST_WORDS[leaving])
                if leaving == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                elif leaving != "silent":
                    sock.shutdown(socket.SHUT_WR)
                    ignore_all(sock)
        counts.connections += 1
        over.wait(0.005)


def flood(port: int, counts: Counts, over: threading.Event) -> None:
    """Now and then, for a second, as fast as it can."""
    data = (b"x" * 99 + b"\n") * 100
    while not over.wait(FLOOD_PAUSE_SECONDS):
        with connect(port) as sock, suppress(OSError):
            ignorer = threading.Thread(target=ignore_all, args=(sock,))
            ignorer.start()
            end = time.monotonic() + FLOOD_SECONDS
            while time.monotonic() < end and not over.is_set():
                sock.sendall(data)
                counts.flooded += 100
            sock.shutdown(socket.SHUT_WR)
            ignorer.join()


def stall(port: int, counts: Counts, over: threading.Event) -> None:
    """Members that read nothing for a while, some long enough to be cut off; then what came is read to its end."""
    while not over.is_set():
        with connect(port, receive_buffer=4096) as sock:
            over.wait(random.choice([0.5, 2.0, FLOOD_PAUSE_SECONDS + 4 * FLOOD_SECONDS]))
            last = b""
            try:
                sock.shutdown(socket.SHUT_WR)
                while data := sock.recv(1 << 18):
                    last = (last + data)[-200:]
                counts.cut_off += b"*** you were cut off: " in last
            except OSError:  # who was cut off, and didn't read in time, gets a reset
                counts.cut_off += 1


class Table:
    """One line for each stretch of time."""

    def __init__(self, pid: int, counts: Counts) -> None:
        self._pid, self._counts, self._start = pid, counts, time.monotonic()
        click.echo("  elapsed s   RSS KiB   fds  threads  connections  messages  cut off   p50 ms   p99 ms   max ms")

    def line(self) -> None:
        counts, usage = self._counts, Usage.of(self._pid)
        latencies, counts.latencies = sorted(counts.latencies) or [0.0], []
        p50, p99, most = (1000 * latencies[int(part * (len(latencies) - 1))] for part in (0.5, 0.99, 1))
        passed, messages = time.monotonic() - self._start, counts.tokens + counts.flooded
        click.echo(
            f"{passed:11.1f} {usage.memory_kib:9} {usage.descriptors:5} {usage.threads:8} {counts.connections:12}"
            f" {messages:9} {counts.cut_off:8} {p50:8.2f} {p99:8.2f} {most:8.2f}"
        )


@contextmanager
def chat_server() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server on a free port, its transcript read and dropped: of a flood, a file would fill the disk."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(SERVER + LIMITS, stdout=subprocess.PIPE, stderr=log) as server,
    ):
        assert server.stdout
        try:
            port = int(server.stdout.readline().rpartition(b":")[2])
            reader = threading.Thread(target=drop, args=(server.stdout.fileno(),), daemon=True)
            reader.start()
            yield server, port
        finally:
            server.kill()
            reader.join()


def drop(descriptor: int) -> None:
    while os.read(descriptor, 1 << 20):
        pass


def run(server: subprocess.Popen[bytes], port: int, seconds: float, every: float, counts: Counts) -> Usage:
    """Run all the load for `seconds`. Return the usage of the server at the end of the warm-up."""
    over, table = threading.Event(), Table(server.pid, counts)
    jobs: list[Callable[..., None]] = [tokens, churn, churn, flood, stall, stall, stall]
    threads = [threading.Thread(target=guarded, args=(job, port, counts, over)) for job in jobs]
    for thread in threads:
        thread.start()
    start, warm = time.monotonic(), None
    next_line, warm_at, end = start + every, start + max(10.0, seconds / 5), start + seconds
    while (now := time.monotonic()) < end and not counts.failures:
        if now >= warm_at and not warm:
            warm = Usage.of(server.pid)
        if now >= next_line:
            table.line()
            next_line += every
        time.sleep(max(0.0, min(end, next_line, now + 0.5) - now))
    over.set()
    for thread in threads:
        thread.join()
    warm = warm or Usage.of(server.pid)
    wait_until_left(server.pid)
    table.line()
    return warm


def guarded(job: Callable[..., None], port: int, counts: Counts, over: threading.Event) -> None:
    """A load that dies is a failure of the run, not a traceback that nobody sees."""
    try:
        job(port, counts, over)
    except Exception as error:
        counts.failures.append(f"{job.__name__} failed: {error!r}")


def wait_until_left(pid: int) -> None:
    """Until the server holds no more connections than it must, or long enough."""
    before, deadline = None, time.monotonic() + DEADLINE
    while (now := Usage.of(pid).descriptors) != before and time.monotonic() < deadline:
        before = now
        time.sleep(2)  # more than --drain-seconds


def verdict(start: Usage, warm: Usage, end: Usage, max_growth: int) -> list[str]:
    found = []
    if (growth := end.memory_kib - warm.memory_kib) > max_growth:
        found.append(f"memory grew by {growth} KiB since the warm-up, more than {max_growth}")
    if end.descriptors != start.descriptors:
        found.append(f"{end.descriptors} descriptors, at the start {start.descriptors}")
    if end.threads != start.threads:
        found.append(f"{end.threads} threads, at the start {start.threads}")
    return found


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="How long.")
@click.option("--every", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Seconds for each line.")
@click.option("--max-growth", default=8192, show_default=True, help="KiB that memory may grow after the warm-up.")
def main(seconds: float, every: float, max_growth: int) -> None:
    """Load a chat-server with churn, floods and stalls; status 1 if it grew, leaked or lost something."""
    if not sys.platform.startswith("linux"):
        fail("Linux only: it reads /proc")
    counts = Counts()
    with chat_server() as (server, port):
        with connect(port) as first:  # it says that it listens before all of its threads run
            first.shutdown(socket.SHUT_WR)
            ignore_all(first)
        wait_until_left(server.pid)
        start = Usage.of(server.pid)
        warm = run(server, port, seconds, every, counts)
        found = counts.failures + verdict(start, warm, Usage.of(server.pid), max_growth)
        server.send_signal(signal.SIGTERM)
        try:
            if status := server.wait(5):
                found.append(f"the server ended with status {status}")
        except subprocess.TimeoutExpired:
            found.append("the server didn't end within 5 s of SIGTERM")
    if found:
        fail("; ".join(found))
    click.echo("nothing grew, leaked or got lost")


def fail(problem: str) -> NoReturn:
    click.echo(f"soak: {problem}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
