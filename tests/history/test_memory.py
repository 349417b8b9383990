"""The history in memory."""

from __future__ import annotations

from pathlib import Path

from chatkit.history.memory import MemoryHistory
from tests.helpers.history_contract import ALL, HistoryContract, said


class TestMemory(HistoryContract):
    def make(self, folder: Path) -> MemoryHistory:
        return MemoryHistory(10_000)


def test_memory_forgets_the_oldest() -> None:
    """It keeps so many, and knows where they begin."""
    history = MemoryHistory(3)
    assert history.oldest_id == 1
    history.append(said(1, 2, 3, 4, 5))
    assert (history.oldest_id, [message.id for message in history.read(0, ALL, ALL)]) == (3, [3, 4, 5])
