"""Members that come back while their old connection hangs: real connections, of one worker or of two."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chatkit import (
    AsyncClient,
    Client,
    Disconnected,
    Event,
    Joined,
    Left,
    Limits,
    Message,
    Reconnected,
    Renamed,
    Server,
    Welcome,
)
from chatkit.client import aio_reconnect
from chatkit.client.backoff import Backoff
from chatkit.protocol.replies import RESUME_EARLY, RESUME_UNKNOWN, RESUMED, TAKEN_OVER
from tests.helpers.aio import in_loop
from tests.helpers.commands import Run, client_with
from tests.helpers.inside import connections_of
from tests.helpers.marks import over_tls
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.proxy import Proxy
from tests.helpers.reconnecting import QUICK, Gate, next_of
from tests.helpers.servers import Serve

threads = pytest.mark.parametrize("threads", [1, 2])


def welcome_of(peer: Peer, *opening: bytes) -> dict[str, Any]:
    """Send an opening, and return the welcome; the lines before it are passed over."""
    peer.send(b"".join(line + b"\n" for line in opening))
    while not (line := peer.line()).startswith(b"{"):
        pass
    fields: dict[str, Any] = json.loads(line)
    assert fields["type"] == "welcome"
    return fields


def about(events: list[Event], name: str) -> list[Event]:
    """Return the joins, leaves and renames of a name."""
    changes = [event for event in events if isinstance(event, Joined | Left | Renamed)]
    return [event for event in changes if name in (event.name, getattr(event, "old", ""))]


@over_tls
@threads
def test_a_connection_that_hangs_is_replaced(serve: Serve, threads: int) -> None:
    """The new one has name, place and messages, on whatever worker; the old one is told, and ends."""
    started = serve(threads=threads)
    old, other, text = started.peers(3)
    token = welcome_of(old, b"/nick ada", b"/json")["resume"]
    assert len(token) == 32
    other.send(b"one\n/sync\n")
    assert other.line() == b"*** synced, newest is 1"
    new = started.peer()
    welcome = welcome_of(new, b"/resume " + token.encode(), b"/nick ada", b"/json 0")
    assert (welcome["name"], welcome["newest"]) == ("ada", 1)
    assert welcome["resume"] != token
    assert json.loads(new.line())["text"] == "one"
    last = [json.loads(line) for line in old.rest().splitlines()]
    assert [event for event in last if event["type"] == "error"] == [
        {"type": "error", "text": TAKEN_OVER.text, "code": "resumed"}
    ]
    new.send(b"two\n")
    assert other.line() == b"ada: two"
    assert text.lines(2) == [other.name.encode() + b": one", b"ada: two"]
    assert {member.name for member in started.server.members} == {"ada", other.name, text.name}


def test_a_reader_that_hangs_keeps_nothing(serve: Serve) -> None:
    """Bytes that the old connection hasn't taken are given up after `drain_seconds`; its descriptor is free then."""
    started = serve(limits=Limits(drain_seconds=0.1))
    old, talker = started.peer(receive_buffer=4096), started.peer()
    token = welcome_of(old, b"/nick ada", b"/json")["resume"]
    talker.send((b"x" * 1000 + b"\n") * 3000 + b"/sync\n")
    assert talker.line().startswith(b"*** synced")
    new = started.peer()
    assert welcome_of(new, b"/resume " + token.encode(), b"/json")["name"] == "ada"
    while len(connections_of(started.server)) > 2:
        talker.send(b"/sync\n")
        talker.line()
    assert started.server.stats.slow_consumers == 0


@pytest.mark.usefixtures("at_once")
@threads
def test_a_client_comes_back_under_its_name(serve: Serve, threads: int) -> None:
    """At once, though its ghost stands; nobody hears of it, and nothing is missed. As often as one likes."""
    started = serve(threads=threads)
    with (
        Proxy(started.port) as proxy,
        Client(port=started.port, name="ann", events=True) as ann,
        Client(port=proxy.port, name="bob", reconnect=True) as bob,
    ):
        for number in range(5):
            link = proxy.link_of(bob)
            link.to_client.stall()
            ann.send(f"missed {number}")
            link.forsake()
            assert next_of(bob, Reconnected).name == "bob"
            assert next_of(bob, Message).text == f"missed {number}"
            assert sorted(member.name for member in started.server.members) == ["ann", "bob"]
        bob.send("still bob")
        events = list[Event]()
        while not events or events[-1].text != "still bob":
            events.append(ann.receive(DEADLINE))
        assert len(about(events, "bob")) <= 1, "more than of its first coming"


