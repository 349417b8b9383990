"""chat-server's options for a history, as an operator uses them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.helpers.commands import Run, Running, invoke
from tests.helpers.peers import Peer


def start(run: Run, *options: str, **environment: str) -> tuple[Running, int]:
    """A server on a free port, and that port."""
    server = run("chat-server", "--port", "0", *options, env={**os.environ, **environment})
    return server, int(server.line().rpartition(":")[2])


def stop(server: Running) -> None:
    server.process.send_signal(signal.SIGTERM)
    status, _, err = server.ends()
    assert (status, err) == (0, "")


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_room_goes_on_where_it_was(run: Run, tmp_path: Path, how: str) -> None:
    """After a restart newcomers get the last messages, programs all they ask for; ids go on; chat-history prints it."""
    path = tmp_path / "chat.db"
    options = ("--history", str(path), "--replay", "1") if how == "option" else ()
    environment = {"CHATKIT_HISTORY": str(path), "CHATKIT_REPLAY": "1"} if how == "environment" else {}
    server, port = start(run, *options, **environment)
    ann = Peer(port)
    ann.send(b"one\n/me two\n/sync\n")
    assert ann.line() == b"*** synced, newest is 2"
    ann.close()
    stop(server)
    server, port = start(run, *options, **environment)
    bob = Peer(port)
    assert bob.lines(3) == [b"*** before you came:", b"* %s two" % ann.name.encode(), b"*** from here on it is live"]
    bob.send(b"/nick bob\nthree\n/json 0\n")
    bob.line()
    told = [json.loads(bob.line()) for _ in range(4)]
    assert [(event.get("id"), event.get("text")) for event in told[1:]] == [(1, "one"), (2, "two"), (3, "three")]
    assert [event.get("from") for event in told[1:]] == [ann.name, ann.name, "bob"]
    bob.close()
    stop(server)
    status, out, err = run("chat-history", str(path), "--last", "1").ends()
    assert (status, out[20:], err) == (0, "bob: three\n", "")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--history-keep 5", "need --history FILE"),
        ("--history-required", "need --history FILE"),
        ("--history-sync full", "need --history FILE"),
        ("--history {}/chat.db --history-keep 0", "not in the range"),
        ("--history {}/chat.db --history-sync off", "not one of"),
        ("--history {}/chat.db --history-days nan", "must be above zero"),
        ("--replay -1", "not in the range"),
    ],
)
def test_wrong_usage(tmp_path: Path, options: str, problem: str) -> None:
    """Exit status 2, and the reason; nothing is left behind."""
    status, out, err = invoke("chat-server", "--port", "0", *options.format(tmp_path).split())
    assert (status, out) == (2, "")
    assert problem in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no/chat.db", "/no/chat.db: No such file or directory"),
        ("text", "isn't a history of chatkit; choose another file"),
        ("taken.db", "another server keeps its history in"),
    ],
)
def test_a_file_that_cannot_be_used(run: Run, tmp_path: Path, name: str, problem: str) -> None:
    """One line with the reason and the remedy; nothing is left behind."""
    (tmp_path / "text").write_text("dear diary\n")
    if name == "taken.db":
        start(run, "--history", str(tmp_path / name))
    before = sorted(tmp_path.iterdir())
    status, out, err = run("chat-server", "--port", "0", "--history", str(tmp_path / name)).ends()
    assert (status, out) == (1, "")
    assert problem in err.splitlines()[-1]
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_options_reach_the_history(run: Run, tmp_path: Path) -> None:
    """--history-keep prunes, --history-sync full waits for the disk and works."""
    path = tmp_path / "chat.db"
    server, port = start(run, "--history", str(path), "--history-keep", "3", "--history-sync", "full")
    ann = Peer(port)
    ann.send(b"".join(b"%d\n" % number for number in range(2000)) + b"/sync\n")
    ann.line()
    ann.close()
    stop(server)
    server, port = start(run, "--history", str(path), "--history-keep", "3", "--history-required")
    bob = Peer(port)
    while True:  # pruning takes a moment
        bob.send(b"x\n/sync\n")
        bob.line()
        status, out, _ = run("chat-history", str(path)).ends()
        if len(out.splitlines()) <= 4:
            break
    assert status == 0
    bob.close()
