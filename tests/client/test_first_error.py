"""The kernel tells of a lost connection once, to a read or to a write: everyone else learns the same reason."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chatkit import Client, ConnectionClosed, Disconnected, Notice, Welcome
from tests.helpers.aio import in_loop, raw_server
from tests.helpers.commands import CONNECTED, Run
from tests.helpers.inside import connection_under, replace_socket
from tests.helpers.peers import DEADLINE
from tests.helpers.processes import linux

RESET = b"\1\0\0\0\0\0\0\0"
REASON = "Connection reset by peer"
WELCOME = b'{"type":"welcome","name":"1","newest":0,"epoch":"0123456789abcdef"}\n'


@contextmanager
def lost_client(last: bytes = b"", **options: Any) -> Iterator[Client]:
    """A client whose server has sent `last` and reset the connection; the client has read neither."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        accepted = list[socket.socket]()

        def accept() -> None:
            accepted.append(listener.accept()[0])
            accepted[0].sendall(WELCOME if options else b"")

        thread = threading.Thread(target=accept)
        thread.start()
        with Client(port=listener.getsockname()[1], **options) as client:
            thread.join()
            with accepted[0] as sock:
                sock.sendall(last)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            yield client


def assert_lost(client: Client) -> None:
    """Each call tells the reason, again and again."""
    for use in (client.receive, lambda: list(client), lambda: client.send("x"), client.receive):
        with pytest.raises(ConnectionClosed, match=REASON) as caught:
            use()
        assert not caught.value.clean


def test_a_write_hears_of_the_loss_first() -> None:
    """What came before it is received; then the end is no orderly one."""
    with lost_client(b"*** bye\n") as client:
        with pytest.raises(ConnectionClosed, match=REASON):
            client.send("x")
        assert client.receive(DEADLINE) == Notice("bye")
        assert_lost(client)


def test_a_read_hears_of_the_loss_first() -> None:
    """A later `send` doesn't fail for another reason, such as a broken pipe."""
    with lost_client() as client:
        with pytest.raises(ConnectionClosed, match=REASON):
            client.receive(DEADLINE)
        assert_lost(client)


def test_a_write_and_a_read_in_one_moment() -> None:
    """The read finds an end of stream before the failed write has returned."""

    class Failing:
        """The socket; a write that fails returns after another thread's read."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

        def recv(self, max_bytes: int) -> bytes:
            try:
                return self._sock.recv(max_bytes)
            finally:
                has_read.set()

        def send(self, data: bytes) -> int:
            try:
                return self._sock.send(data)
            except OSError:
                reader.start()
                assert has_read.wait(DEADLINE)
                raise

    def receive() -> None:
        try:
            list(client)
        except ConnectionClosed as closed:
            found.append(closed.reason)

    has_read, found, reader = threading.Event(), list[str](), threading.Thread(target=receive)
    with lost_client() as client:
        replace_socket(connection_under(client), Failing)
        with pytest.raises(ConnectionClosed, match=REASON):
            client.send("x")
        reader.join(DEADLINE)
        assert found == [REASON]


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("writes", ["send", "request"])
def test_a_client_that_comes_back_says_why(writes: str) -> None:
    """Also where the error came to a line, or to a request of its own."""
    with lost_client(reconnect=True, queue=1) as client:
        assert isinstance(client.receive(DEADLINE), Welcome)
        if writes == "send":
            client.send("x")
        else:
            connection_under(client).write_nowait(b"/sync\n")
        assert client.receive(DEADLINE) == Disconnected(f"the connection is lost: {REASON}; trying to come back")


def test_an_orderly_end_stays_one() -> None:
    """The server has ended its stream before a write fails: everything arrived, and reads find the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Client(port=listener.getsockname()[1]) as client:
        with listener.accept()[0] as sock:
            sock.sendall(b"*** bye\n")
        client.send("one")  # is answered by a reset
        with pytest.raises(ConnectionClosed):
            client.send("two")
        assert list(client) == [Notice("bye")]
        with pytest.raises(ConnectionClosed, match="the server ended the conversation"):
            client.send("three")


@pytest.mark.usefixtures("each_loop")
@in_loop
async def test_a_write_of_the_asyncio_client_hears_of_the_loss_first() -> None:
    """Later calls raise the same reason."""
    async with raw_server() as (client, sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        await client.send("x")
        for use in (client.receive, lambda: anext(aiter(client)), lambda: client.send("x")):
            with pytest.raises(ConnectionClosed, match=REASON) as caught:
                await asyncio.wait_for(use(), DEADLINE)
            assert not caught.value.clean


@linux
def test_the_input_of_the_command_hears_of_the_loss_first(run: Run) -> None:
    """The thread that shows the chat is busy with output meanwhile; it says why all is over."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = run("chat-client", "--port", str(listener.getsockname()[1]))
        assert command.line() == CONNECTED
        with listener.accept()[0] as sock:
            sock.sendall(b"*** so much that nobody takes it\n" * 10_000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    command.type("exit")
    until = time.monotonic() + DEADLINE
    while len(os.listdir(Path(f"/proc/{command.process.pid}/task"))) > 1:
        assert time.monotonic() < until
    status, _, err = command.ends()
    assert (status, err) == (3, f"chat-client: disconnected: {REASON}; 1 lines of input were not sent\n")
