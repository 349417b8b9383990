"""Fixtures of the tests with real disks and processes."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.attacks import KINDS, Attack
from tests.helpers.commands import Run
from tests.helpers.peers import DEADLINE
from tests.helpers.witness import Log


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("chatkit")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each attack runs with one kind of members, each kind in some of them; with --long-attacks with every kind."""
    attacks = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if kind := parameters.get("attack"):
            attacks[item.nodeid.replace(str(kind), "")].append(item)
    if not config.getoption("--long-attacks"):
        chosen = {of_all[zlib.crc32(name.encode()) % len(of_all)] for name, of_all in attacks.items()}
        dropped = {item for of_all in attacks.values() for item in of_all} - chosen
        config.hook.pytest_deselected(items=list(dropped))
        items[:] = [item for item in items if item not in dropped]


@pytest.fixture(params=KINDS)
def attack(request: pytest.FixtureRequest, run: Run, tmp_path: Path, certificate: Path) -> Iterator[Attack]:
    """A chat-server to attack, once `attack.start(*options)` was called; thousands of sockets are allowed."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, hard), hard))
    attack = Attack(request.param, run, tmp_path, certificate, request.config.getoption("--long-attacks"))
    yield attack
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    attack.server.process.kill()
    attack.server.process.wait(DEADLINE)
    print(attack.log())  # pytest shows it if the test fails
