"""Addresses as text, and waking a thread that waits in a selector."""

from __future__ import annotations

import selectors
import socket
from typing import Any

import pytest

from chatkit.net.sockets import Waker, host_and_port, listen_on, plain_host, two_tuple
from tests.helpers.inside import waker_reading, waker_socket


def test_a_wake_up_while_another_is_cleared_is_not_lost() -> None:
    """After a `wake` at any point of `clear`, the next one wakes again."""
    with selectors.DefaultSelector() as selector:
        waker = Waker(selector)
        reader = waker_socket(waker)

        class WokenMeanwhile:
            def recv(self, size: int) -> bytes:
                waker.wake()
                return reader.recv(size)

            def __getattr__(self, name: str) -> Any:
                return getattr(reader, name)

        with waker_reading(waker, WokenMeanwhile()):
            waker.wake()
            waker.clear()
        waker.wake()
        assert selector.select(0)
        waker.clear()
        assert not selector.select(0)
        waker.close()


def test_waking_twice_costs_one_byte() -> None:
    """While a wake-up is on its way another one adds nothing; clearing nothing is fine."""
    with selectors.DefaultSelector() as selector:
        waker = Waker(selector)
        waker.clear()
        waker.wake()
        waker.wake()
        assert waker_socket(waker).recv(10) == b"\0"
        waker.close()


@pytest.mark.parametrize(
    ("address", "printed"),
    [
        (("127.0.0.1", 1), "127.0.0.1:1"),
        (("::1", 1, 0, 0), "[::1]:1"),
        (("::ffff:10.0.0.1", 1, 0, 0), "10.0.0.1:1"),
        (("fe80::1", 1, 0, 1), f"[fe80::1%{socket.if_indextoname(1)}]:1"),
        (("fe80::1", 1, 0, 987654321), "[fe80::1%987654321]:1"),
        (("localhost", 1), "localhost:1"),
        (("[::1]", 1), "[::1]:1"),
    ],
)
def test_an_address_can_be_typed_as_it_is_printed(address: Any, printed: str) -> None:
    """With its interface, and in brackets where it has colons."""
    assert host_and_port(two_tuple(address)) == printed
    host, _, port = printed.rpartition(":")
    assert (plain_host(host), int(port)) == (plain_host(two_tuple(address)[0]), 1)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_port_is_for_one_program(monkeypatch: pytest.MonkeyPatch, exclusive: bool) -> None:
    """Where the system has an option for it (Windows), it is set, and the one that would undo it isn't."""
    if exclusive:
        monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)  # in its place
    with listen_on(socket.AF_INET, ("127.0.0.1", 0), backlog=1, dual=False) as listener:
        options = [listener.getsockopt(socket.SOL_SOCKET, each) for each in (socket.SO_KEEPALIVE, socket.SO_REUSEADDR)]
        assert [bool(option) for option in options] == [exclusive, not exclusive]
        with pytest.raises(OSError, match="in use"):
            listen_on(socket.AF_INET, listener.getsockname(), backlog=1, dual=False)
