"""`AsyncClient(reconnect=True)`: the promises of `Client`, in an event loop."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatkit import (
    AsyncClient,
    Client,
    ConnectionClosed,
    Disconnected,
    Error,
    Left,
    Limits,
    Message,
    PasswordRefused,
    Reconnected,
    Server,
    Unconfirmed,
    Welcome,
)
from chatkit.client import aio_reconnect, backlog
from chatkit.client.backoff import Backoff
from chatkit.errors import NotConnected
from tests.helpers.aio import in_loop
from tests.helpers.inside import aio_connection_of, transport_of
from tests.helpers.peers import DEADLINE, trusting
from tests.helpers.proxy import Link, Proxy
from tests.helpers.servers import Serve, Started

pytestmark = pytest.mark.usefixtures("each_loop")

QUICK = Limits(drain_seconds=0.1)  # for servers whose members don't listen when they end


class Delays:
    """delay: the wait before each attempt to come back, in seconds."""

    delay = 0.0


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> Delays:
    """No wait before an attempt to come back, until `delay` says otherwise."""
    delays = Delays()
    monkeypatch.setattr(aio_reconnect, "Backoff", lambda: Backoff(lambda least, most: delays.delay))
    return delays


@asynccontextmanager
async def member(started: Started, **options: Any) -> AsyncIterator[tuple[AsyncClient, Proxy]]:
    """A client that comes back, named bob, behind a proxy; it has been welcomed."""
    with Proxy(started.port) as proxy:
        async with AsyncClient(port=proxy.port, **{"name": "bob", "reconnect": True, **options}) as client:
            assert isinstance(await client.receive(DEADLINE), Welcome)
            yield client, proxy


def link_of(proxy: Proxy, client: AsyncClient) -> Link:
    return proxy.link_of(client)  # type: ignore[arg-type]  # it asks for no more than the address


async def say(client: AsyncClient, number: int) -> None:
    for each in range(number):
        await client.send(f"{each}")


async def next_of(client: AsyncClient, kind: type[Any]) -> Any:
    """The next event of this kind; others before it are passed over."""
    while not isinstance(event := await client.receive(DEADLINE), kind):
        pass
    return event


async def texts(client: AsyncClient, last: str) -> list[str]:
    """The messages up to this one."""
    found = list[str]()
    while last not in found:
        found.append((await next_of(client, Message)).text)
    return found


@pytest.mark.parametrize("how", ["reset", "end"])
def test_messages_missed_while_away_arrive_once_and_in_order(serve: Serve, delays: Delays, how: str) -> None:
    """However the connection is lost; and then the client speaks on."""

    @in_loop
    async def check() -> None:
        with Client(port=started.port) as ann:
            async with member(started) as (bob, proxy):
                for number in range(3):
                    link = link_of(proxy, bob)
                    ann.send(f"before {number}")
                    link.to_client.half_close() if how == "end" else link.reset()
                    ann.send(f"after {number}")
                    assert await texts(bob, f"after {number}") == [f"before {number}", f"after {number}"]
                await bob.send("there again")
                event = await asyncio.to_thread(ann.receive, DEADLINE)
                assert event.text == "there again"

    started = serve()
    check()


@pytest.mark.parametrize("kept", [0, 2])
def test_away_lines_are_refused_or_kept(serve: Serve, delays: Delays, kept: int) -> None:
    """Kept lines are sent after the return, in order, before later ones."""

    @in_loop
    async def check() -> None:
        with Client(port=started.port) as ann:
            async with member(started, queue=kept) as (bob, proxy):
                delays.delay = 0.001
                link_of(proxy, bob).reset()
                await next_of(bob, Disconnected)
                for number in range(kept):
                    await bob.send(f"{number}")
                with pytest.raises(NotConnected, match="not sent: the connection is lost"):
                    await bob.send("one too many")
                assert bob.queued == [f"{number}" for number in range(kept)]
                await next_of(bob, Reconnected)
                await bob.send("last")
                for text in [*(f"{number}" for number in range(kept)), "last"]:
                    assert (await asyncio.to_thread(ann.receive, DEADLINE)).text == text

    started = serve()
    check()


@pytest.mark.parametrize("heard", [True, False])
def test_a_line_whose_fate_is_unknown(serve: Serve, delays: Delays, heard: bool) -> None:
    """If the replay has it, it was delivered, and isn't shown to its sender; else the caller is told. No resend."""

    @in_loop
    async def check() -> None:
        with Client(port=started.port) as ann:
            async with member(started) as (bob, proxy):
                link = link_of(proxy, bob)
                (link.to_client if heard else link.to_server).stall()
                await bob.send("well?")
                if heard:
                    assert await asyncio.to_thread(ann.receive, DEADLINE) == Message("bob", "well?")
                link.reset()
                await next_of(bob, Reconnected)
                if not heard:
                    assert (await next_of(bob, Unconfirmed)).line == "well?"
                await bob.send("on we go")
                assert (await asyncio.to_thread(ann.receive, DEADLINE)).text == "on we go"
                ann.send("end")
                assert await texts(bob, "end") == ["end"]

    started = serve()
    check()


