"""The history in memory."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chatkit import Message
from chatkit.history import memory
from chatkit.history.base import estimated_bytes
from chatkit.history.memory import BLOCK, MemoryHistory
from tests.helpers.history_contract import ALL, HistoryContract, said
from tests.helpers.inside import containers_of


class TestMemory(HistoryContract):
    def make(self, folder: Path) -> MemoryHistory:
        return MemoryHistory(10_000)


def test_memory_forgets_the_oldest() -> None:
    """It keeps so many, and knows where they begin."""
    history = MemoryHistory(3)
    assert history.oldest_id == 1
    history.append(said(1, 2, 3, 4, 5))
    assert (history.oldest_id, [message.id for message in history.read(0, ALL, ALL)]) == (3, [3, 4, 5])


def test_a_history_of_nothing() -> None:
    """It keeps no message, and knows that all are gone."""
    history = MemoryHistory(0)
    history.append(said(1, 2))
    assert (history.oldest_id, history.newest_id, history.pruned_upto, history.read(0, ALL, ALL)) == (3, 2, 2, [])
    with pytest.raises(ValueError, match="size must not be below zero"):
        MemoryHistory(-1)


class AsAList(RuleBasedStateMachine):
    """MemoryHistory against a plain list, with small blocks."""

    @initialize(size=st.integers(0, 12), block=st.integers(1, 5))
    def begin(self, size: int, block: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(memory, "BLOCK", block)
        self.history, self.size = MemoryHistory(size), size
        self.kept, self.unused = list[Message](), set[int]()

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    @rule(number=st.integers(0, 20), long=st.booleans())
    def append(self, number: int, long: bool) -> None:
        first = self.history.newest_id + 1
        messages = said(*range(first, first + number), text="x" * 300 if long else "x")
        self.history.append(messages)
        self.kept = [*self.kept, *messages][-self.size :] if self.size else []

    @rule(number=st.integers(1, 4))
    def skip(self, number: int) -> None:
        first = self.history.newest_id + 1
        self.history.skip(first, first + number - 1)
        self.unused.update(range(first, first + number))

    @rule(back=st.integers(0, 30))
    def forget(self, back: int) -> None:
        upto = self.history.newest_id - back
        self.history.forget(upto)
        self.kept = [message for message in self.kept if (message.id or 0) > upto]

    @rule(back=st.integers(0, 30), beyond=st.integers(-3, 3), max_bytes=st.integers(1, 2000))
    def read(self, back: int, beyond: int, max_bytes: int) -> None:
        after, upto = self.history.newest_id - back, self.history.newest_id + beyond
        wanted, size = list[Message](), 0
        for message in self.kept:
            if after < (message.id or 0) <= upto and size < max_bytes:
                wanted.append(message)
                size += estimated_bytes(message)
        assert self.history.read(after, upto, max_bytes) == wanted

    @invariant()
    def knows_its_oldest(self) -> None:
        if hasattr(self, "history"):
            assert self.history.oldest_id == (self.kept[0].id if self.kept else self.history.newest_id + 1)
            assert self.history.read(0, ALL, ALL) == self.kept

    @rule(back=st.integers(0, 60), other=st.integers(0, 60), number=st.integers(0, 60))
    def count(self, back: int, other: int, number: int) -> None:
        """`missing` and `cursor_before_last` count id by id."""
        newest = max(0, self.history.newest_id - back)
        first = max(1, newest - other)
        assert self.history.missing(first, newest) == len(set(range(first, newest + 1)) - self.unused)
        cursor, left = newest, number
        while cursor and left:
            left -= cursor not in self.unused
            cursor -= 1
        assert self.history.cursor_before_last(newest, number) == cursor


TestAsAList = AsAList.TestCase
TestAsAList.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_a_message_costs_no_more_than_in_a_deque() -> None:
    """However they came: one by one, or many at once; and also when old ones were dropped."""
    number = 50 * BLOCK
    messages = said(*range(1, number + 1))
    single, many, full = MemoryHistory(number), MemoryHistory(number), MemoryHistory(number // 2)
    for message in messages:
        single.append([message])
        full.append([message])
    many.append(messages)
    for history, count in ((single, number), (many, number), (full, number // 2)):
        limit = sys.getsizeof(deque(messages[:count])) + 2 * sys.getsizeof(messages[:BLOCK])
        assert sum(map(sys.getsizeof, containers_of(history))) <= limit
