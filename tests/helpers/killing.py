"""Rounds of start, talk, `kill -9` on one history."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.helpers.commands import Run, Running, start_server
from tests.helpers.peers import Peer
from tests.helpers.witness import Witness

LINES_PER_SECOND = 500
LONGEST_LIFE_SECONDS = 0.6


class Killing:
    """Rounds of start, talk, kill on one history.

    seen: (id, text) of all that any witness saw, in order. starts: how many seconds each start took.
    """

    def __init__(self, run: Run, path: Path, *options: str) -> None:
        self._run = run
        self._command = ["--history", str(path), *options]
        self._chance = random.Random(f"{path.name} {options}")
        self._said = 0
        self.seen: list[tuple[int, str]] = []
        self.starts: list[float] = []

    def start(self) -> tuple[Running, str]:
        begun = time.monotonic()
        server, port = start_server(self._run, *self._command)
        self.starts.append(time.monotonic() - begun)
        return server, port

    def round(self) -> None:
        """No id that anyone saw before is given again, at whatever moment the server is killed."""
        server, port = self.start()
        witness, talker = Witness(port), Peer(int(port))
        assert witness.newest >= (self.seen[-1][0] if self.seen else 0)
        self._talk(witness, talker, time.monotonic() + self._chance.uniform(0, LONGEST_LIFE_SECONDS))
        server.process.kill()
        witness.look_to_the_end()
        self.seen += witness.seen
        for peer in (witness.peer, talker):
            peer.close()
        server.process.communicate()

    def _talk(self, witness: Witness, talker: Peer, end: float) -> None:
        """Send lines at a fixed rate until `end`."""
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            if now >= due:
                talker.send(b"line %d\n" % self._said)
                self._said += 1
                due += 1 / LINES_PER_SECOND
            witness.look(min(due, end) - time.monotonic())