@pytest.mark.parametrize("leave", ["close", "exit", "eof"])
def test_an_absence_is_ended_at_once(serve: Serve, delays: Delays, leave: str) -> None:
    """In the middle of a back-off; a waiting `receive` hears it, and no task is left."""

    @in_loop
    async def check() -> None:
        async with member(started) as (bob, proxy):
            delays.delay = 3000
            link_of(proxy, bob).reset()
            await next_of(bob, Disconnected)
            waiting = asyncio.create_task(bob.receive())
            await asyncio.sleep(0)
            begun = time.monotonic()
            await {"close": bob.close, "exit": lambda: bob.send("exit"), "eof": bob.send_eof}[leave]()
            with pytest.raises(ConnectionClosed):
                await waiting
            assert time.monotonic() - begun < 0.5
            with pytest.raises(ConnectionClosed):
                await bob.send("x")

    started = serve()
    check()


@pytest.mark.parametrize("end", ["exit", "eof", "kick"])
def test_ends_that_are_no_loss(serve: Serve, delays: Delays, end: str) -> None:
    """A member that has left, or was removed, doesn't come back."""

    @in_loop
    async def check() -> None:
        async with member(started) as (bob, _):
            if end == "exit":
                await bob.send("exit")
            elif end == "eof":
                await bob.send_eof()
            else:
                started.server.kick("bob", "enough")
            last = [event async for event in bob]
            assert [isinstance(event, Error) and event.code for event in last] == (["removed"] * (end == "kick"))
            assert started.server.members == []

    started = serve()
    check()


def test_another_password_is_final(delays: Delays) -> None:
    """The room won't let this client in again; `receive` and `send` say why."""

    @in_loop
    async def check() -> None:
        with Server(port=0, limits=QUICK, password="one") as server:
            port = server.port
            bob = AsyncClient(port=port, password="one", reconnect=True, queue=5)
            await bob.connect()
        with Server(port=port, password="other"):
            with pytest.raises(PasswordRefused):
                _ = [event async for event in bob]
            with pytest.raises(PasswordRefused):
                await bob.send("hi")
            await bob.close()

    check()


def test_close_ends_an_attempt(serve: Serve, delays: Delays) -> None:
    """The server's place is taken by one that accepts and says nothing; no transport is left."""

    @in_loop
    async def check() -> None:
        with Server(port=0, limits=QUICK) as server:
            port = server.port
            bob = AsyncClient(port=port, reconnect=True, timeout=None)
            await bob.connect()
            room = (await next_of(bob, Welcome)).epoch
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.setblocking(False)
            loop = asyncio.get_running_loop()
            sock, _ = await loop.sock_accept(listener)
            with sock:
                resume, rest = (await loop.sock_recv(sock, 200)).split(b"\n", 1)
                assert resume.startswith(b"/resume ")
                assert rest == b"/json 0 " + room.encode() + b"\n/sync\n"
                begun = time.monotonic()
                await bob.close()
                assert time.monotonic() - begun < 0.5

    check()


def test_before_the_beginning(serve: Serve) -> None:
    """RuntimeError, as without `reconnect`; a wrong queue is a ValueError."""

    @in_loop
    async def check() -> None:
        client = AsyncClient(port=unused.getsockname()[1], reconnect=True)
        for use in (client.receive, client.send_eof, lambda: client.send("x")):
            with pytest.raises(RuntimeError, match="connected"):
                await use()
        with pytest.raises(RuntimeError, match="connected"):
            _ = client.address
        await client.close()
        with pytest.raises(ConnectionRefusedError):
            await client.connect()
        await client.close()
        with pytest.raises(ValueError, match="queue"):
            AsyncClient(queue=1)

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        check()


