"""Writes to a peer that is gone: an error, and never SIGPIPE, which ends a program that left it at its default."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from chatkit import AsyncClient, Client, ConnectionClosed
from chatkit.net.tls_transport import TlsTransport
from chatkit.net.transport import PlainTransport
from chatkit.server.acceptor import turn_away
from chatkit.server.connection import Connection, ConnectionState
from chatkit.tls import server_context
from tests.helpers.aio import in_loop
from tests.helpers.inside import connection_under, socket_of, transport_of
from tests.helpers.marks import over_tls
from tests.helpers.papers import Papers
from tests.helpers.peers import trusting
from tests.helpers.servers import Serve, a_share
from tests.helpers.transports import shaken, sockets

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="this system has no SIGPIPE")


@pytest.fixture(autouse=True)
def signals() -> Iterator[list[int]]:
    """The signals that came; none may come."""
    came = list[int]()
    before = signal.signal(signal.SIGPIPE, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGPIPE, before)
    assert came == []


WRITES: dict[str, Callable[[Connection], object]] = {
    "shared": lambda connection: connection.write(b"x"),
    "pieces": lambda connection: connection.write_pieces([b"x", memoryview(b"y")]),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("pending", [False, True], ids=["at once", "pending"])
def test_a_servers_writes(papers: Papers, tls: bool, pending: bool, write: str) -> None:
    """They break the connection."""
    with sockets(send_buffer=4096) as (near, far):
        transport = shaken(papers, far, near)[1] if tls else PlainTransport.of(near)
        connection = Connection(transport, a_share())
        if pending:
            connection.write(bytes(1_000_000))
        near.shutdown(socket.SHUT_WR) if tls else transport.shutdown(socket.SHUT_WR)
        WRITES[write](connection)
        connection.flush()
        assert connection.state is ConnectionState.BROKEN
        transport.close()


def test_refusals(papers: Papers) -> None:
    """The reason of a refusal, and the answer to a peer that doesn't speak TLS, or says nothing."""
    with sockets() as (near, far):
        near.shutdown(socket.SHUT_WR)
        turn_away(near, "the room is full")
        far.close()
    for data in (b"plain\n", b""):
        with sockets() as (near, far):
            near.shutdown(socket.SHUT_WR)
            transport = TlsTransport(near, server_context(papers.good))
            far.send(data)
            with pytest.raises(BrokenPipeError):
                transport.recv(100) if data else transport.shutdown(socket.SHUT_WR)


@over_tls
@pytest.mark.parametrize("reconnect", [False, True])
def test_a_clients_writes(serve: Serve, tls: bool, reconnect: bool) -> None:
    """They raise, or wait for the return."""
    started = serve()
    context = trusting() if tls else False
    with Client(port=started.port, tls=context, reconnect=reconnect, queue=int(reconnect)) as client:
        connection = connection_under(client)
        socket_of(connection).shutdown(socket.SHUT_WR)
        connection.write_nowait(b"x\n")
        with ExitStack() if reconnect else pytest.raises(ConnectionClosed):
            client.send("x")


@over_tls
def test_an_asyncio_clients_writes(serve: Serve, tls: bool) -> None:
    """They end the conversation."""
    started = serve()

    @in_loop
    async def check() -> None:
        async with AsyncClient(port=started.port, tls=trusting() if tls else False) as client:
            transport_of(client).get_extra_info("socket").shutdown(socket.SHUT_WR)
            await client.send("x")
            with pytest.raises(ConnectionClosed):
                await client.receive()

    check()
