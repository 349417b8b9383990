"""Histories that wait, fail or forget when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from chatkit import Message
from chatkit.history.memory import MemoryHistory
from tests.helpers.peers import DEADLINE


class Scripted(MemoryHistory):
    """A history in place of a file: `append` waits for `gate`, and fails while `failure` is set.

    Attributes:
        groups: the number of messages of each append.
    """

    def __init__(self) -> None:
        super().__init__(100_000)
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()
        self.failure: BaseException | None = None
        self.groups: list[int] = []

    def append(self, messages: Sequence[Message]) -> None:
        if not self.gate.is_set():
            self.waits.set()
        assert self.gate.wait(DEADLINE)
        if self.failure:
            raise self.failure
        if messages:
            self.groups.append(len(messages))
        super().append(messages)
