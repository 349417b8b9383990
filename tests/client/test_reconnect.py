"""`Client(reconnect=True)` against the real server, through a network that cuts, and over restarts."""

from __future__ import annotations

import errno
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chatkit import (
    Client,
    ConnectionClosed,
    Disconnected,
    Error,
    Gap,
    Left,
    Limits,
    Message,
    Reconnected,
    Renamed,
    Server,
    Synced,
    Unconfirmed,
    Welcome,
)
from chatkit.client import backlog, connection, reconnect
from chatkit.client.resume import ResumeState
from chatkit.errors import NotConnected
from tests.helpers.inside import after_resuming, publisher_of, received_events
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.reconnecting import QUICK, Gate, member, next_of, texts
from tests.helpers.servers import Serve, Started


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["reset", "end", "stall"])
def test_messages_missed_while_away_arrive_once_and_in_order(serve: Serve, how: str) -> None:
    """However the connection is lost; and then the client speaks on."""
    started = serve()
    with Client(port=started.port) as ann, member(started) as (bob, proxy):
        for number in range(3):
            link = proxy.link_of(bob)
            ann.send(f"before {number}")
            if how == "stall":
                link.to_client.stall()
                link.to_server.stall()
            ann.send(f"meanwhile {number}")
            link.to_client.half_close() if how == "end" else link.reset()
            ann.send(f"after {number}")
            assert texts(bob, f"after {number}") == [f"{when} {number}" for when in ("before", "meanwhile", "after")]
        bob.send("there again")
        assert next_of(ann, Message).text == "there again"


def test_the_absence_is_framed_and_the_name_taken_back(serve: Serve, gate: Gate) -> None:
    """Disconnected, Reconnected, and only then what was missed."""
    started = serve()
    with Client(port=started.port) as ann, member(started) as (bob, proxy):
        proxy.link_of(bob).reset()
        started.events.wait_for("leave")
        ann.send("missed")
        started.events.wait_for("message")
        gate.put(0)
        assert isinstance(bob.receive(DEADLINE), Disconnected)
        assert bob.receive(DEADLINE) == Reconnected("back as bob", "bob", False, publisher_of(started.server).epoch)
        assert bob.receive(DEADLINE).text == "missed"


def test_the_return_between_looking_and_waiting(serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """`receive` doesn't wait for more when the thread has brought something in that moment."""
    read, wait = reconnect.ReconnectingConnection.read, connection.ClientConnection.read
    is_back = threading.Event()

    def late(reconnecting: reconnect.ReconnectingConnection, deadline: float | None) -> None:
        gate.put(0)
        assert is_back.wait(DEADLINE)
        read(reconnecting, deadline)

    def waits(one: connection.ClientConnection, *arguments: Any) -> None:
        assert not received_events(bob), "waits, though something has arrived"
        wait(one, *arguments)

    after_resuming(monkeypatch, is_back.set)
    with member(serve()) as (bob, proxy):
        proxy.link_of(bob).reset()
        assert isinstance(bob.receive(DEADLINE), Disconnected)
        with monkeypatch.context() as patched:
            patched.setattr(reconnect.ReconnectingConnection, "read", late)
            patched.setattr(connection.ClientConnection, "read", waits)
            assert isinstance(bob.receive(DEADLINE), Reconnected)


@pytest.mark.usefixtures("at_once")
def test_the_server_is_restarted() -> None:
    """On the same port: the room began anew, which is told, and its members' lines arrive."""
    with Server(port=0, limits=QUICK) as server:
        port = server.port
        bob = Client(port=port, name="bob", reconnect=True)
    with bob, Server(port=port, limits=QUICK) as server, Client(port=port) as ann:
        text, epoch = "back as bob, but the room began anew", publisher_of(server).epoch
        assert next_of(bob, Reconnected) == Reconnected(text, "bob", True, epoch)
        ann.send("hi")
        assert next_of(bob, Message).text == "hi"
        bob.send("hi too")
        assert next_of(ann, Message) == Message("bob", "hi too")


def test_more_passed_than_is_kept(serve: Serve, gate: Gate) -> None:
    """A gap says how many are missing; the kept ones follow."""
    started = serve(limits=Limits(history_size=3))
    with Client(port=started.port) as ann, member(started) as (bob, proxy):
        proxy.link_of(bob).reset()
        for number in range(10):
            ann.send(f"{number}")
        ann.close()  # now the room has heard it
        gate.put(0)
        assert next_of(bob, Gap) == Gap(7)
        assert texts(bob, "9") == ["7", "8", "9"]


def test_the_own_name_is_free_only_later(serve: Serve, gate: Gate) -> None:
    """Another member has it on the return: the caller is told, and the name is taken back when it is free again."""
    started = serve()
    with member(started) as (bob, proxy):
        proxy.link_of(bob).reset()
        started.events.wait_for("leave")
        with Client(port=started.port, name="BOB"):
            gate.put(0)
            assert next_of(bob, Reconnected).name == str(proxy.link_of(bob).name)
            assert next_of(bob, Error) == Error("the name bob is taken", "name_taken")
        assert next_of(bob, Left) == Left("BOB")
        assert next_of(bob, Renamed).name == "bob"


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("kept", [0, 2])
def test_away_lines_are_refused_or_kept(serve: Serve, kept: int) -> None:
    """Without a queue each is refused, with one those beyond its bound; `receive` waits no longer than asked."""
    with member(serve(), queue=kept) as (bob, proxy):
        proxy.link_of(bob).reset()
        next_of(bob, Disconnected)
        for number in range(kept):
            bob.send(f"{number}")
        with pytest.raises(NotConnected, match="not sent: the connection is lost"):
            bob.send("one too many")
        with pytest.raises(ValueError, match="line end"):
            bob.send("a\nb")
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError):
                bob.receive(timeout)
    assert bob.queued == [f"{number}" for number in range(kept)]  # they were never sent


