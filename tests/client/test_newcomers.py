"""Newcomers of a room with `--replay`: every client, and the command, is told the room's last messages."""

from __future__ import annotations

from typing import Any

import pytest

from chatkit import Action, AsyncClient, Client, Event, Message, Notice, Welcome
from tests.helpers.aio import run_in_loop
from tests.helpers.commands import CONNECTED, Run
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.servers import Serve, Started

KINDS = ("welcome", "message", "action")
BEFORE, LIVE = Notice("before you came:"), Notice("from here on it is live")


@pytest.fixture
def room(serve: Serve) -> tuple[Started, Peer]:
    """A room in which ann has said three things, and a newcomer is told two."""
    started = serve(replay=2)
    ann = started.peer()
    ann.send(b"/nick ann\none\ntwo\n/me waves\n/sync\n")
    assert ann.lines(2) == [b"*** you are now ann", b"*** synced, newest is 3"]
    return started, ann


def heard(kind: type[Client | AsyncClient], port: int, ann: Peer, number: int, **options: Any) -> list[Event]:
    """Return the first events of a new client; the last is one that ann says then."""

    async def hear() -> list[Event]:
        async with AsyncClient(port=port, **options) as client:
            events = [await client.receive(DEADLINE) for _ in range(number - 1)]
            ann.send(b"live\n")
            return [*events, await client.receive(DEADLINE)]

    if kind is AsyncClient:
        return run_in_loop(hear())
    with Client(port=port, **options) as client:
        events = [client.receive(DEADLINE) for _ in range(number - 1)]
        ann.send(b"live\n")
        return [*events, client.receive(DEADLINE)]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", [None, "bob"])
@pytest.mark.parametrize("asked", ["events", "reconnect"])
def test_programs(room: tuple[Started, Peer], kind: type[Client | AsyncClient], name: str | None, asked: str) -> None:
    """The welcome, the last two, and then what is live; a client that comes back swallows none of it."""
    started, ann = room
    welcome, *events = heard(kind, started.port, ann, 4, name=name, **{asked: True})
    assert isinstance(welcome, Welcome)
    assert welcome.newest == 3
    assert [type(event) for event in events] == [Message, Action, Message]
    assert [(event.id, event.text) for event in events if isinstance(event, Message)] == [
        (2, "two"),
        (3, "waves"),
        (4, "live"),
    ]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", [None, "bob"])
def test_plain_text(room: tuple[Started, Peer], kind: type[Client | AsyncClient], name: str | None) -> None:
    """The same between two notices, also for a client with a name."""
    started, ann = room
    replay = [BEFORE, Message("ann", "two"), Action("ann", "waves"), LIVE]
    assert heard(kind, started.port, ann, 5, name=name) == [*replay, Message("ann", "live")]


@pytest.mark.parametrize("options", [[], ["--name", "bob"], ["--reconnect"], ["--reconnect", "--name", "bob"]])
def test_the_command(run: Run, room: tuple[Started, Peer], options: list[str]) -> None:
    """It shows the same, whatever it asks for."""
    started, ann = room
    command = run("chat-client", "--port", str(started.port), *options)
    assert [command.line() for _ in range(5)] == [CONNECTED, str(BEFORE), "ann: two", "* ann waves", str(LIVE)]
    ann.send(b"live\n")
    assert command.line() == "ann: live"


def test_the_command_in_json(run: Run, room: tuple[Started, Peer]) -> None:
    """As the library gives it."""
    started, _ = room
    for options in ([], ["--reconnect"]):
        command = run("chat-client", "--json", "--port", str(started.port), *options)
        lines = [command.line() for _ in range(3)]
        assert [line.partition(",")[0] for line in lines] == [f'{{"type":"{kind}"' for kind in KINDS]
