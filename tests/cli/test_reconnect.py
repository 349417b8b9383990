"""`chat-client --reconnect` in a process of its own, in pipes, through a network that cuts."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

import pytest

from chatkit import Event, Gap, Limits, Message, Reconnected, Server, Welcome
from chatkit.cli.client.output import LineBatch, ReconnectOutput
from chatkit.cli.client.roster import Roster
from chatkit.cli.client.screen import Painter
from tests.helpers.commands import CONNECTED, DISCONNECTED, Running, invoke
from tests.helpers.peers import DEADLINE
from tests.helpers.proxy import Link, Proxy
from tests.helpers.servers import EventLog, Serve, Started

Run = Callable[..., Running]
QUICK = Limits(drain_seconds=0.1)


@pytest.fixture
def proxy(serve: Serve) -> Iterator[tuple[Started, Proxy]]:
    """A server, and a proxy in front of it."""
    started = serve()
    with Proxy(started.port) as proxy:
        yield started, proxy


def join(run: Run, proxy: Proxy, *options: str) -> tuple[Running, Link]:
    """A client named ada, and its connection; it is in the room."""
    client = run("chat-client", "--port", str(proxy.port), "--name", "ada", "--reconnect", *options)
    return client, proxy.next_link()


def lose_a_line(client: Running, link: Link) -> None:
    """It is typed and sent, and the connection is lost before the room has it."""
    link.to_server.stall()
    client.type("lost")
    client.type("x" * 9000)
    assert client.process.stderr
    assert b"line 2" in client.process.stderr.readline()  # so what was typed before has been sent
    link.reset()


def test_as_without_the_option(run: Run, proxy: tuple[Started, Proxy]) -> None:
    """The terminal shows the chat as to a member with plain text: no welcome, nobody's coming and going, no JSON."""
    started, between = proxy
    client, _ = join(run, between)
    assert client.line() == CONNECTED
    bob = started.peer()
    bob.send(b"/nick bob\n/me waves\nhi \x1b\n/msg ada psst\n")
    assert [client.line() for _ in range(3)] == ["* bob waves", "bob: hi \u241b", "bob (private): psst"]
    client.type("/nick eve")
    assert client.line() == "*** you are now eve"
    client.type("/foo")
    assert client.line() == "*** unknown command /foo (try /help)"
    client.type("exit")
    assert client.ends() == (0, f"{DISCONNECTED}\n", "")


def test_lines_around_a_replay(capsys: pytest.CaptureFixture[str]) -> None:
    """The second one comes with what is live if the newest message isn't kept; after a return there are none."""
    output = ReconnectOutput(Painter(Roster("1")), LineBatch(), None, explains_queue=False)
    newcomer: list[Event] = [Welcome("1", 9, "0" * 16), Gap(2), Message("ann", "hi", 5), Message("ann", "hi", 10)]
    returned: list[Event] = [Reconnected("back as 1", "1", False, "0" * 16), Gap(1)]
    for event in newcomer + returned + [Message("ann", "hi", number) for number in (12, 3)]:
        output.show(event)
    output.pause()
    begin, gap, live = "*** before you came:", "*** {} messages are no longer kept", "*** from here on it is live"
    came_back = ["*** back as 1", gap.format(1), *["ann: hi"] * 2]
    assert capsys.readouterr().out.splitlines() == [begin, gap.format(2), "ann: hi", live, "ann: hi", *came_back]


def test_lost_and_back(run: Run, proxy: tuple[Started, Proxy]) -> None:
    """Both are told; missed lines are shown, typed lines are said."""
    started, between = proxy
    client, link = join(run, between)
    assert client.line() == CONNECTED
    bob = started.peer()
    link.reset()
    assert client.line() == "*** the connection is lost: Connection reset by peer; trying to come back"
    bob.send(b"missed\n")
    client.type("typed")
    assert client.line().startswith("*** back as ")  # ada, unless the server has yet to see that she had left
    while client.line() != f"{bob.name}: missed":
        pass
    assert bob.line().endswith(b": typed")
    client.type("exit")
    status, _, err = client.ends()
    assert (status, err) == (0, "")


