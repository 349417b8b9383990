"""What a limit may be."""

from __future__ import annotations

import math
from typing import Any

import pytest

from chatkit import Limits


@pytest.mark.parametrize("value", [0, -1, math.nan, None])
def test_limits_that_are_none(value: Any) -> None:
    """Zero, less, and what is no number at all."""
    with pytest.raises(ValueError, match="drain_seconds must be above zero"):
        Limits(drain_seconds=value)
