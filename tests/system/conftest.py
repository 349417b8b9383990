"""Fixtures of the tests with real disks and processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.helpers.witness import Log


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("chatkit")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