def test_json(run: Run, proxy: tuple[Started, Proxy]) -> None:
    """For scripts, events that are no line of the wire are objects, too."""
    client, link = join(run, proxy[1], "--json")
    assert json.loads(client.line())["type"] == "welcome"
    lose_a_line(client, link)
    types = {}
    while "unconfirmed" not in types:
        event = json.loads(client.line())
        types[event["type"]] = event
    assert types["disconnected"]["text"].startswith("the connection is lost")
    assert types["reconnected"]["new_epoch"] is False
    assert types["unconfirmed"]["line"] == "lost"


@pytest.fixture
def away(run: Run) -> Running:
    """A client whose server is gone for good."""
    with Server(port=0, limits=QUICK) as server:
        client = run("chat-client", "--port", str(server.port), "--reconnect")
        assert client.line() == CONNECTED
    assert client.line().startswith("*** the connection is lost: the server ended the conversation")
    return client


@pytest.mark.parametrize("end", ["exit", "eof"])
def test_leaving_while_away(away: Running, end: str) -> None:
    """At once."""
    if end == "exit":
        away.type("exit")
    assert away.ends() == (0, f"{DISCONNECTED}\n", "")


def test_leaving_with_lines_that_were_never_sent(away: Running) -> None:
    """How many is said; exit status 3."""
    for number in range(100):
        away.type(f"{number}")
    away.type("exit")
    last = "left while disconnected; 100 lines of input were not sent"
    assert away.ends() == (3, "", f"chat-client: disconnected: {last}\n")


def test_a_pipe_waits_for_the_return(run: Run) -> None:
    """Lines piped in while the server is away are sent when it is back, in any number; then the client leaves."""
    with Server(port=0, limits=QUICK) as server:
        port = server.port
        client = run("chat-client", "--port", str(port), "--reconnect")
        assert client.line() == CONNECTED
    assert client.line().startswith("*** the connection is lost")
    for number in range(250):
        client.type(f"{number}")
    assert client.process.stdin
    client.process.stdin.close()
    client.process.stdin = None
    with Server(port=port, handler=(events := EventLog())):
        for number in range(250):
            assert events.wait_for("message").endswith(f": {number}")
        status, out, err = client.ends()
    assert (status, err) == (0, "")
    assert "synced" not in out


def test_a_line_whose_fate_is_unknown(run: Run, proxy: tuple[Started, Proxy]) -> None:
    """Exit status 1, as nobody knows whether the room has it."""
    client, link = join(run, proxy[1])
    assert client.line() == CONNECTED
    lose_a_line(client, link)
    while client.line() != "*** the room may not have received: lost":
        pass
    client.type("exit")
    assert client.ends()[0] == 1


@pytest.mark.parametrize("typed", [0, 1])
def test_ctrl_c_while_away(away: Running, typed: int) -> None:
    """Ended by SIGINT, at once; lines that were never sent are told."""
    assert away.process.stderr
    if typed:
        away.type("x" * 9000)  # its complaint tells that what was typed before has been read
        away.type("hi")
        away.type("x" * 9000)
        assert b"line 1" in away.process.stderr.readline()
        assert b"line 3" in away.process.stderr.readline()
    away.process.send_signal(signal.SIGINT)
    assert away.ends() == (-signal.SIGINT, "", "chat-client: 1 lines of input were not sent\n" * typed)


def test_another_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that won't have this client back: why is said, exit status 3."""
    monkeypatch.setenv("CHATKIT_PASSWORD", "one")
    with Server(port=0, password="one", limits=QUICK) as server:
        port = server.port
        client = run("chat-client", "--port", str(port), "--reconnect")
        assert client.line() == CONNECTED
    with Server(port=port, password="other"):
        assert client.process.wait(DEADLINE) == 3  # its input is still open
        status, _, err = client.ends()
        assert (status, err) == (3, "chat-client: disconnected: wrong password\n")


def test_a_removed_member_stays_away(run: Run, proxy: tuple[Started, Proxy]) -> None:
    """The operator's word counts."""
    started, between = proxy
    client, _ = join(run, between)
    assert client.line() == CONNECTED
    started.server.kick("ada", "enough")
    assert client.process.wait(DEADLINE) == 3
    status, out, err = client.ends()
    assert (status, err) == (3, "chat-client: disconnected: the server ended the conversation\n")
    assert "enough" in out


def test_once_and_reconnect() -> None:
    """They exclude each other: wrong usage."""
    status, _, err = invoke("chat-client", "--once", "--reconnect")
    assert status == 2
    assert "--once and --reconnect exclude each other" in err
