"""Values of limits."""

from __future__ import annotations

import math
from typing import Any

import pytest

from chatkit import Limits


@pytest.mark.parametrize("value", [0, -1, math.nan, None])
def test_limits_that_are_none(value: Any) -> None:
    """Zero, less, and no number at all."""
    with pytest.raises(ValueError, match="drain_seconds must be above zero"):
        Limits(drain_seconds=value)


def test_a_limit_that_is_too_low() -> None:
    """A quiet time that a lost packet takes would part lines."""
    assert Limits(unframed_seconds=0.2).unframed_seconds == 0.2
    with pytest.raises(ValueError, match=r"unframed_seconds must be at least 0\.2, not 0\.19"):
        Limits(unframed_seconds=0.19)
