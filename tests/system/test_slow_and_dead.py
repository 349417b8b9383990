"""Slow peers, dead ones and floods: the others get everything in time, and memory stays bounded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from chatkit import AsyncClient, Client, Limits
from tests.helpers.commands import Run, start_server, traffic
from tests.helpers.inside import throttled_lines
from tests.helpers.marks import over_tls
from tests.helpers.networks import ADDRESS, needs_networks, two_hosts
from tests.helpers.peers import DEADLINE, Peer, assert_healthy
from tests.helpers.processes import resident_kib
from tests.helpers.servers import Serve

pytestmark = pytest.mark.slow


@over_tls
@pytest.mark.skipif(not Path("/proc").exists(), reason="this system has no /proc")
def test_fifty_slow_members_cost_as_much_as_one(run: Run, tls: bool, tls_options: list[str]) -> None:
    """Pending bytes are shared: memory grows by about one member's, not by fifty times that."""
    grown = []
    for deaf_members in (1, 50):
        server, port = start_server(run, "--max-pending-bytes", "50000000", *tls_options)
        peers = [Peer(int(port), receive_buffer=4096, tls=tls) for _ in range(deaf_members)]
        before = resident_kib(server.process.pid)
        flow = traffic(run, port, 60, 20_000_000, tls)
        assert flow.ends()[0] == 0
        grown.append(resident_kib(server.process.pid) - before)
        server.process.kill()
        for peer in peers:
            peer.close()
    assert grown[1] < grown[0] + 16_384


@pytest.mark.skipif(not Path("/proc").exists(), reason="this system has no /proc")
def test_a_replay_is_shared(run: Run) -> None:
    """300 members that ask for 1000 long lines and don't read them cost little more memory than one."""
    server, port = start_server(run, "--drain-seconds", "0.1")
    talker, reader = Peer(int(port)), Peer(int(port))
    for number in range(1000):
        talker.send(b"%08d" % number + b"x" * 8000 + b"\n")
        reader.line()
    askers = [Peer(int(port), receive_buffer=4096) for _ in range(300)]
    grown = []
    for asking in (askers[:1], askers[1:]):
        before = resident_kib(server.process.pid)
        for asker in asking:
            asker.send(b"/json 0\n")
            assert asker.line().startswith(b'{"type":"welcome"')
        grown.append(resident_kib(server.process.pid) - before)
    assert sum(grown) < 100_000
    for peer in (talker, reader, *askers):
        peer.reset()


@pytest.mark.skipif(not Path("/proc").exists(), reason="this system has no /proc")
def test_an_idle_member_in_tls_takes_little(run: Run, certificate: Path) -> None:
    """At most 60 KiB, which are OpenSSL's own."""
    server, port = start_server(run, "--tls-cert", str(certificate))
    peers, resident = list[Peer](), list[int]()
    for number in (50, 300):
        for _ in range(number):
            peers.append(Peer(int(port), tls=True))
            assert server.line().startswith("New connection")
        resident.append(resident_kib(server.process.pid))
    for peer in peers:
        peer.close()
    assert (resident[1] - resident[0]) / 300 < 60


def test_five_hundred_peers_that_drip(serve: Serve) -> None:
    """Peers that drip bytes without a line end are each cut off in time, and the room stays healthy throughout."""
    started = serve(limits=Limits(line_seconds=1.0, drain_seconds=0.1))
    talker, reader = started.peers(2)
    drips = started.peers(500)
    begun, ended = time.monotonic(), 0
    while ended < len(drips):
        assert time.monotonic() - begun < 1 + DEADLINE
        for number in range(ended, len(drips)):
            try:
                drips[number].send(b"x")
            except OSError:
                ended += 1
        assert_healthy(talker, reader)
    assert all(started.events.wait_for("leave") == "endless line" for _ in drips)
    assert time.monotonic() - begun < 5


def test_leaving_while_behind_loses_nothing(serve: Serve) -> None:
    """A member that has left but reads on gets its pending lines, however long it takes while it reads."""
    started = serve(limits=Limits(drain_seconds=0.3, max_pending_bytes=20_000_000))
    talker, reader = started.peers(2)
    leaver = started.peer(receive_buffer=4096)
    for number in range(12_000):
        talker.send(b"%05d" % number + b"x" * 994 + b"\n")
        reader.line()
    leaver.send(b"exit\n")
    assert started.events.wait_for("leave") == "exit"
    begun, lines = time.monotonic(), 0
    while lines < 12_000:
        assert leaver.line().startswith(f"{talker.name}: {lines:05}".encode())
        lines += 1
        while time.monotonic() - begun < lines / 6000:  # two seconds in all
            pass
    assert leaver.rest() == b""


