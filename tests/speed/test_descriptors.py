"""A server without descriptors: its answers, and their cost."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

import pytest

from chatkit.net.descriptors import RESERVED
from tests.helpers.commands import Run, limited_server
from tests.helpers.peers import DEADLINE, Peer, assert_healthy
from tests.helpers.processes import cpu_seconds, linux

pytestmark = pytest.mark.timed


@linux
def test_out_of_descriptors(run: Run) -> None:
    """Members stay healthy, waiting peers are told, the log is short, the CPU idle, and service resumes at once."""
    server, port = limited_server(run, 60)
    talker, reader = Peer(port), Peer(port)
    crowd = [Peer(port) for _ in range(100)]
    assert_healthy(talker, reader)
    begun = time.monotonic()
    answers = [peer.rest() for peer in crowd[-30:]]
    assert time.monotonic() - begun < 1  # nobody waits
    full, none_left = b"*** the room is full\n", b"*** the server has no descriptor left for you\n"
    assert set(answers) <= {full, none_left}
    before, begun = cpu_seconds(server.process.pid), time.monotonic()
    while time.monotonic() - begun < 1:
        assert_healthy(talker, reader)
        reader.sock.settimeout(0.1)
        with suppress(TimeoutError):
            reader.sock.recv(1)
        reader.sock.settimeout(DEADLINE)
    assert cpu_seconds(server.process.pid) - before < 0.05 * 1.5
    for peer in crowd:
        peer.close()
    begun = time.monotonic()
    while True:
        newcomer = Peer(port)
        talker.send(b"back?\n")
        with suppress(OSError, AssertionError):
            if newcomer.line().endswith(b"back?"):
                break
        newcomer.close()
    assert time.monotonic() - begun < 1
    for peer in (talker, reader, newcomer):
        peer.close()
    server.process.send_signal(signal.SIGTERM)
    _, _, err = server.ends()
    assert len(err.splitlines()) <= 3
    assert (
        f"max_clients is {60 - RESERVED - 60 // 8}, not 10000: raise the descriptor limit (ulimit -n) for more" in err
    )
