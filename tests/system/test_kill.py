"""`kill -9`, again and again: every message that anyone has seen is in the history, once, in order."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers.commands import BIN, Run, start_server, stop
from tests.helpers.killing import Killing
from tests.helpers.marks import needs
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.witness import Talker, Witness, rows

pytestmark = pytest.mark.once

# So many writes a server makes from its first moment until some dozens of lines are kept.
WRITES = 70


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_messages_that_a_witness_saw_survive_each_kill(run: Run, tmp_path: Path, kill_rounds: int, sync: str) -> None:
    """Each line it saw is in the file once, under the id it saw; ids rise over all rounds; the file is undamaged."""
    path = tmp_path / "chat.db"
    killing = Killing(run, path, "--history-sync", sync)
    for _ in range(kill_rounds):
        killing.round()
    server, _ = killing.start()
    assert stop(server) == ""
    kept = rows(path)
    assert killing.seen
    assert all(low < high for (low, _), (high, _) in pairwise(killing.seen))
    assert set(killing.seen) <= set(kept)
    assert len({text for _, text in kept}) == len(kept)
    assert os.listdir(tmp_path) == ["chat.db"]


def test_the_newest_messages_survive_pruning_and_a_kill(run: Run, tmp_path: Path, kill_rounds: int) -> None:
    """With --history-keep, of what a witness saw the newest so many are there, and in the end no more."""
    path = tmp_path / "chat.db"
    killing = Killing(run, path, "--history-keep", "20")
    for _ in range(kill_rounds):
        killing.round()
        assert set(killing.seen[-20:]) <= set(rows(path))
    server, port = killing.start()
    with Witness(port) as witness, closing(sqlite3.connect(path)) as reader:
        until = time.monotonic() + DEADLINE
        while reader.execute("SELECT count(*) FROM messages").fetchone()[0] > 20:
            assert time.monotonic() < until
            witness.look(0.05)
    assert stop(server) == ""
    kept = rows(path)
    assert len(kept) == 20
    assert kept[-1][0] >= killing.seen[-1][0]


@needs(shutil.which("strace"), "strace")
def test_killed_at_any_write(run: Run, tmp_path: Path, kill_rounds: int) -> None:
    """From the first byte of a new file on: killed just before any of its writes, a history is whole and goes on."""
    writes = list(range(1, WRITES + 1))
    random.Random(WRITES).shuffle(writes)
    for number in writes[:kill_rounds]:
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "chat.db"
        seen = talk_until_killed_at(run, path, number)
        server, port = start_server(run, "--history", str(path))
        talker = Talker(port)
        (again,) = talker.say("goes on")
        talker.close()
        assert stop(server) == ""
        assert again > max([0, *(number for number, _ in seen)])
        assert {*seen, (again, "goes on")} <= set(rows(path))
        assert os.listdir(path.parent) == ["chat.db"]


def talk_until_killed_at(run: Run, path: Path, write: int) -> list[tuple[int, str]]:
    """Kill a server at a thread's write of this number; return the messages that a witness saw."""
    tampering = [
        "-D",
        "-f",
        "-o",
        os.devnull,
        "-e",
        "trace=pwrite64",
        "-e",
        f"inject=pwrite64:signal=KILL:when={write}",
    ]
    strace = shutil.which("strace") or "strace"
    server = run(strace, *tampering, str(BIN / "chat-server"), "--port", "0", "--history", str(path))
    assert server.process.stdout
    listening = server.process.stdout.readline()
    if not listening:
        return []
    port = listening.rpartition(b":")[2].decode()
    witness, talker = Witness(port), Peer(int(port))
    with suppress(ConnectionError):
        for number in range(WRITES):
            talker.send(b"said %d\n" % number)
            witness.wait_for("message", f"said {number}")
    server.process.kill()
    talker.close()
    witness.peer.close()
    return witness.seen
