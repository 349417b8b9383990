"""Mistakes of people at the commands: one line for them, nothing for the room."""

from __future__ import annotations

import pytest

from chatkit import Limits
from tests.helpers.commands import CONNECTED, DISCONNECTED, Run, invoke, shell
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve

pytestmark = pytest.mark.slow


def test_input_that_looks_like_another_protocol(run: Run, serve: Serve) -> None:
    """chat-client sends it like any line; the server's word on it is shown, and the end is no clean one."""
    client = run("chat-client", "--port", str(serve().port))
    assert client.line() == CONNECTED
    client.type("GET / HTTP/1.1")
    assert client.line() == "HTTP/1.1 400 Bad Request"
    assert client.process.wait(DEADLINE) == 3
    client.ends()


def test_a_refusal_is_no_success(run: Run, serve: Serve) -> None:
    """`echo x | chat-client` into a full room says so, with exit status 3: the line went nowhere."""
    started = serve(limits=Limits(max_clients=1))
    started.peer()
    started.events.wait_for("join")
    status, out, err = shell(f"echo x | chat-client --port {started.port}")
    assert (status, out) == (3, f"{CONNECTED}\n*** the room is full\n")
    assert err == "chat-client: disconnected: the server ended the conversation\n"


def test_options_that_are_none() -> None:
    """The command says so, with exit status 2."""
    status, _, err = invoke("chat-server", "--stall-seconds", "nan")
    assert status == 2
    assert "stall_seconds must be above zero" in err


@pytest.mark.parametrize("command", ["chat-server", "chat-client"])
def test_host_names_that_are_none(run: Run, command: str) -> None:
    """One line, no traceback."""
    for host in ("a..b", "x" * 64):
        status, _, err = run(command, "--host", host).ends()
        assert (status, err.count("\n")) == (1, 1)
        assert "no such host" in err


def test_a_client_that_cannot_complain(serve: Serve) -> None:
    """A full or closed stderr changes neither what it does nor its exit status."""
    client = f"chat-client --port {serve().port}"
    for stderr in ("2>/dev/full", "2>&-"):
        assert shell(f"printf 'é\\n\\xff\\n' | {client} {stderr}") == (0, f"{CONNECTED}\n{DISCONNECTED}\n", "")
