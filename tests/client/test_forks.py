"""Forked children of a client's process: they leave the parent's conversation alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from chatkit import AsyncClient, Client, ConnectionClosed, Disconnected, Reconnected
from tests.helpers.aio import in_loop
from tests.helpers.forking import forks, in_child
from tests.helpers.inside import is_receiving
from tests.helpers.marks import over_tls
from tests.helpers.peers import DEADLINE, trusting
from tests.helpers.reconnecting import Gate, member, next_of
from tests.helpers.servers import Serve, Started

pytestmark = forks


def client_of(started: Started, **options: Any) -> Client:
    return Client(port=started.port, name="ann", tls=trusting() if started.tls else False, **options)


@over_tls
@pytest.mark.parametrize("reconnect", [False, True])
def test_a_child_that_closes_a_client(serve: Serve, reconnect: bool) -> None:
    """At once, though a thread of the parent holds a lock; it takes no event, and the parent's client goes on."""
    started = serve()
    bob = started.peer()

    def close() -> str:
        ann.close()
        with pytest.raises(ConnectionClosed, match="this client is closed"):
            ann.send("from the child")
        with pytest.raises(ConnectionClosed, match="this client is closed"):
            ann.receive(0)
        return "closed"

    with client_of(started, reconnect=reconnect) as ann:
        received = list[str]()
        receiver = threading.Thread(target=lambda: received.extend(event.text for event in ann))
        receiver.start()
        while not is_receiving(ann):
            pass
        assert in_child(close) == "closed"
        ann.send("still here?")
        assert bob.line() == b"ann: still here?"
        bob.send(b"yes\nexit\n")
        assert started.events.wait_for("leave") == "exit"
        ann.send("exit")
        receiver.join(DEADLINE)
        assert "yes" in received


def test_a_child_that_closes_a_client_during_an_absence(serve: Serve, gate: Gate) -> None:
    """The parent's thread isn't in the child, and the parent's client comes back."""
    with member(serve()) as (bob, proxy):
        proxy.link_of(bob).reset()
        next_of(bob, Disconnected)
        assert in_child(bob.close) == "None"
        gate.put(0)
        assert next_of(bob, Reconnected).name == "bob"


def test_a_child_closes_what_it_made(serve: Serve) -> None:
    """Its own client's last line is received, as ever."""
    started = serve()
    bob = started.peer()

    def talk() -> None:
        with client_of(started) as ann:
            ann.send("from the child")

    assert in_child(talk) == "None"
    assert bob.line() == b"ann: from the child"
    assert started.events.wait_for("leave") == "end of stream"


@over_tls
def test_a_child_that_closes_an_asyncio_client(serve: Serve, tls: bool) -> None:
    """The parent's conversation goes on."""

    @in_loop
    async def check() -> None:
        async with AsyncClient(port=started.port, name="ann", tls=trusting() if tls else False) as ann:

            def close() -> str:
                try:
                    ann.close().send(None)  # nothing in it may wait: a child has no event loop that runs
                except StopIteration:
                    return "closed"
                return "waits"

            assert in_child(close) == "closed"
            await ann.send("still here?")
            assert await asyncio.to_thread(bob.line) == b"ann: still here?"
            bob.send(b"yes\n")
            assert (await ann.receive(DEADLINE)).text == "yes"

    started = serve()
    bob = started.peer()
    check()
