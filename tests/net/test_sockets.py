"""Waking a thread that waits in a selector."""

from __future__ import annotations

import selectors
from typing import Any

from chatkit.net.sockets import Waker
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
