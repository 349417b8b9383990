"""Whether a peer's kernel answers, by what Linux tells of the connection."""

from __future__ import annotations

import errno
import math
import socket
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit.net import acknowledgements
from chatkit.net.acknowledgements import AckWatch, unanswered_since
from tests.helpers.marks import needs
from tests.helpers.transports import ScriptedSocket, tcp_info

NOW = 1000.0
SINCE = NOW - 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of a watch, set by hand."""
    hands = SimpleNamespace(now=NOW)
    monkeypatch.setattr(acknowledgements, "time", SimpleNamespace(monotonic=lambda: hands.now))
    monkeypatch.setattr(acknowledgements, "HAS_TCP_INFO", True)
    return hands


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, None),
        ({"silent_ms": 10_000}, None),
        ({"unacked": 1, "silent_ms": 10_000}, NOW),  # on its way
        ({"unacked": 1, "silent_ms": 10_100, "retransmits": 1}, SINCE),
        ({"unacked": 1, "silent_ms": 9_900, "retransmits": 1}, NOW),  # something was acknowledged after it
        ({"unsent": 1, "silent_ms": 60_000}, NOW),  # a window of zero, between two probes that are answered
        ({"unsent": 1, "silent_ms": 60_000, "probes": 1}, NOW),  # the same, a probe was sent just now
        ({"unsent": 1, "silent_ms": 60_000, "probes": 2}, SINCE),
    ],
)
def test_what_the_kernel_tells(info: dict[str, int], expected: float | None) -> None:
    """Only unanswered probes and retransmissions count, as long as nothing is acknowledged meanwhile."""
    sock = ScriptedSocket()
    sock.tcp_info = tcp_info(**info)
    assert unanswered_since(sock, SINCE, NOW) == expected


@pytest.mark.parametrize("answer", [b"", b"\0" * 100, OSError(errno.EBADF, "closed")])
def test_a_kernel_that_tells_nothing(answer: bytes | OSError) -> None:
    """Closed meanwhile, no TCP, or an old Linux: nothing to look at."""

    class Mute:
        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            if isinstance(answer, OSError):
                raise answer
            return answer

    assert unanswered_since(Mute(), SINCE, NOW) is None


@needs(acknowledgements.HAS_TCP_INFO, "Linux")
def test_this_kernel_tells_it() -> None:
    """Of a peer that reads: everything is acknowledged; of one that doesn't: it has answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as near:
        far = listener.accept()[0]
        near.setblocking(False)
        near.send(b"x")
        assert far.recv(1) == b"x"
        assert unanswered_since(near, SINCE, NOW) is None
        with suppress(BlockingIOError):
            while near.send(bytes(1 << 20)):
                pass
        assert unanswered_since(near, SINCE, NOW) == NOW
        far.close()


def test_a_send_sets_the_time_of_one_look(clock: SimpleNamespace) -> None:
    """Later sends don't put it off; a look that finds everything acknowledged is the last one until the next send."""
    sock = ScriptedSocket()
    watch = AckWatch(sock, 30)
    assert watch.look_at == math.inf
    watch.sent()
    clock.now += 9
    watch.sent()
    assert watch.look_at == NOW + 10
    assert not watch.is_gone()
    clock.now += 1
    sock.tcp_info = tcp_info(unacked=1)
    assert not watch.is_gone()
    assert watch.look_at == NOW + 20
    clock.now += 10
    sock.tcp_info = tcp_info()
    assert not watch.is_gone()
    assert watch.look_at == math.inf


def test_a_server_is_gone_after_its_time(clock: SimpleNamespace) -> None:
    """Since the first send that it didn't acknowledge, though nobody looked meanwhile; an answer counts anew."""
    sock = ScriptedSocket()
    watch = AckWatch(sock, 30)
    watch.sent()
    sock.tcp_info = tcp_info(unacked=1, retransmits=3, silent_ms=29_000)
    clock.now += 29
    assert not watch.is_gone()
    clock.now += 30
    sock.tcp_info = tcp_info(unacked=1, retransmits=3, silent_ms=20_000)
    assert not watch.is_gone()
    sock.tcp_info = tcp_info(unacked=1, retransmits=9, silent_ms=90_000)
    clock.now += 29
    assert not watch.is_gone()
    clock.now += 30
    assert watch.is_gone()


def test_a_send_during_a_look_is_looked_at(clock: SimpleNamespace) -> None:
    """The look may have been too early for it."""

    class SentMeanwhile(ScriptedSocket):
        def getsockopt(self, *arguments: Any) -> bytes:
            watch.sent()
            return tcp_info()

    watch = AckWatch(SentMeanwhile(), 30)
    watch.sent()
    clock.now += 10
    assert not watch.is_gone()
    assert watch.look_at == clock.now + 10


def test_where_the_kernel_tells_nothing_it_gives_up_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is set."""
    monkeypatch.setattr(acknowledgements, "HAS_TCP_INFO", False)
    watch = AckWatch(ScriptedSocket(), 30)
    watch.sent()
    assert watch.look_at == watch.interval == math.inf
