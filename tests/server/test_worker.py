"""A worker whose turn took long, or whose process was stopped: it reads before it judges who is late."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from chatkit import Limits, Server
from chatkit.net.tls_transport import TlsTransport
from chatkit.tls import client_context, server_context
from tests.helpers.commands import Run, start_server
from tests.helpers.inside import workers_of
from tests.helpers.login import ASKED, IN, RIGHT, Guarded
from tests.helpers.marks import over_tls
from tests.helpers.papers import HOST, Papers
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.servers import Reads, Serve


@contextmanager
def held_up(server: Server, seconds: float) -> Iterator[None]:
    """Hold up the worker's turn until so much time has passed after the block."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert free.wait(DEADLINE)

    workers_of(server)[0].post(hold)
    assert held.wait(DEADLINE)
    yield
    pass_time(seconds)
    free.set()


def pass_time(seconds: float) -> None:
    """Return when a deadline of the server is over: that takes time, whatever happens meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@over_tls
@pytest.mark.parametrize("size", [1, 40_000], ids=["short", "longer than a read"])
def test_a_line_that_ended_in_time_counts(serve: Serve, reads: Reads, size: int) -> None:
    """Its end lay in the socket while the worker was busy, so it isn't late; a line without an end is."""
    started = serve(limits=Limits(line_seconds=0.2, max_line_bytes=100_000))
    ended, endless = started.peers(2)
    reads.send(ended, b"x")
    reads.send(endless, b"y")
    with held_up(started.server, 0.3):
        ended.send(b"x" * size + b"\n")
    happened = {started.events.happened.get(timeout=DEADLINE) for _ in range(4)}
    assert happened - {("join", ended.name), ("join", endless.name)} == {
        ("message", f"{ended.name}: {'x' * (size + 1)}"),
        ("leave", "endless line"),
    }


def test_a_password_that_came_in_time_counts(guarded: Guarded) -> None:
    """It lay in the socket while the worker was busy."""
    started = guarded(login_seconds=0.2)
    peer = started.peer()
    assert peer.line() == ASKED
    with held_up(started.server, 0.3):
        peer.send(RIGHT)
    assert peer.line() == IN


def test_a_handshake_that_came_in_time_counts(serve: Serve, papers: Papers) -> None:
    """Its last bytes lay in the socket while the worker was busy."""
    started = serve(tls=server_context(papers.good), limits=Limits(tls_handshake_seconds=0.3))
    with socket.create_connection(started.server.address, DEADLINE) as sock:
        client = TlsTransport(sock, client_context(ca=papers.ca), HOST)
        assert select.select([sock], [], [], DEADLINE)[0]
        with held_up(started.server, 0.4):
            while not client.is_ready:
                with suppress(BlockingIOError):
                    client.recv(65536)
        assert started.events.wait_for("join") == str(sock.getsockname()[1])


def test_a_process_that_was_stopped_reads_first(run: Run) -> None:
    """The kernel ends its wait without a look at the sockets."""
    server, port = start_server(run, "--line-seconds", "0.3")
    with closing(Peer(int(port))) as talker, closing(Peer(int(port))) as reader:
        talker.send(b"one\ntw")
        assert reader.line() == f"{talker.name}: one".encode()
        server.suspend()
        talker.send(b"o\n")
        pass_time(0.5)
        server.process.send_signal(signal.SIGCONT)
        assert reader.line() == f"{talker.name}: two".encode()
