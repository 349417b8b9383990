"""Fixtures of the tests with real disks and processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.helpers.witness import Log, Talk, Talker


@pytest.fixture
def talk() -> Iterator[Talk]:
    """talk(port) makes a talker that is gone at the end of the test."""
    with ExitStack() as stack:

        def start(port: int | str) -> Talker:
            talker = Talker(port)
            stack.callback(talker.close)
            return talker

        yield start


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("chatkit")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
