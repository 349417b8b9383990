"""Clients that reconnect when more fails than a connection: no descriptor, no thread, half a line, a bad moment."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from chatkit import (
    AsyncClient,
    Client,
    ConnectionClosed,
    Disconnected,
    NotConnected,
    Notice,
    Reconnected,
    Server,
    Unconfirmed,
)
from chatkit.client import connection, reconnect
from chatkit.client.backoff import Backoff
from chatkit.client.reconnector import Reconnector
from tests.helpers.inside import connection_under, socket_of
from tests.helpers.peers import DEADLINE, trusting
from tests.helpers.proxy import Proxy
from tests.helpers.reconnecting import QUICK, Gate, member, next_of, texts
from tests.helpers.servers import Serve, Started

# More than one record of TLS, less than is encrypted at a time.
HUGE = "x" * 60_000


@contextmanager
def in_room(started: Started, **options: object) -> Iterator[tuple[Client, Proxy]]:
    """As `member`, in TLS if the server speaks it."""
    with member(started, tls=trusting() if started.tls else False, **options) as both:
        yield both


def for_ever(step: Callable[[], object]) -> None:
    """Until it raises."""
    while True:
        step()


def data_of(sock: socket.socket) -> None:
    """Read something, which isn't the end."""
    assert sock.recv(1 << 24)


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system has no TCP_KEEPIDLE")
@pytest.mark.parametrize("reconnect", [False, True])
def test_the_kernel_finds_a_silent_loss(serve: Serve, reconnect: bool) -> None:
    """A server that the network can't reach any more is asked after half of `silent_seconds`, and then given up."""
    port, names = serve().port, ["TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"]
    for seconds, expected in ((60, [1, 30, 10, 3]), (600, [1, 300, 100, 3])):
        with Client(port=port, reconnect=reconnect, silent_seconds=seconds) as client:
            sock = socket_of(connection_under(client))
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names] == expected


