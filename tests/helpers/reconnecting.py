"""Clients that come back, behind a proxy that cuts their connections."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chatkit import Client, Limits, Message
from chatkit.events import Welcome
from tests.helpers.peers import DEADLINE
from tests.helpers.proxy import Proxy
from tests.helpers.servers import Started

QUICK = Limits(drain_seconds=0.1)  # for servers whose members don't listen when they end
Gate = queue.SimpleQueue[float]


@contextmanager
def member(started: Started, **options: Any) -> Iterator[tuple[Client, Proxy]]:
    """One who comes back, named bob, behind a proxy, and has been welcomed."""
    asked = {"name": "bob", "reconnect": True, **options}
    with Proxy(started.port) as proxy, Client(port=proxy.port, **asked) as client:
        assert isinstance(client.receive(DEADLINE), Welcome)
        yield client, proxy


def next_of(client: Client, kind: type[Any]) -> Any:
    """The next event of this kind; others before it are passed over."""
    while not isinstance(event := client.receive(DEADLINE), kind):
        pass
    return event


def texts(client: Client, last: str) -> list[str]:
    """The messages up to this one."""
    found = list[str]()
    while last not in found:
        found.append(next_of(client, Message).text)
    return found