def test_a_queue_needs_reconnect(serve: Serve) -> None:
    """ValueError, before anything is connected."""
    for options in ({"queue": 1}, {"queue": -1, "reconnect": True}, {"after": -1, "reconnect": True}):
        with pytest.raises(ValueError, match="queue" if "queue" in options else "after"):
            Client(port=serve().port, **options)  # type: ignore[arg-type]


def test_queued_lines_are_sent_in_order_after_the_return(serve: Serve, gate: Gate) -> None:
    """Each once, before anything that is said later."""
    started = serve()
    with Client(port=started.port) as ann, member(started, queue=100) as (bob, proxy):
        proxy.link_of(bob).reset()
        next_of(bob, Disconnected)
        for number in range(100):
            bob.send(f"{number}")
        gate.put(0)
        next_of(bob, Reconnected)
        bob.send("100")
        assert texts(ann, "100") == [f"{number}" for number in range(101)]
        assert bob.queued == []


@pytest.mark.usefixtures("at_once")
def test_a_program_that_only_sends_comes_back(serve: Serve) -> None:
    """Without a call of `receive`: the first line that can't be sent finds the loss."""
    started = serve()
    with Client(port=started.port) as ann, member(started, queue=1000) as (bob, proxy):
        proxy.link_of(bob).reset()
        for number in range(100):
            bob.send(f"{number}")
        heard = texts(ann, "99")
        ann.send("end")
        unsure = list[str]()
        while not isinstance(event := bob.receive(DEADLINE), Message):
            unsure += [event.line] if isinstance(event, Unconfirmed) else []
        assert unsure in ([], ["0"])  # the kernel may take one for a connection that is gone
        assert unsure + heard == [f"{number}" for number in range(100)]


@pytest.mark.parametrize("heard", [True, False])
def test_a_line_whose_fate_is_unknown(serve: Serve, gate: Gate, heard: bool) -> None:
    """If the replay has it, it was delivered, and isn't shown to its sender; else the caller is told. No resend."""
    started = serve()
    with Client(port=started.port) as ann, member(started) as (bob, proxy):
        link = proxy.link_of(bob)
        (link.to_client if heard else link.to_server).stall()
        bob.send("well?")
        if heard:
            assert next_of(ann, Message) == Message("bob", "well?")
        link.reset()
        gate.put(0)
        next_of(bob, Reconnected)
        if not heard:
            assert bob.receive(DEADLINE) == Unconfirmed("the room may not have received: well?", "well?")
        bob.send("on we go")
        assert next_of(ann, Message).text == "on we go"
        ann.send("end")
        assert next_of(bob, Message).text == "end"


@contextmanager
def publisher(started: Started) -> Iterator[Client]:
    """A client that comes back, named bob, and never receives."""
    with Client(port=started.port, name="bob", reconnect=True) as client:
        assert isinstance(client.receive(DEADLINE), Welcome)
        yield client


def publish(client: Client, lines: int) -> None:
    for number in range(lines):
        client.send(f"{number}")


def heard(bob: Client, ann: Peer, lines: int, size: int = 0) -> None:
    """Lines that are sent without receiving, to a room that keeps up with them."""
    for number in range(lines):
        bob.send(f"{number:05} {'x' * size}")
        if number % 50 == 49:
            ann.pass_over(b"%05d" % number)