@pytest.mark.parametrize("name", ["silent_seconds", "unacknowledged_seconds"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_bounds_are_above_zero(kind: Callable[..., object], name: str) -> None:
    """As those of a server."""
    for value in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"{name} must be above zero"):
            kind(port=1, **{name: value})


@pytest.mark.usefixtures("at_once")
def test_out_of_descriptors(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt for which there is none has failed; a later one succeeds."""
    failures = [OSError(errno.EMFILE, "Too many open files") for _ in range(3)]
    pair = socket.socketpair

    def socketpair() -> tuple[socket.socket, socket.socket]:
        if failures:
            raise failures.pop()
        return pair()

    with member(serve()) as (bob, proxy):
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socketpair", socketpair)
            proxy.link_of(bob).reset()
            next_of(bob, Disconnected)
            next_of(bob, Reconnected)
        assert not failures


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_no_thread_to_come_back(serve: Serve, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """That is raised, Ctrl-C at that moment too, and ends the conversation: nobody waits for ever."""

    def start(reconnector: Reconnector) -> None:
        raise error

    monkeypatch.setattr(Reconnector, "start", start)
    with member(serve()) as (bob, proxy):
        proxy.link_of(bob).reset()
        with pytest.raises(type(error)):
            next_of(bob, Reconnected)
        with pytest.raises((RuntimeError, ConnectionClosed)):
            next_of(bob, Reconnected)


def test_an_unforeseen_error_ends_the_conversation(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the thread is raised by `receive`."""

    def uniform(least: float, most: float) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(reconnect, "Backoff", lambda: Backoff(uniform))
    with member(serve()) as (bob, proxy):
        proxy.link_of(bob).reset()
        with pytest.raises(ZeroDivisionError):
            next_of(bob, Reconnected)


@pytest.mark.parametrize("leave", [lambda bob: bob.send("exit"), Client.send_eof])
def test_leaving_a_server_that_did_not_listen(serve: Serve, leave: Callable[[Client], None]) -> None:
    """It ends in order, but hasn't heard the line: that is told."""
    with member(serve()) as (bob, proxy):
        connection = proxy.link_of(bob)
        connection.to_server.stall()
        bob.send("hi")
        leave(bob)
        connection.to_client.half_close()
        assert [event.line for event in bob if isinstance(event, Unconfirmed)] == ["hi"]


@pytest.mark.parametrize("leave", [lambda bob: bob.send("exit"), Client.send_eof])
def test_leaving_a_server_that_listens(serve: Serve, leave: Callable[[Client], None]) -> None:
    """All lines are confirmed before the end, also those after the last question."""
    with member(serve()) as (bob, _):
        for number in range(100):
            bob.send(f"{number}")
        leave(bob)
        assert list(bob) == []


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("tls", [True])
def test_an_end_after_the_loss_was_found(serve: Serve) -> None:
    """In TLS: closing or ending a connection that a receiver has just given up raises nothing, and holds no lock."""
    with in_room(serve()) as (bob, proxy):
        under = connection_under(bob)
        proxy.link_of(bob).reset()
        next_of(bob, Disconnected)
        with suppress(ConnectionClosed):
            under.leave()
        under.begin_close(None)
        assert not under.sending.locked()


@pytest.mark.parametrize("tls", [True])
def test_a_line_of_which_a_part_is_under_way(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails and it is encrypted already it may be heard: it isn't kept to be said once more."""
    with in_room(serve(), queue=5, max_line_bytes=len(HUGE)) as (bob, proxy):
        proxy.link_of(bob).to_server.stall()

        def fail(*waited_for: object) -> None:
            raise OSError(errno.EPIPE, "Broken pipe")

        under, data = connection_under(bob), HUGE.encode()
        with monkeypatch.context() as patched:
            patched.setattr(connection, "wait", fail)
            with pytest.raises(ConnectionClosed):
                for_ever(lambda: under.write(data))
        assert under.failed_in_line


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("tls", [True])
def test_a_line_of_which_a_part_is_under_way_is_not_sent_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't queued for the return: its fate is unknown. The lines after it are."""
    with in_room(serve(), queue=2, max_line_bytes=len(HUGE) + 10) as (bob, proxy):
        proxy.link_of(bob).to_server.stall()
        sent, failed = list[str](), list[str]()

        def fail(*waited_for: object) -> None:
            failed.append(sent[-1])
            raise OSError(errno.EPIPE, "Broken pipe")

        def send() -> None:
            sent.append(f"{len(sent)} {HUGE}")
            bob.send(sent[-1])

        with monkeypatch.context() as patched:
            patched.setattr(connection, "wait", fail)
            with pytest.raises(NotConnected):
                for_ever(send)
        *_, begun, first, second, _ = sent
        assert failed == [begun]
        assert bob.queued == [first, second]


def test_ctrl_c_in_the_middle_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is never said, and the next one isn't glued to it: this connection is over, by a reset."""

    def interrupt(*waited_for: object) -> None:
        raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Client(port=port) as client:
            server, _ = listener.accept()
            with server, monkeypatch.context() as patched:
                server.settimeout(DEADLINE)
                patched.setattr(connection, "wait", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    for_ever(lambda: client.send("x" * 8000))
                for use in (lambda: client.send("y"), client.receive):
                    with pytest.raises(ConnectionClosed, match="a line was broken off"):
                        use()
                server.setblocking(False)
                with pytest.raises(BlockingIOError):
                    for_ever(lambda: data_of(server))
                server.settimeout(DEADLINE)
                client.close()
                with pytest.raises(ConnectionResetError):
                    for_ever(lambda: data_of(server))


def test_the_end_waits_for_the_queue(serve: Serve, gate: Gate) -> None:
    """`send_eof` just after the return comes after the lines of the queue."""
    started = serve()
    with Client(port=started.port) as ann, member(started, queue=1000) as (bob, proxy):
        proxy.link_of(bob).reset()
        next_of(bob, Disconnected)
        for number in range(1000):
            bob.send(f"{number}")
        gate.put(0)
        next_of(bob, Reconnected)
        bob.send_eof()
        assert texts(ann, "999") == [f"{number}" for number in range(1000)]
        assert list(bob) == []
        assert bob.queued == []


@pytest.mark.usefixtures("at_once")
def test_the_room_says_why_it_does_not_let_us_in() -> None:
    """Once, however many attempts it takes."""
    with Server(port=0, limits=QUICK) as server:
        port = server.port
        bob = Client(port=port, reconnect=True)
    with bob, socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(DEADLINE)
        next_of(bob, Disconnected)
        for reason in ("one", "one", "other"):
            sock, _ = listener.accept()
            with sock:
                sock.recv(100)
                sock.sendall(f"*** {reason}\n".encode())
        assert [bob.receive(DEADLINE) for _ in range(2)] == [
            Notice(f"not let in: {reason}; trying again") for reason in ("one", "other")
        ]
