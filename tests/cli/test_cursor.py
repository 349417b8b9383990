"""`chat-client --json --after` and `--cursor`: a resume across a restart of the program."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from chatkit import Event, Gap, Joined, Limits, Message, Reconnected, Server, Synced, Welcome
from chatkit.cli.client.cursor import NO_PLACE, Cursor, Place
from tests.helpers.commands import Run, Running, client_with, ended, invoke
from tests.helpers.inside import publisher_of
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.reconnecting import QUICK
from tests.helpers.servers import Serve

ROOM, OTHER_ROOM = "0" * 16, "1" * 16


def follow(run: Run, port: int, path: Path, *options: str) -> Running:
    return run("chat-client", "--json", "--port", str(port), "--cursor", str(path), *options)


def printed(command: Running, number: int) -> list[str]:
    """Return the texts of so many messages, the next that are printed."""
    texts = list[str]()
    while len(texts) < number:
        event = json.loads(command.line())
        texts += [event["text"]] if event["type"] == "message" else []
    return texts


def wait_for(path: Path, content: str) -> None:
    """Wait until the file has this content."""
    until = time.monotonic() + DEADLINE
    while not path.exists() or path.read_text() != content:
        assert time.monotonic() < until


def say(peer: Peer, *texts: str) -> None:
    """Say something, and wait until the room has it."""
    peer.send("".join(f"{text}\n" for text in texts).encode() + b"/sync\n")
    assert peer.line().startswith(b"*** synced")


@pytest.mark.parametrize("end", ["exit", "kill", "interrupt"])
def test_it_goes_on_where_it_was(run: Run, serve: Serve, tmp_path: Path, end: str) -> None:
    """However it ended: each message once, in order. The file is for its owner alone; a link to it stays one."""
    started, path, link = serve(), tmp_path / "cursor", tmp_path / "link"
    link.symlink_to(path)
    ann, epoch = started.peer(), publisher_of(started.server).epoch
    say(ann, "before")
    for number in range(1, 7, 2):
        command = follow(run, started.port, link)
        if number == 1:
            assert json.loads(command.line())["type"] == "welcome"
        say(ann, f"{number}")
        assert printed(command, min(number, 2)) == [f"{text}" for text in range(max(1, number - 1), number + 1)]
        wait_for(path, f"{number + 1}@{epoch}\n")  # while it runs, so that a kill finds it
        if end == "exit":
            command.type("exit")
        else:
            command.process.send_signal(signal.SIGKILL if end == "kill" else signal.SIGINT)
        assert command.process.wait(DEADLINE) == {"exit": 0, "kill": -signal.SIGKILL, "interrupt": -signal.SIGINT}[end]
        say(ann, f"{number + 1}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert link.is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cursor", "link"]


def test_a_room_that_began_anew(run: Run, tmp_path: Path) -> None:
    """Its ids are others: all that it keeps is printed, and the file follows; also for a client that comes back."""
    path = tmp_path / "cursor"
    path.write_text(f"7@{OTHER_ROOM}\n")
    with Server(port=0, limits=QUICK) as server:
        port, ann = server.port, Peer(server.port)
        say(ann, "one", "two")
        command = follow(run, port, path, "--reconnect")
        assert printed(command, 2) == ["one", "two"]
        wait_for(path, f"2@{publisher_of(server).epoch}\n")
        ann.close()
    with Server(port=port, limits=QUICK) as server:
        ann = Peer(port)
        say(ann, "three")
        assert printed(command, 1) == ["three"]
        wait_for(path, f"1@{publisher_of(server).epoch}\n")
        ann.close()
        command.process.kill()


def test_a_room_that_goes_on(run: Run, tmp_path: Path) -> None:
    """Over starts of a room with a history each message is printed once, also where none was said in between."""
    path, options = tmp_path / "cursor", {"history": tmp_path / "chat.db", "limits": QUICK}
    path.write_text("0\n")
    for text in ("one", "", "two", "three"):
        with Server(port=0, **options) as server:  # type: ignore[arg-type]
            ann = Peer(server.port)
            if text:
                say(ann, text)
            status, out, err = client_with(run, server.port, "/sync\n", "--json", "--cursor", str(path))
            ann.close()
        events = [json.loads(line) for line in out.splitlines()]
        assert [event["text"] for event in events if event["type"] == "message"] == [text] * bool(text)
        assert (status, err) == (0, "")


def test_after(run: Run, serve: Serve) -> None:
    """Without a file: after an id, of this epoch or of another one; where there is a file it counts."""
    started = serve()
    epoch = publisher_of(started.server).epoch
    say(started.peer(), "one", "two", "three")
    for place, texts in (
        ("1", ["two", "three"]),
        (f"2@{epoch}", ["three"]),
        (f"2@{OTHER_ROOM}", ["one", "two", "three"]),
    ):
        status, out, err = client_with(run, started.port, "/sync\n", "--json", "--after", place)
        events = [json.loads(line) for line in out.splitlines()]
        assert [event["text"] for event in events if event["type"] == "message"] == texts
        assert (status, err) == (0, "")


def test_the_file_counts_more_than_after(run: Run, serve: Serve, tmp_path: Path) -> None:
    """The option says where to begin the first time."""
    started, path = serve(), tmp_path / "cursor"
    say(started.peer(), "one", "two", "three")
    options = ("--json", "--after", "1", "--cursor", str(path))
    for texts in (["two", "three"], []):
        _, out, _ = client_with(run, started.port, "/sync\n", *options)
        events = [json.loads(line) for line in out.splitlines()]
        assert [event["text"] for event in events if event["type"] == "message"] == texts


@pytest.mark.parametrize(
    "options",
    [["--after", "5"], ["--cursor", "c"], ["--json", "--once", "--after", "5"], ["--reconnect", "--cursor", "c"]],
)
def test_options_that_need_json(options: list[str]) -> None:
    """Plain text has no ids, and --once prints no chat."""
    status, _, err = invoke("chat-client", *options)
    assert (status, err.splitlines()[-1]) == (2, "Error: --after and --cursor need --json, without --once")


@pytest.mark.parametrize("place", ["", "x", "-1", "5@", f"@{ROOM}", "5@xyz", f"5@{ROOM}0", "1" * 19])
def test_places_that_are_none(place: str, tmp_path: Path) -> None:
    """One line that says which form it has; a damaged file is left as it is."""
    status, _, err = invoke("chat-client", "--json", "--after", place)
    assert (status, "must be ID or ID@EPOCH" in err) == (2, True)
    path = tmp_path / "cursor"
    path.write_text(place)
    status, out, err = invoke("chat-client", "--json", "--cursor", str(path))
    assert (status, out, err) == (1, "", f"chat-client: {path} isn't a cursor (remove it to begin anew)\n")
    assert path.read_text() == place


@pytest.mark.parametrize("content", [b"\xff\n", b"5\n\n", "5\u0665\n".encode()])
def test_a_file_of_something_else(content: bytes, tmp_path: Path) -> None:
    """It is no cursor."""
    path = tmp_path / "cursor"
    path.write_bytes(content)
    assert invoke("chat-client", "--json", "--cursor", str(path))[0] == 1


def test_a_file_that_cannot_be_kept(run: Run, serve: Serve, tmp_path: Path) -> None:
    """The command ends with one line, instead of printing what the next run would print again."""
    path = tmp_path / "gone" / "cursor"
    command = follow(run, serve().port, path)
    assert json.loads(command.line())["type"] == "welcome"
    assert ended(command) == (1, f"chat-client: cannot keep {path}: No such file or directory\n")


def test_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one stays whole until the new one is; what a killed process left is no obstacle."""
    path = tmp_path / "cursor"
    path.write_text(f"5@{ROOM}\n")
    (tmp_path / "cursor-new").write_text("half")
    cursor = Cursor(path, NO_PLACE)
    cursor.advance(Message("ann", "hi", 6))
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda source, target: os.stat(tmp_path / "none"))
        with pytest.raises(FileNotFoundError):
            cursor.save()
    assert (path.read_text(), cursor.is_saved) == (f"5@{ROOM}\n", False)
    cursor.save()
    assert (path.read_text(), cursor.is_saved) == (f"6@{ROOM}\n", True)