@threads
def test_an_asyncio_client_comes_back_under_its_name(
    serve: Serve, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in an event loop."""

    @in_loop
    async def check() -> None:
        with Proxy(started.port) as proxy, Client(port=started.port, name="ann") as ann:
            async with AsyncClient(port=proxy.port, name="bob", reconnect=True) as bob:
                link = proxy.link_of(bob)  # type: ignore[arg-type]
                link.to_client.stall()
                ann.send("missed")
                await asyncio.to_thread(link.forsake)
                events = [await bob.receive(DEADLINE) for _ in range(4)]
        assert [type(event) for event in events] == [Welcome, Disconnected, Reconnected, Message]
        assert [event.name for event in events if isinstance(event, Reconnected)] == ["bob"]

    monkeypatch.setattr(aio_reconnect, "Backoff", lambda: Backoff(lambda least, most: 0))
    started = serve(threads=threads)
    check()


def test_a_client_with_a_password_comes_back(serve: Serve, gate: Gate) -> None:
    """The password comes first, as ever; a client without a name keeps its number."""
    started = serve(password="sesame")
    with Proxy(started.port) as proxy, Client(port=proxy.port, password="sesame", reconnect=True) as bob:
        name = bob.receive(DEADLINE).text.removeprefix("you are ")
        proxy.link_of(bob).forsake()
        gate.put(0)
        assert next_of(bob, Reconnected).name == name
        assert [member.name for member in started.server.members] == [name]


@pytest.mark.usefixtures("at_once")
def test_a_token_of_before_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    """It is a wrong one, which holds up nobody: members of one address come back at once, under their names."""
    caplog.set_level("INFO", "chatkit")
    with Server(port=0, limits=QUICK) as server:
        port = server.port
        clients = [Client(port=port, name=f"c{number}", reconnect=True) for number in range(5)]
    with Server(port=port, limits=QUICK) as server:
        for client in clients:
            assert next_of(client, Reconnected).new_epoch
        assert sorted(member.name for member in server.members) == [f"c{number}" for number in range(5)]
        for client in clients:
            client.close()
    assert len([record for record in caplog.records if "token" in record.getMessage()]) == 1


def test_guesses_from_one_address(serve: Serve) -> None:
    """A right token that comes too early after a wrong one isn't taken; the peer talks on meanwhile."""
    started = serve()
    old, new = started.peers(2)
    token = welcome_of(old, b"/nick ada", b"/json")["resume"].encode()
    new.send(b"/resume " + b"0" * 32 + b"\n/resume " + token + b"\n/sync\n")
    assert [line.decode() for line in new.lines(2)] == [str(RESUME_UNKNOWN), str(RESUME_EARLY)]
    assert new.line().startswith(b"*** synced")
    line = str(RESUME_EARLY).encode()
    while line == str(RESUME_EARLY).encode():
        new.send(b"/resume " + token + b"\n")
        line = new.line()
    assert line == str(RESUMED).encode()


def test_a_token_is_for_the_program_alone(run: Run, serve: Serve) -> None:
    """The library has it; the repr of the event, and the output of the command, end up in logs."""
    started = serve()
    with Client(port=started.port, events=True) as client:
        welcome = client.receive(DEADLINE)
        assert isinstance(welcome, Welcome)
        assert len(welcome.resume) == 32
        assert welcome.resume not in repr(welcome)
    status, out, _ = client_with(run, started.port, "/sync\n", "--json")
    assert (status, json.loads(out.splitlines()[0]).keys()) == (0, {"type", "name", "newest", "epoch"})
