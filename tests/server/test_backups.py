"""A history that is started again, or replaced by a backup: a client that comes back receives all that it lacks."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from chatkit import Client, Reconnected, Server
from chatkit.history.sqlite import store
from tests.helpers.marks import needs
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.reconnecting import QUICK, Gate, next_of, texts
from tests.helpers.witness import Witness


class Room:
    """A room with a history that starts again and again on one port.

    Attributes:
        port: its port.
        path: the file of its history.
    """

    def __init__(self, path: Path) -> None:
        self.port, self.path = 0, path
        self._stack = ExitStack()

    def start(self) -> None:
        server = self._stack.enter_context(Server(port=self.port, history=self.path, limits=QUICK))
        self.port = server.port

    def end(self) -> None:
        self._stack.close()

    def restart(self) -> None:
        self.end()
        self.start()

    def say(self, *texts: str) -> list[int]:
        """Say lines, and return their ids."""
        with closing(Peer(self.port)) as ann, Witness(self.port) as witness:
            ann.send("".join(f"{text}\n" for text in texts).encode())
            return [witness.wait_for("message", text)["id"] for text in texts]

    def ask(self, after: int, epoch: str) -> tuple[dict[str, Any], list[str]]:
        """Return the answer to `/json AFTER EPOCH`: the welcome, and the messages."""
        with closing(Peer(self.port)) as peer:
            peer.send(f"/json {after} {epoch}\n/sync\n".encode())
            events = [json.loads(peer.line())]
            while events[-1]["type"] != "synced":
                events.append(json.loads(peer.line()))
        return events[0], [event["text"] for event in events if event["type"] == "message"]

    def epoch(self) -> str:
        with Witness(self.port) as witness:
            return str(witness.events[0]["epoch"])


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path / "chat.db")
    room.start()
    yield room
    room.end()


def copy_while_it_runs(room: Room) -> Path:
    backup = room.path.with_name("copy.db")
    with closing(sqlite3.connect(f"file:{room.path}?mode=ro", uri=True)) as connection:
        connection.execute(f"VACUUM INTO '{backup}'")
    return backup


def copy_after_the_end(room: Room) -> Path:
    room.end()
    backup = Path(shutil.copy(room.path, room.path.with_name("copy.db")))
    room.start()
    return backup


def put_back(room: Room, backup: Path) -> None:
    """Replace the file of a room that has ended."""
    assert not list(room.path.parent.glob("chat.db-*"))
    shutil.copy(backup, room.path)
    room.start()


def away(client: Client, gate: Gate) -> tuple[bool, list[str]]:
    """Have a client come back. Return whether the room began anew for it, and what it received then."""
    gate.put(0)
    event = next_of(client, Reconnected)
    return event.new_epoch, texts(client, "last")


def test_ids_go_on_over_restarts(room: Room, gate: Gate) -> None:
    """Each message comes once, however many starts of the room the client was away for."""
    room.say("one")
    with Client(port=room.port, name="bob", reconnect=True, after=0) as bob:
        assert texts(bob, "one") == ["one"]
        for number in range(3):
            for text in ("two", "three"):
                room.restart()
                room.say(f"{text} {number}")
            room.say("last")
            assert away(bob, gate) == (False, [f"two {number}", f"three {number}", "last"])


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_copy_is_put_back(room: Room, gate: Gate, overtaken: bool) -> None:
    """The client knows more ids than the copy has. Others get these ids, and it receives all of them.

    overtaken: when it comes back, the room has given more ids than it knows.
    """
    room.say("one", "two")
    backup = copy_after_the_end(room)
    with Client(port=room.port, name="bob", reconnect=True, after=0) as bob:
        assert room.say("lost 3", "lost 4", "lost 5") == [3, 4, 5]
        assert texts(bob, "lost 5") == ["one", "two", "lost 3", "lost 4", "lost 5"]
        room.end()
        put_back(room, backup)
        said = [f"new {number}" for number in range(3, 9 if overtaken else 4)]
        assert room.say(*said, "last") == [*range(3, 3 + len(said) + 1)]
        assert away(bob, gate) == (True, ["one", "two", *said, "last"])
        room.say("live")
        assert texts(bob, "live") == ["live"]


def test_a_client_that_left_before_the_copy(room: Room, gate: Gate) -> None:
    """All its ids are in the copy: it goes on after them."""
    with Client(port=room.port, name="bob", reconnect=True, after=0) as bob:
        room.say("one", "two")
        assert texts(bob, "two") == ["one", "two"]
        backup = copy_after_the_end(room)
        room.say("lost 3", "lost 4")
        room.end()
        put_back(room, backup)
        room.say("new 3", "last")
        assert away(bob, gate) == (False, ["new 3", "last"])


def test_a_copy_that_was_made_while_the_server_ran(room: Room, gate: Gate) -> None:
    """Ids go on above all that the server may have given after it: the client has missed nothing that there is."""
    with Client(port=room.port, name="bob", reconnect=True, after=0) as bob:
        room.say("one", "two")
        backup = copy_while_it_runs(room)
        room.say("lost 3", "lost 4")
        assert texts(bob, "lost 4") == ["one", "two", "lost 3", "lost 4"]
        room.end()
        put_back(room, backup)
        ids = room.say("new", "last")
        assert ids[0] == store.RESERVED_IDS + 1
        assert away(bob, gate) == (False, ["new", "last"])


def test_more_ids_than_the_copy_has_reserved(room: Room, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy knows the epoch, but not all of its ids: the client receives the messages after those that it knows."""
    monkeypatch.setattr(store, "RESERVED_IDS", 4)
    room.restart()
    with Client(port=room.port, name="bob", reconnect=True, after=0) as bob:
        backup = copy_while_it_runs(room)
        lost = [f"lost {number}" for number in range(1, 10)]
        room.say(*lost)
        assert texts(bob, lost[-1]) == lost
        room.end()
        put_back(room, backup)
        new = [f"new {number}" for number in range(5, 9)]
        assert room.say(*new, "last") == [5, 6, 7, 8, 9]
        assert away(bob, gate) == (True, [*new, "last"])


