"""Both clients leave servers that don't end the conversation."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

import pytest

from chatkit import ConnectionClosed
from tests.helpers.aio import BLOCK
from tests.helpers.both import Both, Connect
from tests.helpers.endless import NOTICE, WELCOME, endless_server
from tests.helpers.peers import DEADLINE

EXIT_SECONDS = 0.3
REASON = "the server didn't end the conversation within 0.3 seconds"


def end_of(client: Both) -> ConnectionClosed:
    """Receive until the end; return its reason."""
    while True:
        try:
            client.call("receive", timeout=DEADLINE)
        except ConnectionClosed as error:
            return error


@pytest.mark.parametrize("reconnect", [False, True], ids=["once", "reconnect"])
@pytest.mark.parametrize("line", [None, NOTICE], ids=["silent", "endless"])
@pytest.mark.parametrize("verb", ["leave", "send_eof"])
def test_a_server_that_ignores_the_end(connect: Connect, verb: str, line: bytes | None, reconnect: bool) -> None:
    """It has `exit_seconds`, whether it reads nothing or never stops sending; then the conversation is over."""
    with endless_server(WELCOME if reconnect else b"", line) as server:
        client = connect(server.port, reconnect=reconnect, exit_seconds=EXIT_SECONDS)
        begun = time.monotonic()
        client.call(verb)
        error = end_of(client)
        assert (str(error), error.clean) == (REASON, False)
        assert EXIT_SECONDS <= time.monotonic() - begun < EXIT_SECONDS + DEADLINE / 2
        with pytest.raises(ConnectionClosed):
            client.call("send", "more")


def test_a_send_that_waits_ends_with_the_conversation(connect: Connect) -> None:
    """Another thread or task leaves meanwhile, and the server reads nothing."""
    with endless_server(line=None) as server:
        client = connect(server.port, exit_seconds=EXIT_SECONDS)
        sends = list[Future[Any]]()
        while not sends or sends[-1].exception(DEADLINE) is None:
            try:
                sends.append(client.begin("send", BLOCK))
                sends[-1].result(0.5)
            except TimeoutError:
                break
        leaving = client.begin("leave")
        assert str(end_of(client)) == REASON
        for waiting in (sends[-1], leaving):
            assert isinstance(waiting.exception(DEADLINE), ConnectionClosed)


def test_exit_ends_the_stream_of_lines(connect: Connect) -> None:
    """A server that knows no `exit` finds the end of the stream."""
    with endless_server(line=None) as server:
        client = connect(server.port)
        sock = server.streaming.get(timeout=DEADLINE)
        client.call("send", " exit ")
        sock.settimeout(DEADLINE)
        assert (sock.recv(100), sock.recv(100)) == (b" exit \n", b"")


def test_exit_seconds_is_a_time(connect: Connect) -> None:
    """Above zero."""
    with pytest.raises(ValueError, match="exit_seconds must be above zero, not 0"):
        connect(1, exit_seconds=0)
