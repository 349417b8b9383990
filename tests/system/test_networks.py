"""The real commands and programs on two hosts with a cable between them."""

from __future__ import annotations

from ast import literal_eval

import pytest

from tests.helpers.commands import CONNECTED, Run
from tests.helpers.networks import LINK_LOCAL, needs_networks, two_hosts

pytestmark = [pytest.mark.slow, needs_networks]

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