def test_confirmed_lines_are_forgotten_without_receiving(serve: Serve) -> None:
    """A client that only sends doesn't remember it all."""
    started = serve(handler=None, limits=Limits(history_size=1))
    ann = started.peer()
    with publisher(started) as bob:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            heard(bob, ann, 1200, 4000)
            assert tracemalloc.get_traced_memory()[0] - before < 2 << 20
        finally:
            tracemalloc.stop()


def test_sending_keeps_events_that_arrive_meanwhile(serve: Serve) -> None:
    """In order, for a later `receive`."""
    started = serve()
    ann = started.peer()
    with publisher(started) as bob:
        for number in range(3):
            ann.send(b"%d\n" % number)
            heard(bob, ann, 200)
        assert received_events(bob)  # nobody else has taken them in
        ann.send(b"3\n")
        assert texts(bob, "3") == ["0", "1", "2", "3"]


def test_sending_takes_in_only_so_much(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not much more than MAX_WAITING_EVENTS wait for a client that never receives; in the end all arrive, in order."""
    monkeypatch.setattr(backlog, "MAX_WAITING_EVENTS", 10)
    started = serve()
    ann = started.peer()
    with publisher(started) as bob:
        for number in range(100):
            ann.send(b"%d %s\n" % (number, b"x" * 4000))
            started.events.wait_for("message")
        heard(bob, ann, 1000)
        assert 10 <= len(received_events(bob)) < 10 + connection.READ_BYTES // 4000 + 1
        assert [text.split()[0] for text in texts(bob, "99 " + "x" * 4000)] == [f"{number}" for number in range(100)]


@pytest.mark.usefixtures("never")
def test_a_loss_is_found_without_receiving(serve: Serve) -> None:
    """The server's end has come, though all that is sent still gets away."""
    with member(serve()) as (bob, proxy):
        proxy.link_of(bob).to_client.half_close()
        with pytest.raises(NotConnected):
            publish(bob, 200)
        assert isinstance(bob.receive(0), Disconnected)


@pytest.mark.parametrize("times", [3, pytest.param(3, marks=pytest.mark.stress)])
def test_close_while_another_thread_only_sends(serve: Serve, times: int) -> None:
    """It ends in order, at whatever moment, and holds nobody up."""
    started = serve(handler=None)

    def publish_on(client: Client, begun: threading.Event) -> None:
        publish(client, 300)
        begun.set()
        with pytest.raises(ConnectionClosed):
            publish(client, 1 << 30)

    for _ in range(times):
        begun = threading.Event()
        with publisher(started) as bob:
            publishing = threading.Thread(target=publish_on, args=(bob, begun))
            publishing.start()
            assert begun.wait(DEADLINE)
            bob.close()
            publishing.join(DEADLINE)
            assert not publishing.is_alive()


def test_sending_needs_no_descriptor(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for what has arrived takes none."""

    def none_left(*selector: object) -> None:
        raise OSError(errno.EMFILE, "too many")

    started = serve()
    ann = started.peer()
    with publisher(started) as bob:
        with monkeypatch.context() as patched:
            patched.setattr("chatkit.client.cancel.Selector", none_left)
            publish(bob, 300)
        assert [ann.line().split()[-1] for _ in range(300)] == [b"%d" % number for number in range(300)]


@pytest.mark.parametrize("where", ["send", "receive", "take_request"])
def test_ctrl_c_between_sending_and_remembering(serve: Serve, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The connection ends, as nobody knows; after the return all goes on."""
    started = serve()
    with publisher(started) as bob:
        ann, original = started.peer(), getattr(ResumeState, where)

        def interrupted(*arguments: Any) -> Any:
            original(*arguments)
            raise KeyboardInterrupt

        ann.send(b"hi\n")
        publish(bob, 2)  # the answer to the first is followed by a question about the second
        with monkeypatch.context() as patched:
            patched.setattr(ResumeState, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                bob.send("a") if where == "send" else next_of(bob, Synced)
        assert next_of(bob, Reconnected)
        bob.send("/sync")
        assert next_of(bob, Synced)


def test_ctrl_c_while_a_sender_takes_in(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is sent, no lock is held, and the client goes on."""

    def interrupt(*read: object) -> None:
        raise KeyboardInterrupt

    started = serve()
    ann = started.peer()
    with publisher(started) as bob:
        publish(bob, 100)
        with monkeypatch.context() as patched:
            patched.setattr(connection.ClientConnection, "read_nowait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                bob.send("interrupted")
        bob.send("100")
        assert [ann.line().split()[-1] for _ in range(101)] == [b"%d" % number for number in range(101)]
        ann.send(b"hi\n")
        assert texts(bob, "hi") == ["hi"]
