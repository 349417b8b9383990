"""The right to read, and what its waiters wait for."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

import pytest

from chatkit.client import baton
from chatkit.client.baton import Baton
from tests.helpers.peers import DEADLINE


def test_one_thread_has_it() -> None:
    """Others get it when it is given back, or not in time."""
    reading, got = Baton(), SimpleQueue[bool]()
    assert not reading.locked()
    assert reading.acquire()
    assert reading.locked()
    assert not reading.acquire(blocking=False)
    assert not reading.acquire(timeout=0)
    begun = time.monotonic()
    assert not reading.acquire(timeout=0.05)
    assert time.monotonic() - begun >= 0.05
    thread = threading.Thread(target=lambda: got.put(reading.acquire(timeout=DEADLINE)))
    thread.start()
    reading.release()
    assert got.get(timeout=DEADLINE)
    thread.join(DEADLINE)
    assert reading.locked()


def test_what_a_thread_waits_for_comes_first() -> None:
    """Then it doesn't get the right to read, though it is free, nor does it wait for that."""
    reading, settled, got = Baton(), threading.Event(), SimpleQueue[bool]()
    with reading:
        thread = threading.Thread(target=lambda: got.put(reading.acquire_unless(settled.is_set)))
        thread.start()
        settled.set()
        reading.notify()
        assert not got.get(timeout=DEADLINE)
        thread.join(DEADLINE)
    assert not reading.acquire_unless(settled.is_set)
    assert not reading.locked()


def test_no_wait_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes just before one, or that interrupts none, is seen after it."""
    waits, wait = list[float](), threading.Condition.wait

    def note_and_wait(condition: threading.Condition, seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt
        return wait(condition, seconds)

    monkeypatch.setattr(baton, "SIGNAL_SECONDS", 0.01)
    monkeypatch.setattr(threading.Condition, "wait", note_and_wait)
    reading = Baton()
    with reading:
        for timeout in (-1, 1000):
            waits.clear()
            with pytest.raises(KeyboardInterrupt):
                reading.acquire(timeout=timeout)
            assert waits == [0.01] * 3
    assert not reading.locked()
