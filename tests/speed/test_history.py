"""The cost of a history. Bounds of the whole command, with its processes outside."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chatkit import Message
from chatkit.history.memory import MemoryHistory
from chatkit.history.sqlite.store import SqliteHistory
from tests.helpers.commands import Run, start_server
from tests.helpers.marks import needs
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.witness import LOST, Talk

pytestmark = pytest.mark.timed

MESSAGES, AT_ONCE = 1_000_000, 20_000
SECONDS = 1.0

Connect = Callable[[str], Peer]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def connect(port: str) -> Peer:
            peer = Peer(int(port))
            stack.callback(peer.close)
            return peer

        yield connect


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history of a million messages: no time that is short with ten may grow with them."""
    path = tmp_path_factory.mktemp("history") / "large.db"
    history = SqliteHistory(path)
    history.open()
    for first in range(1, MESSAGES, AT_ONCE):
        history.append(
            [Message("ada", f"{number} {'x' * 50}", number, 1.0) for number in range(first, first + AT_ONCE)]
        )
    history.close()
    return path


def test_a_start_with_a_large_history(run: Run, connect: Connect, large: Path) -> None:
    """In less than a second it listens; a newcomer has the last 50 messages within 20 ms."""
    begun = time.monotonic()
    _, port = start_server(run, "--history", str(large), "--replay", "50")
    assert time.monotonic() - begun < 1.0
    took = list[float]()
    for _ in range(7):
        begun = time.monotonic()
        lines = connect(port).lines(52)
        took.append(time.monotonic() - begun)
        assert lines[50].startswith(b"ada: %d " % MESSAGES)
    assert statistics.median(took) < 0.020


def test_old_messages_of_a_large_history(run: Run, connect: Connect, large: Path) -> None:
    """A member that comes back after ten thousand messages has the first of them within 100 ms, from the file."""
    _, port = start_server(run, "--history", str(large))
    peer = connect(port)
    begun = time.monotonic()
    peer.send(b"/json %d\n" % (MESSAGES - 10_000))
    assert b"welcome" in peer.line()
    assert b'"id":%d,' % (MESSAGES - 10_000 + 1) in peer.line()
    assert time.monotonic() - begun < 0.1


def quickest(call: Callable[[], object], times: int = 5) -> float:
    """The seconds of the quickest of some calls: what else runs on this machine only makes others slower."""
    took = list[float]()
    for _ in range(times):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return min(took)


def test_a_million_messages_in_memory() -> None:
    """Pages from the middle, and appends beyond the size, take as long as with ten thousand; forgetting, too."""

    def history_of(number: int) -> MemoryHistory:
        history = MemoryHistory(number)
        history.append([Message("ada", "x" * 50, given, 1.0) for given in range(1, number + 1)])
        return history

    def read_pages(history: MemoryHistory) -> None:
        after = history.oldest_id + history.newest_id // 2
        for _ in range(50):
            after = history.read(after, history.newest_id, 8 * 1024)[-1].id or 0

    def append(history: MemoryHistory) -> None:
        for number in range(history.newest_id + 1, history.newest_id + 1001):
            history.append([Message("ada", "x", number, 1.0)])

    def forget(history: MemoryHistory) -> None:
        for _ in range(100):
            history.forget(history.oldest_id)

    small, large = history_of(10_000), history_of(MESSAGES)
    for call in (read_pages, append, forget):
        few, many = quickest(lambda call=call: call(small)), quickest(lambda call=call: call(large))  # type: ignore[misc]
        assert many < 3 * few, (call.__name__, few, many)


def test_a_hundred_thousand_unused_ranges() -> None:
    """A disk that failed so often makes no question about ids slower than one that failed a hundred times."""

    def history_of(ranges: int) -> MemoryHistory:
        history = MemoryHistory(1)
        history.unused = [(number, number) for number in range(2, 2 * ranges + 1, 2)]
        history.newest_id = 2 * ranges
        return history

    def ask(history: MemoryHistory) -> None:
        for number in range(50):
            middle = history.newest_id // 2
            assert history.cursor_before_last(history.newest_id, middle // 2 + number) == middle - 2 * number
            assert history.missing(1, middle + number) == (middle + number + 1) // 2

    small, large = history_of(100), history_of(100_000)
    few, many = quickest(lambda: ask(small)), quickest(lambda: ask(large))
    assert many < 5 * few, (few, many)


def test_a_lone_message(run: Run, connect: Connect, tmp_path: Path) -> None:
    """Through an idle room: at most 5 ms more than without a history."""

    def median(*options: str) -> float:
        _, port = start_server(run, *options)
        ann, bob = connect(port), connect(port)
        took = list[float]()
        for number in range(200):
            begun = time.monotonic()
            ann.send(b"%d\n" % number)
            bob.line()
            took.append(time.monotonic() - begun)
        return statistics.median(took)

    assert median("--history", str(tmp_path / "chat.db")) - median() < 0.005


@needs(sys.platform == "linux", "Linux")
def test_a_flood(run: Run, tmp_path: Path) -> None:
    """At least half as many lines as without a history, medians of three."""

    def lines(*options: str) -> int:
        _, port = start_server(run, *options, "--max-pending-bytes", "1000000000")
        command = [sys.executable, "-m", "tests.helpers.traffic", port, str(SECONDS), "1000000000"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    ratios = [lines("--history", str(tmp_path / f"{number}.db")) / lines() for number in range(3)]
    assert statistics.median(ratios) > 0.5, ratios


# chat-server, but each message that is to be kept waits in a system call, as for a disk that hangs.
HANGING = """
import os
from chatkit.cli.server.main import main
from chatkit.history.sqlite import queries
queries.insert = lambda *_: os.read(0, 1)
main(["--port", "0", "--history", {!r}])
"""


def test_sigterm_while_the_disk_hangs(run: Run, talk: Talk, tmp_path: Path) -> None:
    """chat-server ends within five seconds, in order, and the last line is delivered."""
    server = run(sys.executable, "-c", HANGING.format(str(tmp_path / "chat.db")))
    talker = talk(server.line().rpartition(":")[2])
    talker.peer.send(b"the last words\n")
    assert [server.line().partition(" ")[0], server.line().partition(" ")[0]] == ["New", "New"]
    assert server.line().endswith("the last words")
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    talker.witness.wait_for("message", "the last words")
    talker.close()
    assert server.process.wait(DEADLINE) == 0
    assert time.monotonic() - begun < 5
    _, _, err = server.ends()
    assert err.startswith(f"chat-server: {LOST}it takes longer")
    assert err.count("\n") == 1
