"""A client that fails at any step of its start gives back its socket, and tells the reason as it is."""

from __future__ import annotations

import asyncio
import gc

import pytest

from chatkit import AsyncClient, Client
from chatkit.client import aio_reconnect
from chatkit.client.backoff import Backoff
from chatkit.client.cancel import CancelToken
from tests.helpers.aio import in_loop
from tests.helpers.failing import Steps, failure_of
from tests.helpers.leaks import open_descriptors
from tests.helpers.servers import Serve


@pytest.mark.parametrize("reconnect", [False, True], ids=["once", "reconnect"])
@pytest.mark.parametrize(
    "caller", ["", "Client.__init__", "ClientConnection.__init__", "ReconnectingConnection.__init__"]
)
def test_every_step_may_fail(serve: Serve, reconnect: bool, caller: str) -> None:
    """Each call of the constructor fails once, for lack of memory. A socket that isn't closed then is a warning.

    caller: all calls that it leads to, whose number depends on the reads, or those of one function, which are always
        the same.
    """
    port = serve().port
    gc.disable()
    try:
        for number in range(1, 10_000):
            clients, steps = list[Client](), Steps(number, MemoryError("of the test"), caller)
            with steps.counted():
                failure = failure_of(lambda: clients.append(Client(port=port, name="ada", reconnect=reconnect)))  # noqa: B023
            for client in clients:
                client.close()
            if not steps.has_failed:
                break
            assert failure in (steps.error, None), steps.last
    finally:
        gc.enable()
    assert number > (1 if caller else 100) or (caller.startswith("Reconnecting") and not reconnect)


@in_loop
async def test_an_asyncio_client_that_fails_after_connecting(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection ends at once."""
    started, before = serve(), open_descriptors()

    class Failing(Backoff):
        def connected(self) -> None:
            raise MemoryError("of the test")

    monkeypatch.setattr(aio_reconnect, "Backoff", Failing)
    client = AsyncClient(port=started.port, reconnect=True)
    with pytest.raises(MemoryError, match="of the test"):
        await client.connect()
    while not open_descriptors() <= before:
        await asyncio.sleep(0)


def test_a_token_that_cannot_be_entered() -> None:
    """Its sockets are closed."""
    before = open_descriptors()
    for number in range(1, 100):
        steps = Steps(number, MemoryError("of the test"))
        token = CancelToken()
        token.set()
        with steps.counted():
            failure = failure_of(token.__enter__)
        if not failure:
            token.__exit__(None, None, None)
        assert open_descriptors() == before
        if not steps.has_failed:
            break
    assert number > 2
