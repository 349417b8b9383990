"""`Client` against the real server, and against servers that misbehave."""

from __future__ import annotations

import _thread
import asyncio
import math
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

import chatkit
from chatkit import (
    AsyncClient,
    Client,
    ConnectionClosed,
    Disconnected,
    Event,
    Message,
    Notice,
    ProtocolError,
    Server,
    Welcome,
)
from chatkit.client import cancel, connection, reconnect
from chatkit.client.baton import Baton
from chatkit.net.sockets import QuietSocket
from tests.helpers.aio import in_loop
from tests.helpers.endless import WELCOME
from tests.helpers.inside import is_receiving, is_sending
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve


def test_the_example_of_the_readme() -> None:
    """A server and two clients in a program."""
    with Server(port=0) as server, Client(port=server.port) as ann, Client(port=server.port) as bob:
        ann.send("Hi!")
        message = bob.receive(timeout=DEADLINE)
        assert message == Message(str(ann.address[1]), "Hi!")
        assert str(message) == f"{ann.address[1]}: Hi!"


def test_iteration_ends_with_the_conversation(serve: Serve) -> None:
    """After `exit` the iteration ends quietly, with everything received; so does each later one."""
    started = serve()
    with Client(port=started.port) as ann, Client(port=started.port) as bob:
        for text in ("a", "b", "exit"):
            ann.send(text)
        assert list(ann) == []
        assert [bob.receive(DEADLINE).text for _ in "ab"] == ["a", "b"]
        started.server.broadcast("c")
        events = iter(bob)
        assert next(events) == Notice("c")
        bob.send("exit")
        assert list(events) == []
        assert list(bob) == []
        with pytest.raises(ConnectionClosed, match="the server ended the conversation") as caught:
            bob.receive()
        assert caught.value.clean