def test_a_client_that_does_not_receive_stops_reading(
    serve: Serve, delays: Delays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events that wait for a caller are bounded; in the end everything arrives."""

    @in_loop
    async def check() -> None:
        async with member(started) as (bob, _):
            transport = transport_of(bob)
            number = 0
            while transport.is_reading():
                ann.send(b"%d\n" % number)
                number += 1
                while len(aio_connection_of(bob).received) < number:  # each in a read of its own
                    await asyncio.sleep(0)
            assert number == 11
            assert await texts(bob, f"{number - 1}") == [f"{n}" for n in range(number)]

    monkeypatch.setattr(backlog, "MAX_WAITING_EVENTS", 10)
    started = serve()
    ann = started.peer()
    ann.sync()
    check()


def test_a_receiver_misses_nothing(serve: Serve, delays: Delays) -> None:
    """Every id once, in order, over 100 cuts at random bytes."""
    chance, times = random.Random(7), 100

    def cut(proxy: Proxy, ann: Client) -> None:
        for _ in range(times):
            link = proxy.next_link()
            link.to_client.stall(chance.randrange(400))
            for number in range(10):
                ann.send(f"{number}")
            link.to_client.wait_stalled()
            link.reset()
        ann.send("end")

    @in_loop
    async def check() -> None:
        with Proxy(started.port) as proxy, Client(port=started.port) as ann:
            cutting = asyncio.create_task(asyncio.to_thread(cut, proxy, ann))
            bob = AsyncClient(port=proxy.port, name="bob", reconnect=True, after=0)
            while True:
                try:
                    await bob.connect()
                    break
                except (OSError, ConnectionClosed):  # the first connection is none that is taken up again
                    bob = AsyncClient(port=proxy.port, name="bob", reconnect=True, after=0)
            ids = list[int | None]()
            while len(ids) < times * 10 + 1:
                ids.append((await next_of(bob, Message)).id)
            assert ids == list(range(1, times * 10 + 2))
            await bob.close()
            await cutting

    started = serve(limits=Limits(history_size=20 * times))
    check()


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system has no TCP_KEEPIDLE")
def test_the_kernel_finds_a_silent_loss(serve: Serve) -> None:
    """As for `Client`: a server that the network can't reach is given up after `silent_seconds`."""

    @in_loop
    async def check() -> None:
        async with AsyncClient(port=started.port, reconnect=True, silent_seconds=600) as bob:
            sock = transport_of(bob).get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 300

    started = serve()
    check()


@pytest.mark.parametrize("tls", [True])
def test_a_loss_in_tls_is_found_by_sending(serve: Serve, delays: Delays) -> None:
    """After a few lines, not after any number: asyncio takes data until its transport has closed itself."""

    @in_loop
    async def check() -> None:
        async with member(started, tls=trusting()) as (bob, proxy):
            delays.delay = 3000
            await asyncio.to_thread(link_of(proxy, bob).reset)
            with pytest.raises(NotConnected):
                await say(bob, 10)

    started = serve()
    check()


def test_an_unforeseen_error_ends_the_conversation(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the task is raised by `receive`."""

    def uniform(least: float, most: float) -> float:
        raise ZeroDivisionError

    @in_loop
    async def check() -> None:
        async with member(started) as (bob, proxy):
            link_of(proxy, bob).reset()
            with pytest.raises(ZeroDivisionError):
                await next_of(bob, Reconnected)

    monkeypatch.setattr(aio_reconnect, "Backoff", lambda: Backoff(uniform))
    started = serve()
    check()


@pytest.mark.parametrize("leave", ["exit", "eof"])
def test_leaving_a_server_that_did_not_listen(serve: Serve, delays: Delays, leave: str) -> None:
    """It ends in order, but hasn't heard the line: that is told."""

    @in_loop
    async def check() -> None:
        async with member(started) as (bob, proxy):
            link = link_of(proxy, bob)
            link.to_server.stall()
            await bob.send("hi")
            await (bob.send("exit") if leave == "exit" else bob.send_eof())
            link.to_client.half_close()
            assert [event.line async for event in bob if isinstance(event, Unconfirmed)] == ["hi"]

    started = serve()
    check()


def test_nothing_is_asked_after_the_end_of_the_lines(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that becomes free then is too late: the rest is received, and the conversation ends in order."""
    others = list[Client]()

    def join_first(least: float, most: float) -> float:
        assert started.events.wait_for("leave")
        others.append(Client(port=started.port, name="bob"))
        return 0

    @in_loop
    async def check() -> None:
        async with member(started) as (bob, proxy):
            link_of(proxy, bob).reset()
            await next_of(bob, Error)  # the name is taken
            link = link_of(proxy, bob)
            link.to_server.stall()
            await bob.send_eof()
            others[0].close()
            await next_of(bob, Left)
            link.to_server.resume()
            assert [event async for event in bob] == []

    monkeypatch.setattr(aio_reconnect, "Backoff", lambda: Backoff(join_first))
    started = serve()
    check()


def test_a_cancelled_close_after_a_return(serve: Serve, delays: Delays) -> None:
    """It leaves no connection standing."""

    @in_loop
    async def check() -> None:
        async with member(started) as (bob, proxy):
            link_of(proxy, bob).reset()
            await next_of(bob, Reconnected)
            transport = transport_of(bob)
            closing = asyncio.create_task(bob.close(grace=DEADLINE))
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            assert transport.is_closing()

    started = serve()
    check()
