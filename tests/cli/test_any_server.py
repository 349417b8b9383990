"""`chat-client` and chat servers of other kinds."""

from __future__ import annotations

import time
from itertools import count

import pytest

from chatkit.cli.client.any_server import QUIET_SECONDS, AnyServerClient
from tests.helpers import foreign
from tests.helpers.commands import CONNECTED, DISCONNECTED, Run, client_with
from tests.helpers.foreign import Talk, serving


@pytest.mark.parametrize(
    ("talk", "greeting", "answer", "farewell"),
    [
        (foreign.no_line_ends, ["Welcome"], "Server got: hi", "Bye\n"),
        (foreign.ignores_exit, [], "[someone] hi", ""),
        (foreign.handshake, ["", "*** MyChat v1 ***", "", "Enter your name: "], "Hello, hi!", ""),
        (foreign.frames, [], "␀␀␀␂hi", ""),
        (foreign.json_lines, ['{"type":"notice","from":"server"}'], '{"msg": "hi"}', ""),
        (foreign.latin_1, [], r"␛[1mre\xe7u␛[0m : hi", ""),
    ],
)
def test_servers_of_any_kind(run: Run, talk: Talk, greeting: list[str], answer: str, farewell: str) -> None:
    """Their lines are shown as they come, made harmless; text without a line end after half a second."""
    with serving(talk) as port:
        client = run("chat-client", "--port", str(port))
        assert client.line() == CONNECTED
        assert [client.line() for _ in greeting] == greeting
        client.type("hi")
        assert client.line() == answer
        assert client.ends() == (0, f"{farewell}{DISCONNECTED}\n", "")


def test_a_server_that_echoes(run: Run) -> None:
    """What it sends back is a line as any other."""
    with serving(foreign.echoes) as port:
        client = run("chat-client", "--port", str(port))
        assert client.line() == CONNECTED
        client.type("hi")
        address, _, text = client.line().partition("> ")
        assert (address.partition(":")[0], text) == ("127.0.0.1", "hi")
        assert client.ends() == (0, f"{DISCONNECTED}\n", "")


def test_quiet_lasts_across_calls() -> None:
    """Its half second begins with the text, not with each wait of the caller."""
    with serving(foreign.no_line_ends) as port, AnyServerClient(port=port) as client:
        for waits in count():
            try:
                assert str(client.receive(QUIET_SECONDS / 5)) == "Welcome"
                break
            except TimeoutError:
                assert waits < 100


@pytest.mark.parametrize(
    ("talk", "options"),
    [
        (foreign.no_line_ends, ["--name", "ada"]),
        (foreign.ignores_exit, ["--json"]),
        (foreign.echoes, ["--once"]),
        (foreign.handshake, ["--reconnect"]),
        (foreign.frames, ["--name", "ada", "--json"]),
    ],
)
def test_options_that_a_server_does_not_know(run: Run, talk: Talk, options: list[str]) -> None:
    """Soon one line says which they are."""
    begun = time.monotonic()
    with serving(talk) as port:
        status, out, err = client_with(run, port, "hi\n", *options)
    words = " and ".join(option for option in options if option.startswith("--"))
    problem = f"chat-client: the server at 127.0.0.1:{port} doesn't know {words}: it hasn't answered"
    assert (status, out) == (1, "")
    assert err == f"{problem} (without options chat-client talks to any server of lines)\n"
    assert time.monotonic() - begun < 9  # seconds; a server of chatkit has ten on a bad link


def test_a_server_of_json_of_its_own(run: Run) -> None:
    """Its first line says that it is another kind."""
    with serving(foreign.json_lines) as port:
        status, out, err = client_with(run, port, "hi\n", "--json")
    assert (status, out) == (3, "")
    problem = "chat-client: disconnected: the server sent a line that isn't an event"
    assert err == f"{problem} (only a server of chatkit knows --json)\n"
