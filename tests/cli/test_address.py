"""A room's address in one word: chat-server prints it, chat-client takes it."""

from __future__ import annotations

import socket

import pytest

from chatkit.net.urls import parse_url
from tests.helpers.commands import CONNECTED, Run, err_line, invoke, start_server
from tests.helpers.networks import ADDRESS, ip, needs_networks, two_hosts
from tests.helpers.papers import Papers

PIN = "1a" * 32


@pytest.mark.parametrize("form", ["127.0.0.1:{port}", "chat://127.0.0.1:{port}", "chat://127.0.0.1:{port}/"])
def test_an_address(run: Run, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """It counts more than the environment."""
    monkeypatch.setenv("CHATKIT_HOST", "192.0.2.1")
    server, port = start_server(run, "--host", "127.0.0.1")
    client = run("chat-client", form.format(port=port))
    assert client.line() == CONNECTED
    assert server.line().startswith("New connection")
    assert client.ends() == (0, "Disconnected from server.\n", "")


def test_an_address_without_a_port(run: Run) -> None:
    """That of --port counts."""
    _, port = start_server(run)
    assert run("chat-client", "localhost", "--port", port).line() == CONNECTED


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("a:b", "'a:b' is no address; write it as HOST, HOST:PORT, chat://HOST:PORT or chats://HOST:PORT#SHA256"),
        ("a:1 --port 2", "--port and the address a:1 exclude each other"),
        ("chat://a --host b", "--host and the address chat://a exclude each other"),
        ("chat://a --tls", "--tls and the address chat://a exclude each other"),
        ("chat://a --tls-trust", "TLS needs chats:// in place of chat://"),
        (f"chats://a#{PIN} --tls-trust", "--tls-ca, --tls-fingerprint and --tls-trust exclude each other"),
        ("chats://a#1a", "a fingerprint is 64 hexadecimal digits, as chat-server prints it"),
    ],
)
def test_an_address_beside_options(arguments: str, problem: str) -> None:
    """Contradictions are refused before anything is sent."""
    status, out, err = invoke("chat-client", *arguments.split())
    assert (status, out) == (2, "")
    assert problem in err


@needs_networks
@pytest.mark.parametrize("host", ["0.0.0.0", "::", ADDRESS])
@pytest.mark.parametrize("protected", [False, True])
def test_the_line_for_guests_on_a_network(run: Run, papers: Papers, host: str, protected: bool) -> None:
    """It has the machine's address towards others and all that is needed to trust it, and it works from there."""
    options = ("--tls-cert", str(papers.good)) if protected else ()
    with two_hosts() as (here, there):
        ip(f"-n {here.name} route add default via 10.123.4.2")
        server = here.run(run, "chat-server", "--host", host, "--port", "0", *options)
        line = server.line()
        assert line.startswith("Server listening on ")
        said = err_line(server)
        url = parse_url(said.removeprefix("chat-server: guests join with: chat-client "))
        assert (url.host, url.tls) == (ADDRESS, protected)
        assert url.fingerprint == (papers.fingerprint(papers.good) if protected else None)
        assert line.endswith(f":{url.port}")
        guest = there.run(run, "chat-client", str(url))
        assert guest.line() == CONNECTED
        assert err_line(server).startswith("chat-server: anyone who can reach ")


@needs_networks
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_machine_without_a_way_to_others(run: Run, host: str) -> None:
    """Its name stands for the address that it hasn't."""
    with two_hosts() as (here, _):
        server = here.run(run, "chat-server", "--host", host, "--port", "0")
        port = server.line().rpartition(":")[2]
        assert err_line(server) == f"chat-server: guests join with: chat-client chat://{socket.gethostname()}:{port}"
