"""Forked children of a test's process."""

from __future__ import annotations

import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.helpers.peers import DEADLINE

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Child:
    """A forked child that has done its work, says what came of it, and lives on."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, for a process with threads
            self._pid = os.fork()
        if not self._pid:
            self._work(work, writing)
        os.close(writing)

    def result(self) -> str:
        """Return what came of the work: its result, or a traceback."""
        said = b""
        while not said.endswith(b"\0"):
            assert select.select([self._reading], [], [], DEADLINE)[0], "the child says nothing"
            data = os.read(self._reading, 65536)
            assert data, "the child is dead"
            said += data
        return said[:-1].decode()

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._reading)

    @staticmethod
    def _work(work: Callable[[], object], writing: int) -> None:
        """In the child: never return to the test."""
        try:
            said = str(work())
        except BaseException:
            said = traceback.format_exc()
        try:
            os.write(writing, said.encode() + b"\0")
            signal.pause()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def child(work: Callable[[], object]) -> Iterator[Child]:
    """A child that works now, and lives until the end of `with`."""
    forked = Child(work)
    try:
        yield forked
    finally:
        forked.end()


def in_child(work: Callable[[], object]) -> str:
    """Return what comes of work in a forked child, which has ended then."""
    with child(work) as forked:
        return forked.result()
