"""Times as people write them in options."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import click

_AGO = re.compile(r"([0-9]{1,9})([mhd])")
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_DAYS_AGO = {"today": 0, "yesterday": 1}
_CLOCK = re.compile(r"[0-9]{1,2}:.*")


def parse_time(text: str, now: datetime) -> float:
    """Return the Unix time of `text` in seconds.

    Args:
        text: a date or a date and time in ISO 8601 (local, unless it names a zone); a time of today; `today` or
            `yesterday`, with a time or without; minutes, hours or days ago, such as `90m`, `2h`, `3d`.
        now: local time.

    Raises:
        ValueError: it has another form.
        OverflowError: it is out of range.
    """
    if ago := _AGO.fullmatch(text):
        return now.timestamp() - int(ago[1]) * _UNIT_SECONDS[ago[2]]
    day, _, clock = ("today", "", text) if _CLOCK.fullmatch(text) else text.partition(" ")
    if day in _DAYS_AGO:
        clock = f"0{clock}" if clock[1:2] == ":" else clock
        text = f"{now.date() - timedelta(days=_DAYS_AGO[day])} {clock}".rstrip()
    return datetime.fromisoformat(text).timestamp()


def checked_time(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """Read an option that takes a time."""
    if text is None:
        return None
    try:
        return parse_time(text.strip(), datetime.now())
    except (ValueError, OverflowError):
        examples = "12:00, yesterday, 'yesterday 18:00', 2026-11-22, '2026-11-22 08:00', 2026-11-22T08:00:00Z, 90m, 2h"
        raise click.BadParameter(f"{text!r} is not a time; write it as {examples} or 3d") from None
