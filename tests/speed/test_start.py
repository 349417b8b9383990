"""How soon a server listens, and a client shows what arrives."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.commands import BIN, Run, stop
from tests.helpers.killing import Killing
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve

pytestmark = pytest.mark.timed


def test_the_server_listens_soon() -> None:
    """From `chat-server` typed to listening: at most 150 ms more than Python alone takes."""

    def seconds(*command: str) -> float:
        begun = time.monotonic()
        with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            took = time.monotonic() - begun
            process.terminate()
        return took

    server = [seconds("-m", "chatkit", "server", "--port", "0") for _ in range(5)]
    python = [seconds("-c", "print()") for _ in range(5)]
    assert statistics.median(server) - statistics.median(python) < 0.150


def test_a_client_in_a_pipe_is_there_soon(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It connects, and shows what arrives, within 75 ms of `python -c pass`."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # installed, it is compiled
    started = serve(replay=1)
    started.peer().send(b"said before\n")
    started.events.wait_for("message")
    python, client = list[float](), list[float]()
    for _ in range(15):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        python.append(time.monotonic() - begun)
        begun = time.monotonic()
        command: list[str] = [str(BIN / "chat-client"), "--port", str(started.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout
            while b"said before" not in process.stdout.readline():
                pass
            client.append(time.monotonic() - begun)
            process.communicate(timeout=DEADLINE)
    assert min(client) - min(python) < 0.075  # the fastest count: a busy machine holds up the others


# A server in order starts in a quarter of a second; what a killed one left may take the rest.
START_SECONDS = 2.0


def test_a_start_after_a_kill_is_quick(
    run: Run, tmp_path: Path, kill_rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files of a killed server delay the next one by less than two seconds."""
    killing = Killing(run, tmp_path / "chat.db")
    for _ in range(kill_rounds):
        killing.round()
    server, _ = killing.start()
    assert stop(server) == ""
    with capsys.disabled():
        print(f" {kill_rounds} kills, {len(killing.seen)} lines, slowest start {max(killing.starts):.2f} s", end="")
    assert max(killing.starts) < START_SECONDS
