"""How `Client(reconnect=True)` ends: by its own will, by the operator's, or because the server is another one."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from chatkit import Client, ConnectionClosed, Disconnected, Error, PasswordRefused, ProtocolError, Reconnected, Server
from chatkit.tls import client_context, server_context
from tests.helpers.inside import is_receiving
from tests.helpers.papers import Papers
from tests.helpers.peers import DEADLINE
from tests.helpers.reconnecting import QUICK, member, next_of
from tests.helpers.servers import Serve


@pytest.mark.usefixtures("never")
def test_close_ends_an_absence_at_once(serve: Serve) -> None:
    """In the middle of a back-off; a waiting `receive` hears it, and no thread is left."""
    with member(serve()) as (bob, proxy):
        proxy.link_of(bob).reset()
        next_of(bob, Disconnected)
        waiting = threading.Thread(target=lambda: list(bob))
        waiting.start()
        while not is_receiving(bob):
            pass
        begun = time.monotonic()
        bob.close()
        assert time.monotonic() - begun < 0.5
        waiting.join(DEADLINE)
        for use in (bob.receive, lambda: bob.send("x")):
            with pytest.raises(ConnectionClosed, match="this client is closed"):
                use()


@pytest.mark.usefixtures("at_once")
def test_close_ends_an_attempt_at_once() -> None:
    """The server's place is taken by one that accepts and says nothing."""
    with Server(port=0, limits=QUICK) as server:
        port = server.port
        bob = Client(port=port, reconnect=True, timeout=None)
    with socket.create_server(("127.0.0.1", port)) as listener:
        next_of(bob, Disconnected)
        listener.settimeout(DEADLINE)
        sock, _ = listener.accept()
        with sock:
            sock.recv(1)  # the opening: now it waits for an answer
            begun = time.monotonic()
            bob.close()
            assert time.monotonic() - begun < 0.5


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("leave", [lambda bob: bob.send("exit"), Client.send_eof])
def test_leaving_while_away(serve: Serve, leave: Callable[[Client], None]) -> None:
    """`exit` and `send_eof` end the conversation at once; nothing can be said after."""
    with member(serve(), queue=1) as (bob, proxy):
        proxy.link_of(bob).reset()
        next_of(bob, Disconnected)
        leave(bob)
        assert list(bob) == []
        with pytest.raises(ConnectionClosed):
            bob.send("x")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("end", ["exit", "eof", "kick"])
def test_ends_that_are_no_loss(serve: Serve, end: str) -> None:
    """A member that has left, or was removed, doesn't come back."""
    started = serve()
    with member(started) as (bob, _):
        if end == "exit":
            bob.send("exit")
        elif end == "eof":
            bob.send_eof()
        else:
            started.server.kick("bob", "enough")
        last = list(bob)
        assert [isinstance(event, Error) and event.code for event in last] == (["removed"] if end == "kick" else [])
        assert started.server.members == []


@pytest.mark.usefixtures("at_once")
def test_another_password_is_final() -> None:
    """The room won't let this client in again; `receive` and `send` say why."""
    with Server(port=0, limits=QUICK, password="one") as server:
        port = server.port
        bob = Client(port=port, password="one", reconnect=True, queue=5)
    with bob, Server(port=port, password="other"):
        with pytest.raises(PasswordRefused):
            list(bob)
        with pytest.raises(PasswordRefused):
            bob.send("hi")


@pytest.mark.usefixtures("at_once")
def test_another_certificate_is_final(certificate: Path, tmp_path: Path) -> None:
    """Another server is there, perhaps an impostor."""
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(other))
    context = client_context(fingerprint=Papers.fingerprint(certificate))
    with Server(port=0, limits=QUICK, tls=server_context(certificate)) as server:
        port = server.port
        bob = Client(port=port, tls=context, reconnect=True)
    with bob:
        with Server(port=port, tls=server_context(certificate), limits=QUICK):
            next_of(bob, Reconnected)
        with Server(port=port, tls=server_context(other)), pytest.raises(ssl.SSLCertVerificationError):
            list(bob)


@pytest.mark.usefixtures("at_once")
def test_nonsense_from_the_server_is_final() -> None:
    """ProtocolError, as without `reconnect`."""
    with Server(port=0, limits=QUICK) as server:
        port = server.port
        bob = Client(port=port, reconnect=True)
    with bob, socket.create_server(("127.0.0.1", port)) as listener:
        next_of(bob, Disconnected)
        listener.settimeout(DEADLINE)
        sock, _ = listener.accept()
        with sock:
            sock.sendall(b"{}\n")
            with pytest.raises(ProtocolError):
                list(bob)