@pytest.mark.timed
@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("is_away", [False, True])
def test_ctrl_c_where_no_signal_interrupts_a_wait(monkeypatch: pytest.MonkeyPatch, serve: Serve, is_away: bool) -> None:
    """As on Windows: each wait of `receive` is short, and the interrupt is seen after it."""
    for module in (cancel, reconnect):
        monkeypatch.setattr(module, "SIGNAL_SECONDS", 0.01)
    started, waiting = serve(), threading.Event()

    class Telling(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            waiting.set()
            return super().select(timeout)

    with Client(port=started.port, reconnect=is_away) as client:
        if is_away:
            assert isinstance(client.receive(DEADLINE), Welcome)
            started.server.shutdown(0)
            assert isinstance(client.receive(DEADLINE), Disconnected)
        monkeypatch.setattr(cancel, "Selector", Telling)

        def interrupt() -> None:
            while not is_receiving(client):
                pass
            assert is_away or waiting.wait(DEADLINE)
            _thread.interrupt_main()  # sets the flag that a signal sets, and interrupts nothing

        thread, begun = threading.Thread(target=interrupt), time.monotonic()
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.receive(DEADLINE)
        assert time.monotonic() - begun < DEADLINE / 2
        thread.join()


@pytest.mark.parametrize("step", ["take", "take_back"])
def test_an_interrupt_of_a_read_ends_no_other(monkeypatch: pytest.MonkeyPatch, serve: Serve, step: str) -> None:
    """Ctrl-C just after the right to read was taken, or just before it is given back: others read, `close` ends."""
    started = serve()
    with Client(port=started.port) as client:
        do = getattr(Baton, step)

        def interrupted(*arguments: object) -> None:
            monkeypatch.undo()
            if step == "take":
                do(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(Baton, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.receive(0)
        if step == "take":
            started.server.broadcast("bye")
            got = SimpleQueue[Event]()
            thread = threading.Thread(target=lambda: got.put(client.receive(DEADLINE)))
            thread.start()
            assert got.get(timeout=DEADLINE) == Notice("bye")
            thread.join(DEADLINE)


def test_send_eof_says_the_end_and_still_hears(serve: Serve) -> None:
    """Half a close: the server's last lines arrive."""
    started = serve()
    with Client(port=started.port) as ann:
        started.server.broadcast("bye")
        assert ann.receive(DEADLINE) == Notice("bye")
        ann.send_eof()
        assert list(ann) == []
        assert started.events.wait_for("leave") == "end of stream"


def test_send_after_send_eof(chat_server: Server) -> None:
    """Both clients: ConnectionClosed, at once and again; lines that come can still be received."""
    with Client(port=chat_server.port) as client:
        client.send_eof()
        for _ in range(2):
            with pytest.raises(ConnectionClosed):
                client.send("x")
        assert list(client) == []

    @in_loop
    async def in_a_loop() -> None:
        async with AsyncClient(port=chat_server.port) as client:
            await client.send_eof()
            for _ in range(2):
                with pytest.raises(ConnectionClosed):
                    await client.send("x")
            assert [event async for event in client] == []

    in_a_loop()
    assert chat_server.stats.messages == 0


def test_close_returns_when_all_was_heard(serve: Serve) -> None:
    """When `close` returns the server has taken what was sent, and the member has left."""
    started = serve()
    for _ in range(20):
        client = Client(port=started.port)
        client.send("one last thing")
        client.close()
        assert started.server.members == []
        client.close()
    assert started.server.stats.messages == 20
    with pytest.raises(ConnectionClosed, match="this client is closed"):
        client.receive()
    with pytest.raises(ConnectionClosed, match="this client is closed"):
        client.send("x")
    assert list(client) == []


def test_text_that_the_wire_cannot_carry(serve: Serve) -> None:
    """A text that holds a line end or is too long is not sent, not even in part."""
    started = serve()
    with Client(port=started.port, max_line_bytes=5) as ann, Client(port=started.port) as bob:
        for text in ("a\nb", "123456", "ééé"):
            with pytest.raises(ValueError, match="not sent"):
                ann.send(text)
        ann.send("12345")
        assert bob.receive(DEADLINE) == Message(str(ann.address[1]), "12345")


def test_receive_waits_no_longer_than_asked(serve: Serve) -> None:
    """0 only looks; a timeout leaves the client usable, also while another thread waits."""
    started = serve()
    with Client(port=started.port) as ann:
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError):
                ann.receive(timeout)
        waiting = threading.Thread(target=ann.receive)
        waiting.start()
        while not is_receiving(ann):
            pass
        with pytest.raises(TimeoutError):
            ann.receive(0.01)
        started.server.broadcast("x")
        waiting.join(DEADLINE)
        started.server.broadcast("y")
        assert ann.receive(DEADLINE) == Notice("y")


def test_timeouts_of_any_size(serve: Serve) -> None:
    """Less than nothing is nothing; for ever is possible."""
    started = serve()
    with Client(port=started.port) as client:
        with pytest.raises(TimeoutError):
            client.receive(-0.5)
        for timeout in (math.inf, 1e12):
            started.server.broadcast("x")
            assert client.receive(timeout).text == "x"


@pytest.mark.parametrize("waits_in", ["receive", "send"])
def test_close_in_another_thread_ends_the_wait(waits_in: str) -> None:
    """A waiting `receive` or `send` gets ConnectionClosed, even if the server is deaf and mute."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(port=listener.getsockname()[1])
        caught: list[ConnectionClosed] = []

        def wait() -> None:
            try:
                while waits_in == "send":
                    client.send("x" * 8000)
                client.receive()
            except ConnectionClosed as closed:
                caught.append(closed)

        thread = threading.Thread(target=wait)
        thread.start()
        is_waiting = is_receiving if waits_in == "receive" else is_sending
        while not is_waiting(client):
            pass
        client.close(grace=0.1)
        thread.join(DEADLINE)
        assert caught[0].clean
        listener.accept()[0].close()


def receive_all(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


def test_closing_while_another_thread_sends() -> None:
    """Half a line never looks like a whole one: the server sees a reset instead of an end of stream."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(port=listener.getsockname()[1], max_line_bytes=50_000_000)
        sock, _ = listener.accept()

        def send() -> None:
            with pytest.raises(ConnectionClosed):
                client.send("x" * 50_000_000)

        with sock:
            sender = threading.Thread(target=send)
            sender.start()
            while not is_sending(client):
                pass
            sock.recv(1000)
            client.close(grace=0.1)
            sender.join(DEADLINE)
            with pytest.raises(ConnectionResetError):
                receive_all(sock)


@pytest.mark.stress
def test_threads_share_a_client(serve: Serve) -> None:
    """Several threads send whole lines and receive each message once, at the same time."""
    started = serve()
    with Client(port=started.port) as ann, Client(port=started.port) as bob:
        received: list[Event] = []

        def send(mark: str) -> None:
            for number in range(200):
                ann.send(f"{mark}{number}")

        def receive() -> None:
            received.extend(bob)

        threads = [threading.Thread(target=send, args=(mark,)) for mark in "abc"]
        receivers = [threading.Thread(target=receive) for _ in range(2)]
        for thread in threads + receivers:
            thread.start()
        for thread in threads:
            thread.join()
        ann.close()
        bob.send("exit")
        for thread in receivers:
            thread.join()
        texts = [event.text for event in received]
        assert sorted(texts) == sorted(f"{mark}{number}" for mark in "abc" for number in range(200))


@pytest.fixture
def lying_server() -> Iterator[Callable[[bytes, bool], Client]]:
    """lying_server(data, reset) gives a client whose server sends that and ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def connect(data: bytes, reset: bool) -> Client:
            client = Client(port=listener.getsockname()[1])
            sock, _ = listener.accept()
            with sock:
                thread = threading.Thread(target=sock.sendall, args=(data,))
                thread.start()
                first = client.receive(DEADLINE)
                assert first == Notice("hello")
                thread.join() if len(data) < 10_000 else None
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return client

        yield connect


@pytest.mark.parametrize(
    ("data", "reset", "error", "reason"),
    [
        (b"", True, ConnectionClosed, "Connection reset by peer"),
        (b"half a li", False, ConnectionClosed, "the server ended in the middle of a line"),
        (b"1: \xff\n", False, ProtocolError, "the server sent a line not valid UTF-8"),
    ],
)
def test_a_server_that_misbehaves(
    lying_server: Callable[[bytes, bool], Client], data: bytes, reset: bool, error: type[Exception], reason: str
) -> None:
    """One documented error each, every time one asks; half a line never comes out."""
    with lying_server(b"*** hello\n" + data, reset) as client:
        for _ in range(2):
            with pytest.raises(error, match=reason):
                client.receive(DEADLINE)
        with pytest.raises(error, match=reason):
            list(client)


def test_an_endless_line_from_the_server() -> None:
    """It ends the conversation before it takes much memory."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Client(port=listener.getsockname()[1]) as client:
        sock, _ = listener.accept()

        def pour() -> None:
            with sock:
                try:
                    while True:
                        sock.sendall(b"x" * 65536)
                except OSError:
                    pass

        thread = threading.Thread(target=pour)
        thread.start()
        with pytest.raises(ProtocolError, match="longer than 1048576 bytes"):
            client.receive(DEADLINE)
        client.close()
        thread.join(DEADLINE)


def test_no_server_there() -> None:
    """An OSError passes through untouched, and nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        Client(port=port)
    with pytest.raises(socket.gaierror):
        Client("no such host")


def test_the_clients_know_no_server() -> None:
    """Neither the server nor the room: a client depends on the protocol alone."""
    files = [*(Path(chatkit.__file__).parent / "client").glob("*.py")]
    assert len(files) > 5
    for path in files:
        found = re.search(r"(?:from|import) chatkit(?:\.(?:server|room|history|cli)\b| import)", path.read_text())
        assert not found, f"{path.name}: {found}"


def test_a_program_that_was_stopped_reads_before_it_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived in time counts, however late the process sees it: the answer to the opening, and any event."""
    wait, late, arrivals, peers = cancel.wait, [0.0], iter([WELCOME, b"*** hi\n"]), list[socket.socket]()

    def wait_and_be_stopped(sock: socket.socket, event: int, *rest: object) -> None:
        if event == selectors.EVENT_READ:
            peers.append(listener.accept()[0]) if not peers else None
            peers[0].sendall(next(arrivals))
            wait(sock, event, None)
            late[0] += 100

    monkeypatch.setattr(connection, "wait", wait_and_be_stopped)
    monkeypatch.setattr(cancel, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late[0]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        with Client(port=listener.getsockname()[1], events=True, timeout=50) as client:
            assert isinstance(client.receive(50), Welcome)
            assert client.receive(50) == Notice("hi")
            peers[0].close()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("reconnect", [False, True])
def test_a_client_is_never_connected_to_itself(
    monkeypatch: pytest.MonkeyPatch, kind: type[Client | AsyncClient], reconnect: bool
) -> None:
    """Where nobody listens the kernel may choose the very port for this side: refused, and the port is free again."""
    own = list[Any]()

    def own_address(sock: socket.socket) -> Any:
        sock.bind(("127.0.0.1", 0))
        own.append(sock.getsockname())
        return own[-1]

    def to_itself(sock: socket.socket, address: object) -> None:
        socket.socket.connect(sock, own_address(sock))

    def to_itself_ex(sock: socket.socket, address: object) -> int:
        return socket.socket.connect_ex(sock, own_address(sock))

    async def join() -> None:
        if kind is Client:
            Client(port=1, reconnect=reconnect).close()
        else:
            await AsyncClient(port=1, reconnect=reconnect).connect()

    monkeypatch.setattr(QuietSocket, "connect", to_itself)
    monkeypatch.setattr(QuietSocket, "connect_ex", to_itself_ex)
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(join())
    with socket.socket() as server:
        server.bind(own[0])
