"""The right to read, and what its waiters wait for."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

import pytest

from chatkit.client import baton as baton_module
from chatkit.client.baton import Baton
from tests.helpers.peers import DEADLINE


def test_one_thread_has_it() -> None:
    """Others get it when it is given back, or not in time."""
    baton, got = Baton(), SimpleQueue[bool]()
    assert not baton.locked()
    other = baton.hold()
    with baton.hold() as reading:
        assert not baton.locked()
        assert reading.acquire()
        assert (baton.locked(), baton.is_mine) == (True, True)
        with other:
            assert not other.acquire(blocking=False)
            assert not other.acquire(timeout=0)
            begun = time.monotonic()
            assert not other.acquire(timeout=0.05)
            assert time.monotonic() - begun >= 0.05
        assert baton.locked()  # the other one had nothing to give back
        thread = threading.Thread(target=lambda: got.put(baton.hold().acquire(timeout=DEADLINE)))
        thread.start()
    assert got.get(timeout=DEADLINE)
    thread.join(DEADLINE)
    assert (baton.locked(), baton.is_mine) == (True, False)


def test_what_a_thread_waits_for_comes_first() -> None:
    """Then it doesn't get the right to read, though it is free, nor does it wait for that."""
    baton, settled, got = Baton(), threading.Event(), SimpleQueue[bool]()
    with baton.hold() as reading:
        assert reading.acquire()
        thread = threading.Thread(target=lambda: got.put(baton.hold().acquire_unless(settled.is_set)))
        thread.start()
        settled.set()
        baton.notify()
        assert not got.get(timeout=DEADLINE)
        thread.join(DEADLINE)
    assert not baton.hold().acquire_unless(settled.is_set)
    assert not baton.locked()


def test_no_wait_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes just before one, or that interrupts none, is seen after it."""
    waits, wait = list[float](), threading.Condition.wait

    def note_and_wait(condition: threading.Condition, seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt
        return wait(condition, seconds)

    monkeypatch.setattr(baton_module, "SIGNAL_SECONDS", 0.01)
    monkeypatch.setattr(threading.Condition, "wait", note_and_wait)
    baton = Baton()
    with baton.hold() as reading:
        assert reading.acquire()
        for timeout in (-1, 1000):
            waits.clear()
            with pytest.raises(KeyboardInterrupt):
                baton.hold().acquire(timeout=timeout)
            assert waits == [0.01] * 3
    assert not baton.locked()