@pytest.mark.parametrize(
    ("place", "events", "then"),
    [
        (NO_PLACE, [Welcome("1", 9, ROOM)], (None, ROOM)),
        (NO_PLACE, [Welcome("1", 9, ROOM), Gap(3), Message("2", "x", 8)], (8, ROOM)),
        ((5, None), [Welcome("1", 9, ROOM)], (5, ROOM)),
        ((5, ROOM), [Welcome("1", 9, ROOM), Gap(2), Joined("2")], (7, ROOM)),
        ((50, ROOM), [Welcome("1", 9, ROOM)], (9, ROOM)),
        ((5, OTHER_ROOM), [Welcome("1", 9, ROOM, common=7)], (5, ROOM)),
        ((5, OTHER_ROOM), [Welcome("1", 9, ROOM, common=3)], (3, ROOM)),
        ((5, OTHER_ROOM), [Welcome("1", 9, ROOM), Message("2", "x", 1)], (1, ROOM)),
        ((5, ROOM), [Welcome("1", 9, ROOM), Synced(9)], (9, ROOM)),
        ((5, ROOM), [Welcome("1", 9, ROOM), Reconnected("back", "1", False, ROOM)], (5, ROOM)),
        ((5, ROOM), [Welcome("1", 9, ROOM), Reconnected("back", "1", True, OTHER_ROOM)], (0, OTHER_ROOM)),
    ],
)
def test_the_place(tmp_path: Path, place: Place, events: list[Event], then: Place) -> None:
    """It follows the events as docs/reconnecting.md says."""
    cursor = Cursor(tmp_path / "cursor", place)
    for event in events:
        cursor.advance(event)
    assert cursor.place == then


def test_a_newcomer_begins_at_the_welcome(tmp_path: Path) -> None:
    """Until its first message: then what was said before it came is no news the next time either."""
    path = tmp_path / "cursor"
    cursor = Cursor(path, NO_PLACE)
    cursor.advance(Welcome("1", 9, ROOM))
    cursor.save()
    assert Cursor(path, NO_PLACE).place == (9, ROOM)


def test_a_flood_is_saved_now_and_then(run: Run, serve: Serve, tmp_path: Path) -> None:
    """Not only when it pauses: after a kill at most a thousand events come again."""
    started, path = serve(limits=Limits(history_size=5000)), tmp_path / "cursor"
    say(started.peer(), *[f"{number}" for number in range(5000)])
    command = follow(run, started.port, path, "--after", "0")
    assert printed(command, 2000)[-1] == "1999"
    until = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < until
    assert int(path.read_text().partition("@")[0]) >= 999
    command.process.kill()
