"""How long members wait for a line while others are slow, or flood the room."""

from __future__ import annotations

import os
import signal
import ssl
import statistics
import subprocess
import threading
import time

import pytest

from chatkit import Limits
from tests.helpers.commands import Run, start_server, traffic
from tests.helpers.marks import over_tls
from tests.helpers.peers import Peer, token_seconds
from tests.helpers.servers import Serve

pytestmark = pytest.mark.timed


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def tokens_while(process: subprocess.Popen[bytes], talker: Peer, reader: Peer) -> list[float]:
    """The times of tokens from one to the other, one after the other, until `process` ends."""
    seconds = []
    while process.poll() is None:
        seconds.append(token_seconds(talker, reader))
    return seconds


@over_tls
def test_a_member_that_never_reads_delays_nobody(run: Run, tls: bool, tls_options: list[str]) -> None:
    """While 20 MB flow past it, the others get all of it in order, their p99 at most 10 ms above idle."""
    server, port = start_server(run, "--max-pending-bytes", "1000000", "--drain-seconds", "0.2", *tls_options)
    talker, reader = Peer(int(port), tls=tls), Peer(int(port), tls=tls)
    deaf = Peer(int(port), receive_buffer=4096, tls=tls)
    idle = p99([token_seconds(talker, reader) for _ in range(500)])
    flow = traffic(run, port, 60, 20_000_000, tls)
    busy = p99(tokens_while(flow.process, talker, reader))
    assert flow.ends() == (0, "312512\n", "")
    assert busy < idle + 0.010
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        deaf.rest()
    server.process.send_signal(signal.SIGTERM)
    for peer in (talker, reader, deaf):
        peer.close()
    _, _, err = server.ends()
    assert [line for line in err.splitlines() if "undelivered" in line] == [
        line for line in err.splitlines() if line.endswith("lines undelivered: more than 1000000 bytes were waiting")
    ]
    assert err.count("undelivered") == 1


@over_tls
def test_a_flood_delays_nobody_much(run: Run, tls: bool, tls_options: list[str]) -> None:
    """One member that says as much as it can: another pair's p99 stays under 100 ms, no line is lost or reordered."""
    _, port = start_server(run, *tls_options)
    talker, reader = Peer(int(port), tls=tls), Peer(int(port), tls=tls)
    flow = traffic(run, port, float(os.environ.get("CHATKIT_FLOOD_SECONDS", "2")), 1 << 40, tls)
    busy = p99(tokens_while(flow.process, talker, reader))
    status, out, err = flow.ends()
    assert (status, err) == (0, "")
    assert int(out) > 10_000
    assert busy < 0.100
    talker.close()
    reader.close()


@over_tls
def test_a_reader_at_a_slow_but_steady_pace_stays(serve: Serve) -> None:
    """Any byte in `stall_seconds` is progress, also where the kernel calls a socket writable only now and then."""
    started = serve(limits=Limits(stall_seconds=1.5, max_pending_bytes=20_000_000))
    talker, reader = started.peers(2)
    slow = started.peer(receive_buffer=4096)

    def say() -> None:
        for _ in range(100):
            talker.send((b"x" * 999 + b"\n") * 60)
            reader.lines(60)

    saying = threading.Thread(target=say)
    saying.start()
    begun, read = time.monotonic(), 0
    while saying.is_alive() or time.monotonic() - begun < 4:
        if read < (time.monotonic() - begun) * 140_000:  # the kernel frees 64 KiB at a time
            read += len(slow.sock.recv(2000))
    saying.join()
    assert started.server.stats.slow_consumers == 0
