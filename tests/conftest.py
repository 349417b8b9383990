"""Fixtures of all tests. No test sleeps or names a port. Each blocking read has a deadline, met only on failure."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, settings

from chatkit import Limits
from chatkit.client import reconnect
from chatkit.client.backoff import Backoff
from chatkit.room import committer, guesses
from chatkit.tls import server_context
from tests.helpers import aio
from tests.helpers.commands import Running
from tests.helpers.histories import Scripted
from tests.helpers.leaks import open_descriptors
from tests.helpers.login import Guarded
from tests.helpers.marks import needs
from tests.helpers.papers import HOST, Papers
from tests.helpers.peers import DEADLINE
from tests.helpers.reconnecting import Gate
from tests.helpers.servers import Reads, Started
from tests.helpers.witness import Talk, Talker


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-rounds", type=int, default=3, metavar="N", help="how often a test kills a server (3)")
    parser.addoption("--long-attacks", action="store_true", help="attack ten times as long, with every kind of members")


def pytest_configure() -> None:
    """Heed signals that were ignored when pytest started, as the commands that the tests run must; time no examples."""
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    # The machine may be busy with something else.
    settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")


@pytest.fixture
def kill_rounds(request: pytest.FixtureRequest) -> int:
    """How often to kill a server."""
    return int(request.config.getoption("--kill-rounds"))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder, authority = tmp_path_factory.mktemp("papers"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")

    def issue(name: str, host: str = HOST, **options: Any) -> Path:
        authority.issue_cert(host, **options).private_key_and_cert_chain_pem.write_to_path(folder / name)
        return folder / name

    past: dict[str, Any] = {
        "not_before": datetime(2001, 1, 1, tzinfo=UTC),
        "not_after": datetime(2002, 1, 1, tzinfo=UTC),
    }
    other_name, expired = issue("other", "example.org"), issue("expired", **past)
    return Papers(folder / "ca.pem", issue("good"), issue("renewed"), other_name, expired)


@pytest.fixture
def tls() -> bool:
    """Whether `serve`, and its peers, speak TLS; `over_tls` makes a test run with both."""
    return False


@pytest.fixture
def tls_options(tls: bool, certificate: Path) -> list[str]:
    """Return the options of chat-server for `tls`."""
    return ["--tls-cert", str(certificate)] if tls else []


@pytest.fixture
def serve(tls: bool, certificate: Path) -> Iterator[Callable[..., Started]]:
    """serve(limits=..., threads=...) starts a server that is shut down, after its peers are closed, with the test."""
    with ExitStack() as stack:
        context = {"tls": server_context(certificate)} if tls else {}
        yield lambda **options: Started(stack, **context, **options)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """reads.send(peer, b"o", b"ne\\n") sends two pieces that arrive in two reads."""
    return Reads(monkeypatch)


@pytest.fixture
def small_limits() -> Limits:
    """Limits that a test can reach."""
    return Limits(max_line_bytes=64, max_pending_bytes=100_000, max_clients=3, stall_seconds=0.2, drain_seconds=0.3)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:

        def start(*command: str, **options: Any) -> Running:
            running = Running(*command, **options)
            stack.enter_context(running.process)
            stack.callback(running.process.kill)
            return running

        yield start


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """editor(port, "--name", "ada", TERM=...) gives a chat-client on a terminal, without colors, that reads keys."""
    pytest.importorskip("prompt_toolkit", reason="the extra `terminal` is not installed")
    from tests.helpers.terminals import Terminal  # needs pyte

    with ExitStack() as stack:

        def start(port: int | str, *options: str, **env: Any) -> Terminal:
            return Terminal(stack, tmp_path, port, *options, **{"NO_COLOR": "1", **env}).ready()

        yield start


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait before an attempt to come back."""
    monkeypatch.setattr(reconnect, "Backoff", lambda: Backoff(lambda least, most: 0))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """gate.put(0) lets one attempt to come back begin."""
    delays = Gate()
    monkeypatch.setattr(reconnect, "Backoff", lambda: Backoff(lambda least, most: delays.get(timeout=DEADLINE)))
    return delays


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Away for as long as the test runs."""
    monkeypatch.setattr(reconnect, "Backoff", lambda: Backoff(lambda least, most: 3000))


@pytest.fixture
def talk() -> Iterator[Talk]:
    """talk(port) makes a talker that is gone at the end of the test."""
    with ExitStack() as stack:

        def start(port: int | str) -> Talker:
            talker = Talker(port)
            stack.callback(talker.close)
            return talker

        yield start


@pytest.fixture(scope="session")
def uvloop_loaded() -> None:
    """Have uvloop open its pipe for signals, which it keeps as long as the process lives."""
    if find_spec("uvloop"):
        import_module("uvloop").new_event_loop().close()


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=needs(find_spec("uvloop"), "uvloop"))])
def each_loop(request: pytest.FixtureRequest, uvloop_loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tests in the event loop of asyncio, and in that of uvloop."""
    monkeypatch.setattr(aio, "new_event_loop", import_module(request.param).new_event_loop)


@pytest.fixture
def guarded(serve: Callable[..., Started], monkeypatch: pytest.MonkeyPatch) -> Guarded:
    """Start a room with a password: guarded(wait=..., handler=..., threads=..., LIMIT=...).

    A wrong password costs at most `wait` seconds.
    """

    def start(wait: float = 0.0, threads: int = 1, **options: Any) -> Started:
        monkeypatch.setattr(guesses, "MAX_WAIT_SECONDS", wait)
        handler = {"handler": options.pop("handler")} if "handler" in options else {}
        return serve(password="sesame", threads=threads, limits=Limits(**options), **handler)

    return start


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    monkeypatch.setattr(committer, "RETRY_SECONDS", 0.01)
    store = Scripted()
    yield store
    store.gate.set()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread and no socket outlives a test."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield
    assert set(threading.enumerate()) <= threads
    if open_descriptors() - descriptors:
        gc.collect()
    assert open_descriptors() <= descriptors


@pytest.fixture(autouse=True)
def tiny_switch_interval(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests marked `stress` run with a thread switch at almost every step: races show there, or never."""
    if not request.node.get_closest_marker("stress"):
        yield
        return
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
