"""Times in options."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from chatkit.cli.times import parse_time

NOW = datetime(2026, 3, 29, 12, 30)


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> object:
    """Where the clocks went forward that night, from two to three."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12:00", "2026-03-29 12:00"),
        ("9:05", "2026-03-29 09:05"),
        ("23:59:59", "2026-03-29 23:59:59"),
        ("10:00Z", "2026-03-29 12:00"),
        ("today", "2026-03-29 00:00"),
        ("today 1:30", "2026-03-29 01:30"),
        ("yesterday", "2026-03-28 00:00"),
        ("yesterday 18:00", "2026-03-28 18:00"),
        ("yesterday 18", "2026-03-28 18:00"),
        ("2026-03-01", "2026-03-01 00:00"),
        ("2026-03-01 08:00", "2026-03-01 08:00"),
        ("2026-03-01T08:00:00Z", "2026-03-01 09:00"),
        ("90m", "2026-03-29 11:00"),
        ("12h", "2026-03-28 23:30"),
        ("1d", "2026-03-28 11:30"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    """Each means a time as local clocks showed it; hours and days ago are whole ones, though a night was short."""
    assert parse_time(text, NOW) == datetime.fromisoformat(expected).timestamp()


@pytest.mark.parametrize(
    "text",
    ["", "now", "12:60", "1:2", "12:00 yesterday", "yesterday18:00", "tomorrow", "2026-02-30", "2 h", "3y"],
)
def test_other_forms(text: str) -> None:
    """They are refused."""
    with pytest.raises(ValueError, match=r"Invalid isoformat string|must be in|out of range"):
        parse_time(text, NOW)
