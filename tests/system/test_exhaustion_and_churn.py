"""Out of descriptors, out of output, churn, and clean ends: the room goes on, and comes back to where it was."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from chatkit import Server
from chatkit.net.descriptors import RESERVED, fit_to_fd_limit
from tests.helpers.commands import BIN, Run, start_server
from tests.helpers.peers import DEADLINE, Peer, assert_healthy
from tests.helpers.processes import cpu_seconds, linux, resident_kib
from tests.helpers.servers import Serve

resource = pytest.importorskip("resource")

pytestmark = pytest.mark.slow


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    """Ask again and again; fails when the time is over."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline


@linux
def test_the_spare_descriptor(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no other descriptor, it serves to tell who waits so; afterwards connections are accepted again."""
    monkeypatch.setattr("chatkit.server.server.fit_to_fd_limit", lambda clients: clients)
    started = serve()
    talker, reader = started.peers(2)
    assert_healthy(talker, reader)
    refused = socket.socket()
    refused.settimeout(DEADLINE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    hoard = []
    with suppress(OSError):
        while True:
            hoard.append(os.open(os.devnull, os.O_RDONLY))
    try:
        refused.connect(("127.0.0.1", started.port))
        assert refused.recv(100) == b"*** the server has no descriptor left for you\n"
        assert_healthy(talker, reader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in hoard:
            os.close(descriptor)
        refused.close()
    assert_healthy(talker, started.peer())


@linux
def test_the_descriptor_limit_is_raised_and_fitted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """chat-server allows itself what the system allows; `max_clients` is what fits."""
    command = f'ulimit -Sn 100; exec "{BIN}/chat-server" --port 0'
    server = run(shutil.which("bash") or "bash", "-c", command)
    server.line()
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    soft, hard = re.findall(r"Max open files\s+(\d+)\s+(\d+)", limits)[0]
    assert soft == hard != "100"
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 100))
    assert (fit_to_fd_limit(10_000), fit_to_fd_limit(10)) == (100 - RESERVED - 100 // 8, 10)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert fit_to_fd_limit(10_000) == 10_000


def test_a_transcript_that_nobody_reads(run: Run) -> None:
    """stdout and stderr are full pipes: the room goes on, ends in time, and missing lines are counted."""
    server, port = start_server(run)
    talker, reader = Peer(int(port)), Peer(int(port))
    for number in range(3000):
        talker.send(b"%d" % number + b"x" * 90 + b"\n")
        reader.line()
    assert_healthy(talker, reader)
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert talker.rest() == reader.rest() == b""
    talker.close()
    reader.close()
    assert server.process.wait(DEADLINE) == 0
    assert time.monotonic() - begun < 5
    _, out, err = server.ends()
    missing = re.fullmatch(r"chat-server: up to ([0-9]+) lines of the transcript were not printed\n", err)
    assert missing
    lines = out.count("\n") + int(missing[1])  # beside the first, without what one unfinished write may hold
    assert 3000 + 5 <= lines <= 3000 + 5 + 256


def test_a_log_that_nobody_reads(run: Run) -> None:
    """stderr is a full pipe from the start, and there is something to log: the room goes on, and ends in time."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for piece in (b"x" * 4096, b"x"):  # to the last byte: a short line would still fit
        with suppress(BlockingIOError):
            while True:
                os.write(writing, piece)
    os.set_blocking(writing, True)
    command = f'ulimit -n 60; exec "{BIN}/chat-server" --port 0'
    server = run(shutil.which("bash") or "bash", "-c", command, stderr=writing)
    os.close(writing)
    port = int(server.line().rpartition(":")[2])
    talker, reader = Peer(port), Peer(port)
    assert_healthy(talker, reader)
    talker.close()
    reader.close()
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(DEADLINE) == 0
    assert time.monotonic() - begun < 5
    os.close(reading)


def test_a_worker_that_dies_ends_the_process(run: Run) -> None:
    """Exit status not zero within 2 s, everyone is closed, the reason is in the log: never half alive."""
    code = """
import sys
from chatkit import Server
from chatkit.room.turn import Turn

class Handler:
    def on_listening(self, address): print(address[1], flush=True)

def die(*_): raise SystemExit("of the test")

Turn.say = die
Server(port=0, handler=Handler(), threads=2).serve_forever()
"""
    server = run(sys.executable, "-c", code)
    port = int(server.line())
    peers = [Peer(port) for _ in range(4)]
    begun = time.monotonic()
    peers[0].send(b"die\n")
    assert server.process.wait(DEADLINE) != 0
    assert time.monotonic() - begun < 2
    for peer in peers:
        with suppress(ConnectionResetError):
            peer.rest()
        peer.close()
    with pytest.raises(ConnectionRefusedError):
        Peer(port)
    assert "a thread of the server died: SystemExit('of the test')" in server.ends()[2]


def churn(port: int, cycles: int, at_once: int) -> None:
    """Connect, say a line, close: with an end of stream, a reset, or without having said anything."""
    for start in range(0, cycles, at_once):
        peers = [Peer(port) for _ in range(at_once)]
        for number, peer in enumerate(peers, start):
            if number % 3 < 2:
                peer.send(b"%d\n" % number)
            if number % 3 == 1:
                peer.reset()
            else:
                peer.send_eof()
        for number, peer in enumerate(peers, start):
            if number % 3 != 1:
                peer.rest()  # the server's end: no more than these are open at once
                peer.close()


def state(pid: int) -> tuple[int, int]:
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


@linux
def test_churn(run: Run, tmp_path: Path) -> None:
    """10,000 conversations, 50 at a time: two lines each in the transcript; descriptors, threads, memory are freed."""
    with open(tmp_path / "out", "w+b") as out:
        server = run("chat-server", "--port", "0", stdout=out)

        def transcript() -> list[bytes]:
            return (tmp_path / "out").read_bytes().splitlines()

        wait_until(lambda: bool(transcript()), DEADLINE)
        port, pid = int(transcript()[0].rpartition(b":")[2]), server.process.pid
        churn(port, 1000, 50)
        wait_until(lambda: sum(line.endswith(b"closed.") for line in transcript()) == 1000, DEADLINE)
        memory, (descriptors, threads) = resident_kib(pid), state(pid)
        churn(port, 9000, 50)
        wait_until(lambda: state(pid)[0] <= descriptors, DEADLINE)
        assert state(pid)[1] == threads
        wait_until(lambda: sum(line.endswith(b"closed.") for line in transcript()) == 10_000, DEADLINE)
        assert sum(line.startswith(b"New connection") for line in transcript()) == 10_000
        assert resident_kib(pid) - memory < 2048
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0
        assert server.process.stderr
        assert server.process.stderr.read() == b""


def test_a_thousand_members_reset_at_once(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """No traceback, and the room is healthy within 2 s."""
    started = serve()
    talker, reader = started.peers(2)
    crowd = started.peers(1000)
    assert_healthy(talker, reader)
    begun = time.monotonic()
    for peer in crowd:
        peer.reset()
    assert_healthy(talker, reader)
    wait_until(lambda: len(started.server.members) == 2, 2)
    assert time.monotonic() - begun < 2
    assert caplog.records == []


def test_sigterm_in_the_middle_of_a_stream(run: Run) -> None:
    """Everyone who reads gets the same lines, whole, and then an end of stream; exit 0 within 5 s."""
    server, port = start_server(run)
    talker, *readers = [Peer(int(port)) for _ in range(3)]
    heard: list[bytes] = []
    threads = [threading.Thread(target=lambda peer=peer: heard.append(peer.rest())) for peer in readers]

    def talk() -> None:
        with suppress(OSError):
            for number in range(1 << 40):
                talker.send(b"%d\n" % number)

    threads.append(threading.Thread(target=talk))
    for thread in threads:
        thread.start()
    drained = threading.Thread(target=server.process.communicate)
    wait_until(lambda: cpu_seconds(server.process.pid) > 0.3, DEADLINE)
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    drained.start()
    for thread in (*threads, drained):
        thread.join()
    assert server.process.wait(DEADLINE) == 0
    assert time.monotonic() - begun < 5
    assert heard[0] == heard[1]
    numbers = [int(line.partition(b": ")[2]) for line in heard[0].splitlines()]
    assert numbers == list(range(len(numbers)))
    assert heard[0].endswith(b"\n")
    for peer in (talker, *readers):
        peer.close()


def test_a_second_signal_ends_at_once(run: Run) -> None:
    """However long the orderly end would take; but only half a second after the first one."""
    server, port = start_server(run)
    talker, reader, deaf = Peer(int(port)), Peer(int(port)), Peer(int(port), receive_buffer=4096)
    for _ in range(6000):
        talker.send(b"x" * 999 + b"\n")
        reader.line()
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert reader.rest() == b""
    while server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(0.1)
    assert server.process.returncode == -signal.SIGTERM
    assert 0.5 < time.monotonic() - begun < 3
    for peer in (talker, reader, deaf):
        peer.close()


def test_restart_on_the_same_port(run: Run) -> None:
    """Old connections in TIME_WAIT, ended by the server, don't keep the port."""
    with Server(port=0) as server:
        port = server.port
        peer = Peer(port)
        peer.send(b"exit\n")
        assert peer.rest() == b""
        peer.close()
    with Server(port=port) as server:
        peer = Peer(port)
        peer.send(b"exit\n")
        assert peer.rest() == b""
        peer.close()
