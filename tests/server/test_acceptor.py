"""Accepting connections, also when the system can't."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress
from typing import Any

import pytest

from chatkit import Limits, Server
from chatkit.net import sockets
from chatkit.server import acceptor
from chatkit.server.acceptor import PAUSE_SECONDS, SEND_BUFFER_BYTES, listen, prepare
from tests.helpers.inside import pauses_of, replace_listener
from tests.helpers.marks import needs
from tests.helpers.peers import Peer
from tests.helpers.servers import Serve


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM])
def test_accept_that_fails_pauses_and_goes_on(serve: Serve, caplog: pytest.LogCaptureFixture, code: int) -> None:
    """Lack of descriptors is logged once, and ends by itself; a peer that gave up while it waited is no matter."""
    started = serve()
    pauses = pauses_of(started.server)
    failures = [OSError(code, os.strerror(code))] * 3 + [ConnectionAbortedError()]

    class Failing:
        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener

        def accept(self) -> Any:
            if failures:
                raise failures.pop(0)
            return self.listener.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.listener, name)

    replace_listener(started.server, Failing)
    ann, bob = started.peers(2)
    started.events.wait_for("join")
    started.events.wait_for("join")
    ann.send(b"in\n")
    assert bob.line() == f"{ann.name}: in".encode()
    assert failures == []
    assert len(pauses) >= 2, "after each failure, but for those of a spare descriptor's accept"
    assert set(pauses) == {PAUSE_SECONDS}
    assert [record.getMessage() for record in caplog.records] == [f"cannot accept connections: {os.strerror(code)}"]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
@pytest.mark.parametrize("has_tcp_info", [True, False])
def test_the_kernel_is_told_how_patient_to_be(monkeypatch: pytest.MonkeyPatch, has_tcp_info: bool) -> None:
    """By default it asks a silent peer after 30 s, every 10 s, 3 times.

    It waits 30 s for acknowledgements only where it doesn't tell about these: it also ends peers that just don't read.
    """
    monkeypatch.setattr(sockets, "HAS_TCP_INFO", has_tcp_info)
    with socket.socket() as sock:
        prepare(sock, Limits())
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        names = ["TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"]
        found = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        assert found == [1, 30, 10, 3, 0 if has_tcp_info else 30_000]


@needs(sys.platform == "linux", "Linux")
def test_few_wait_to_be_accepted() -> None:
    """A line waits until all that wait are accepted, so their number is bounded; Linux says how many may."""
    with listen("127.0.0.1", 0) as listener:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    assert int.from_bytes(info[28:32], sys.byteorder) <= 1024  # tcpi_sacked, see tcp_get_info in Linux


def test_the_kernel_holds_little_for_a_member() -> None:
    """Without a bound it grows to 4 MB for each that reads nothing. Linux counts twice as much, for its own needs."""
    with socket.socket() as sock:
        prepare(sock, Limits())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) in (SEND_BUFFER_BYTES, 2 * SEND_BUFFER_BYTES)


def test_an_acceptor_that_dies_ends_the_server(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is closed, the members' conversations end, `shutdown` tells the reason."""

    def die(*_: object) -> None:
        raise SystemExit("of the test")

    monkeypatch.setattr(acceptor, "prepare", die)
    server = Server(port=0)
    server.start()
    peer = Peer(server.port)
    with suppress(ConnectionResetError):
        assert peer.rest() == b""
    peer.close()
    with pytest.raises(RuntimeError, match="a thread of the server died: SystemExit"):
        server.serve_forever()
    assert "chatkit-acceptor died" in caplog.text
    with pytest.raises(ConnectionRefusedError):
        Peer(server.port)
