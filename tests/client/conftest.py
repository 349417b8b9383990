"""Fixtures for tests of both clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chatkit.client import aio_reconnect, reconnect
from chatkit.client.backoff import Backoff
from tests.helpers.both import Absence, Both, Connect


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the client that is tested."""
    return str(request.param)


@pytest.fixture
def connect(kind: str) -> Iterator[Connect]:
    """connect(port, **options) gives a client of the kind that is tested; it is closed with the test."""
    clients = list[Both]()

    def connected(port: int, **options: object) -> Both:
        clients.append(Both(kind, port, **options))
        return clients[-1]

    yield connected
    for client in clients:
        client.call("close")
        client.end()


@pytest.fixture
def absence(monkeypatch: pytest.MonkeyPatch) -> Absence:
    """The wait before each attempt to come back: none, until `absence.seconds` says otherwise."""
    absence = Absence()
    for module in (reconnect, aio_reconnect):
        monkeypatch.setattr(module, "Backoff", lambda: Backoff(lambda least, most: absence.seconds))
    return absence
