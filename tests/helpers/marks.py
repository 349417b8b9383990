"""Marks of tests: needs of the machine, and variants."""

from __future__ import annotations

import os

import pytest


def needs(found: object, what: str) -> pytest.MarkDecorator:
    """Marks a test that is skipped where a user lacks something, but never in CI."""
    return pytest.mark.skipif(not found and "CI" not in os.environ, reason=f"needs {what}")


over_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
