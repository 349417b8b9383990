"""A start that fails at any of its steps gives back everything that it took, and tells the reason as it is."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chatkit import HistoryError, Limits, Server
from chatkit.history.sqlite.store import SqliteHistory
from tests.helpers.failing import Steps, failure_of
from tests.helpers.leaks import open_descriptors
from tests.helpers.peers import Peer

with_history = pytest.mark.parametrize("history", [False, True], ids=["memory", "history"])


@contextmanager
def given_back(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Assert that nothing is left of what is done inside of `with`: no thread, descriptor, nor line in the log."""
    threads, descriptors = set(threading.enumerate()), open_descriptors(everything=True)
    yield
    assert set(threading.enumerate()) == threads
    assert open_descriptors(everything=True) == descriptors
    assert not caplog.records


def check_history(path: Path) -> None:
    """Assert that nothing in this process holds the history."""
    history = SqliteHistory(path)
    history.open()
    history.close()


def make(path: Path, history: bool, **options: Any) -> Server:
    return Server(port=0, limits=Limits(max_clients=1), history=path if history else None, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder in memory, where there is one: hundreds of histories on a disk take half a minute."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as name:
        yield Path(name)


@with_history
def test_every_step_may_fail(folder: Path, caplog: pytest.LogCaptureFixture, history: bool) -> None:
    """Each call that `start` makes fails once, for lack of memory. Then the server is over, and `shutdown` harmless."""
    for number in range(1, 10_000):
        path, steps = folder / f"{number}.db", Steps(number, MemoryError("of the test"))
        server = make(path, history, threads=2)
        with given_back(caplog):
            with steps.counted():
                failure = failure_of(server.start)
            server.shutdown()
        if not steps.has_failed:
            break
        assert failure in (steps.error, None), steps.last
        with pytest.raises(RuntimeError, match="starts once"):
            server.start()
        if history:
            check_history(path)
    assert number > (150 if history else 50)


@with_history
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_a_thread_that_cannot_be_started(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    history: bool,
    number: int,
) -> None:
    """The threads before it end. The error is that of the thread, and nobody can connect any more."""
    begun, start = list[str](), threading.Thread.start

    def start_or_fail(thread: threading.Thread) -> None:
        if thread.name.startswith("chatkit") and thread.name != "chatkit-end":
            begun.append(thread.name)
            if len(begun) == number:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    server = make(tmp_path / "chat.db", history, threads=2 if history else 5)
    with given_back(caplog):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            server.start()
        with pytest.raises(ConnectionRefusedError):
            Peer(server.port)
        server.shutdown()
    assert len(begun) == number
    if history:
        check_history(tmp_path / "chat.db")


@contextmanager
def spare_descriptors(number: int) -> Iterator[None]:
    """Let this process open so many more files inside of `with`."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        lowest = probe.fileno()
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [each for each in range(lowest, soft) if each not in used or each == lowest]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[number], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@with_history
def test_every_number_of_descriptors(tmp_path: Path, caplog: pytest.LogCaptureFixture, history: bool) -> None:
    """With too few the reason is told as it is, whatever needed them; from some number on it starts."""
    for number in range(40):
        path = tmp_path / f"{number}.db"
        server = make(path, history, threads=2)
        with given_back(caplog):
            with spare_descriptors(number):
                failure = failure_of(server.start)
            server.shutdown()
        if history:
            check_history(path)
        if not failure:
            break
        assert isinstance(failure, OSError | HistoryError)
        assert os.strerror(errno.EMFILE) in str(failure)
    assert 8 < number < 40
