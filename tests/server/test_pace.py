"""A turn's budget: floods are cut into turns, and nobody waits twice."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit import Limits
from chatkit.room.room import Room
from chatkit.server import pace
from chatkit.server.connections import Connections
from chatkit.server.pace import FIRST_LINES, INPUT_SECONDS, MAX_LINES, MIN_LINES, Pace
from chatkit.server.worker import Worker
from tests.helpers.inside import read_once


class Clock:
    """A clock by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def lines_of_a_turn(pace: Pace) -> int:
    """Return how many lines one member alone may bring."""
    pace.begin()
    return pace.share(1)


def test_a_turn_is_over_when_its_lines_or_its_time_are_used(clock: Clock) -> None:
    """Reading stops then; the next turn begins anew."""
    pace = Pace()
    pace.begin()
    pace.use(FIRST_LINES - 1)
    assert not pace.is_over
    pace.use(1)
    assert pace.is_over
    pace.begin()
    assert not pace.is_over
    clock.now += 1.1 * INPUT_SECONDS
    assert pace.is_over


def test_long_turns_halve_the_budget_and_short_ones_double_it(clock: Clock) -> None:
    """Within bounds; a turn that left nothing unread tells nothing about the budget. It is shared equally."""
    pace = Pace()
    assert lines_of_a_turn(pace) == FIRST_LINES
    assert pace.share(4) == FIRST_LINES // 4
    assert pace.share(10 * FIRST_LINES) == 1
    clock.now += 2 * INPUT_SECONDS
    pace.end(has_more=False)
    assert lines_of_a_turn(pace) == FIRST_LINES // 2
    pace.end(has_more=False)
    assert lines_of_a_turn(pace) == FIRST_LINES // 2
    pace.end(has_more=True)
    assert lines_of_a_turn(pace) == FIRST_LINES
    for seconds, bound in ((2 * INPUT_SECONDS, MIN_LINES), (0, MAX_LINES)):
        for _ in range(20):
            pace.begin()
            clock.now += seconds
            pace.end(has_more=True)
        assert lines_of_a_turn(pace) == bound


class Flooder:
    """A connection that has always more lines than a turn takes."""

    login = member = peer_end = None
    is_closing, has_input, takes_input = False, False, True
    input = SimpleNamespace(answers=b"", resume_at=None, line_due=math.inf)
    transport = SimpleNamespace(is_ready=True)
    replay = None

    def __init__(self, order: list[Flooder]) -> None:
        self.order = order

    def receive(self, max_bytes: int, max_lines: int) -> list[str]:
        self.order.append(self)
        return ["x"] * MAX_LINES


def test_the_last_ones_of_a_turn_are_the_first_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that has no time left for some members serves these before the others. Until then they cost nothing."""
    watched = list[Any]()
    monkeypatch.setattr(Connections, "watch", lambda connections, connection: watched.append(connection))
    worker, order = Worker("worker", Room(), Limits(), lambda: None, print), list[Any]()
    flooders: list[Any] = [Flooder(order) for _ in range(4)]
    for _ in range(4):
        read_once(worker, flooders)
    assert order == flooders
    assert watched == []
    worker.release()
