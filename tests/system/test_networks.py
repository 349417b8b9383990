"""The real commands and programs on two hosts with a cable between them, which may be pulled."""

from __future__ import annotations

from ast import literal_eval

import pytest

from tests.helpers.commands import CONNECTED, Run
from tests.helpers.networks import ADDRESS, LINK_LOCAL, needs_networks, two_hosts

pytestmark = needs_networks

JOIN_ITSELF = f"""
import asyncio
from chatkit import AsyncClient, Client, Server

async def join(address):
    async with AsyncClient(*address) as client:
        return client.address[0]

with Server({LINK_LOCAL!r}, 0) as server:
    with Client(*server.address, name="ann") as client:
        hosts = [server.address[0], client.address[0], server.members[0].address[0]]
    print([*hosts, asyncio.run(join(server.address))])
"""


@pytest.mark.slow
def test_a_link_local_address(run: Run) -> None:
    """It can be typed as it is printed, with the interface: by the commands and by programs."""
    with two_hosts() as (here, there):
        server = here.run(run, "chat-server", "--host", LINK_LOCAL, "--port", "0")
        host, _, port = server.line().removeprefix("Server listening on ").rpartition(":")
        assert host == f"[{LINK_LOCAL}]"
        client = there.run(run, "chat-client", "--host", host, "--port", port)
        assert client.line() == CONNECTED
        assert server.line().startswith("New connection from ('fe80::2%cable', ")
        member = here.python(run, JOIN_ITSELF)
        assert literal_eval(member.line()) == [LINK_LOCAL] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("habit", "before", "after"),
    [("reads", 1, 1), ("reads", 1, 2000), ("reads nothing", 2000, 1)],
    ids=["little pending", "much pending", "a window of zero"],
)
def test_a_server_loses_a_member_that_the_network_cannot_reach(run: Run, habit: str, before: int, after: int) -> None:
    """Within `unacknowledged_seconds` and two thirds of that, and the kernel's own delay; not before it."""
    with two_hosts() as (here, there):
        room = here.helper(run, "far", "room")
        port = room.line()
        assert room.line() == f"join {ADDRESS}"
        there.helper(run, "far", "member", port, habit)
        assert room.line() == "join 10.123.4.2"
        room.type(str(before))
        assert room.line() == "said"
        there.set_cable("down")
        room.type(str(after))
        assert room.line() == "said"
        left, _, seconds = room.line().rpartition(" ")
        assert left == "leave 10.123.4.2 connection reset"
        assert 0.5 < float(seconds) < 8


LOSES = {
    "answer": "ConnectionClosed",
    "answer, reconnect": "Disconnected",
    "send now and then": "ConnectionClosed",
    "send now and then, reconnect": "NotConnected",
    "send much": "ConnectionClosed",
    "send while another thread receives": "ConnectionClosed",
    "asyncio": "ConnectionClosed",
    "asyncio, reconnect": "Disconnected",
}


@pytest.mark.once
@pytest.mark.parametrize("call", LOSES)
def test_a_client_loses_a_server_that_the_network_cannot_reach(run: Run, call: str) -> None:
    """In the same time, in whatever call it is."""
    with two_hosts() as (here, there):
        server = here.run(run, "chat-server", "--host", ADDRESS, "--port", "0")
        port = server.line().rpartition(":")[2]
        client = there.helper(run, "far", "client", port, call)
        assert client.line() == "connected"
        here.set_cable("down")
        client.type("")
        kind, seconds, result = client.line().split(" ", 2)
        assert kind == LOSES[call]
        assert "timed out" in result or kind == "NotConnected"
        assert 0.5 < float(seconds) < 8