@needs(shutil.which("sqlite3"), "the command sqlite3")
def test_the_commands_of_the_document(room: Room, gate: Gate) -> None:
    """docs/history.md says how to make a backup of a running server, and how to put it in place."""
    text = (Path(__file__).parents[2] / "docs/history.md").read_text().partition("## Backups")[2]
    copy, replace = re.findall(r"^\$ (.*)", text.partition("## From a program")[0], re.MULTILINE)
    with Client(port=room.port, name="bob", reconnect=True, after=0) as bob:
        room.say("one", "two")
        subprocess.run(copy, shell=True, check=True, cwd=room.path.parent, timeout=DEADLINE)
        room.say("lost 3")
        texts(bob, "lost 3")
        room.end()
        subprocess.run(replace, shell=True, check=True, cwd=room.path.parent, timeout=DEADLINE)
        room.start()
        room.say("new", "last")
        assert away(bob, gate) == (False, ["new", "last"])
    with Client(port=room.port, events=True, after=0) as cid:
        assert texts(cid, "last") == ["one", "two", "new", "last"]


def test_the_answer_on_the_wire(room: Room) -> None:
    """`common` says up to which id the epoch is that of this room; all that follows comes after it."""
    first = room.epoch()
    room.say("one", "two")
    room.restart()
    second = room.epoch()
    room.say("three")
    for after, epoch, common, messages in (
        (1, first, 2, ["two", "three"]),
        (2, first, 2, ["three"]),
        (9, first, 2, ["three"]),
        (2, second, None, ["three"]),
        (9, second, None, []),
        (2, "0123456789abcdef", None, ["one", "two", "three"]),
    ):
        welcome, texts = room.ask(after, epoch)
        assert (welcome.get("common"), welcome["epoch"], welcome["newest"]) == (common, second, 3)
        assert texts == messages