def test_a_rate_is_kept_by_not_reading(serve: Serve) -> None:
    """`messages_per_second` loses nothing: a paste arrives whole and in order, at the rate, its end after it."""
    started = serve(limits=Limits(messages_per_second=1000))
    paster, reader, other = started.peers(3)
    begun = time.monotonic()
    paster.send(b"".join(b"%d\n" % number for number in range(2500)) + b"exit\n")
    lines = [reader.line() for _ in range(1000)]
    assert_healthy(other, started.peer())  # nobody else waits
    lines += [line for line in reader.lines(1501) if line.startswith(paster.name.encode())]
    took = time.monotonic() - begun
    assert [line.partition(b": ")[2] for line in lines] == [b"%d" % number for number in range(2500)]
    assert 1.3 < took < 3
    assert paster.rest().count(b"\n") == 1
    slow = started.peer()
    slow.send(b"".join(b"%d\n" % number for number in range(5000)) + b"half")
    slow.send_eof()
    reader.lines(100)
    started.server.shutdown()  # what the rate holds back has arrived: it is delivered
    assert reader.rest().endswith(f"{slow.name}: 4999\n{slow.name}: half\n".encode())


def test_a_rate_cuts_nobody_off(serve: Serve) -> None:
    """While a member's lines are held back, a line that has begun isn't late: the server reads no more of it."""
    started = serve(limits=Limits(messages_per_second=20, line_seconds=0.3))
    paster, reader = started.peers(2)
    paster.send(b"".join(b"%d\n" % number for number in range(40)) + b"half")
    lines = reader.lines(40)
    paster.send(b" and half\n")
    assert reader.line() == f"{paster.name}: half and half".encode()
    assert [line.partition(b": ")[2] for line in lines] == [b"%d" % number for number in range(40)]
    paster.send(b"half")
    assert started.events.wait_for("leave") == "endless line"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("reconnect", [False, True])
def test_a_rate_loses_no_client(serve: Serve, kind: type[Client | AsyncClient], reconnect: bool) -> None:
    """For much longer than its `unacknowledged_seconds` the server, which is alive, takes nothing from its socket."""
    started = serve(limits=Limits(messages_per_second=40))
    reader = started.peer()
    options: dict[str, Any] = {"reconnect": reconnect, "unacknowledged_seconds": 0.1}
    lines = [f"{number:03}{'x' * 4000}" for number in range(100)]

    async def paste() -> None:
        async with AsyncClient(port=started.port, **options) as client:
            for line in lines:
                await client.send(line)
            await client.close(DEADLINE)

    if kind is AsyncClient:
        asyncio.run(paste())
    else:
        with Client(port=started.port, **options) as client:
            for line in lines:
                client.send(line)
            client.close(DEADLINE)
    assert [line.partition(b": ")[2].decode() for line in reader.lines(100)] == lines


def test_a_rate_holds_back_few_lines(serve: Serve) -> None:
    """The kernel keeps what may not pass yet: a member that pasted a lot and left is gone soon after its turn."""
    started = serve(limits=Limits(messages_per_second=2000))
    paster, reader = started.peers(2)
    paster.send(b"x\n" * 20_000)
    reader.lines(100)
    assert throttled_lines(started.server, paster.name) <= 512


def test_clients_per_address(serve: Serve) -> None:
    """One address can't take every place; a place it gives back is its own again."""
    started = serve(limits=Limits(clients_per_address=2))
    first, _ = started.peers(2)
    assert started.peer().rest() == b"*** too many members from your address\n"
    assert started.server.stats.refused == {"address": 1}
    first.send(b"exit\n")
    first.rest()
    newcomer = started.peer()
    started.server.broadcast("welcome")
    assert newcomer.line() == b"*** welcome"


TALK = f"import socket, sys; s = socket.create_connection(({ADDRESS!r}, int(sys.argv[1]))); s.sendall({{}}); s.recv(1)"


@needs_networks
@pytest.mark.parametrize("talking", [False, True])
def test_a_peer_whose_cable_is_pulled(run: Run, talking: bool) -> None:
    """It is noticed: by the kernel's probes when all is silent, by unacknowledged bytes when there is traffic."""
    bounds = ["--silent-seconds", "2" if not talking else "60", "--unacknowledged-seconds", "2"]
    with two_hosts() as (here, there):
        server = here.run(run, "chat-server", "--host", ADDRESS, "--port", "0", *bounds)
        port = server.line().rpartition(":")[2]
        there.python(run, TALK.format(b"hello\n"), port)
        joined = server.line()
        assert server.line().endswith(": hello")
        there.set_cable("down")
        begun = time.monotonic()
        if talking:
            here.python(run, TALK.format(b"anybody there?\n"), port)
            server.line()
            assert server.line().endswith("anybody there?")
        assert server.line() == joined.replace("New connection", "Connection") + " closed."
        assert time.monotonic() - begun < 8
