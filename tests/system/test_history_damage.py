"""A damaged file is put aside, never overwritten; a file that is no history of ours is left alone."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from chatkit import Limits
from chatkit.history.sqlite.queries import VERSION
from chatkit.history.sqlite.store import SqliteHistory
from tests.helpers.commands import BIN, Run, start_server, stop
from tests.helpers.history_files import MESSAGES, fill
from tests.helpers.marks import mount_works, needs
from tests.helpers.servers import Serve
from tests.helpers.witness import LOST, Log, Talk, Witness, beside, rows, wait_until

pytestmark = pytest.mark.once

Damage = Callable[[Path], None]
PAGE_BYTES = 4096


def garble(path: Path, place: int, number: int = PAGE_BYTES) -> None:
    """Overwrite so many bytes."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(random.Random(place).randbytes(number))


def garble_pages_with(path: Path, text: str) -> None:
    """Overwrite each page that holds it."""
    data = path.read_bytes()
    for place in range(0, len(data), PAGE_BYTES):
        if text.encode() in data[place : place + PAGE_BYTES]:
            garble(path, place)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_the_last_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_after_the_header(path: Path) -> None:
    os.truncate(path, 100)


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def garble_the_root(path: Path) -> None:
    garble(path, PAGE_BYTES)


def garble_the_newest(path: Path) -> None:
    garble_pages_with(path, f"kept {MESSAGES} ")


def garble_a_recent_one(path: Path) -> None:
    garble_pages_with(path, f"kept {MESSAGES - 500} ")


def garble_all_but_the_header(path: Path) -> None:
    garble(path, 100, path.stat().st_size - 100)


AT_THE_START = [
    cut_in_half,
    cut_the_last_byte,
    cut_after_the_header,
    fill_with_zeros,
    garble_the_root,
    garble_the_newest,
    garble_a_recent_one,
    garble_all_but_the_header,
]


@pytest.mark.parametrize("damage", AT_THE_START)
def test_a_file_damaged_at_the_start(run: Run, talk: Talk, tmp_path: Path, damage: Damage) -> None:
    """It is renamed, its content unchanged, and the room begins anew; one line says so."""
    path = tmp_path / "chat.db"
    fill(path)
    damage(path)
    damaged = path.read_bytes()
    server, port = start_server(run, "--history", str(path))
    talker = talk(port)
    assert talker.say("anew") == [1]
    talker.close()
    err = stop(server)
    (aside,) = set(beside(path)) - {"chat.db"}
    assert aside.startswith("chat.db.damaged-")
    assert (tmp_path / aside).read_bytes() == damaged
    assert err.startswith(f"chat-server: {path} is damaged")
    assert err.count("\n") == 1
    assert str(tmp_path / aside) in err
    assert rows(path) == [(1, "anew")]


def test_a_log_without_its_file_is_put_aside(run: Run, talk: Talk, tmp_path: Path) -> None:
    """The write-ahead log may have all that is left of a file cut to nothing: it isn't deleted."""
    path = tmp_path / "chat.db"
    server, port = start_server(run, "--history", str(path))
    talker = talk(port)
    talker.say("precious")
    talker.close()
    server.process.kill()
    server.process.communicate()
    os.truncate(path, 0)
    server, _ = start_server(run, "--history", str(path))
    stop(server)
    assert any(b"precious" in data for data in beside(path).values())


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [truncate_to_nothing, cut_in_half, garble_the_root, garble_a_recent_one])
def test_a_file_damaged_while_it_is_used(serve: Serve, talk: Talk, tmp_path: Path, log: Log, damage: Damage) -> None:
    """Once it shows, the file and its log are renamed. Ids go on in a new file of the room; nobody misses a message."""
    path = tmp_path / "chat.db"
    fill(path)
    started = serve(history=path, limits=Limits(history_size=1))
    talker = talk(started.port)
    epoch = talker.witness.wait_for("welcome")["epoch"]
    talker.say("before")
    damage(path)
    with Witness(started.port, 0) as asker:
        asker.wait_for("gap")
    while "kept as" not in (line := log.line()):
        assert line.startswith("the history can't be read: ")
    aside = line.split("kept as ")[1].split(",")[0]
    assert line.startswith(f"{path} is damaged")
    (after,) = talker.say("after")
    assert after > MESSAGES
    talker.close()
    started.server.shutdown()
    assert log.rest() == []
    assert any(name.startswith(Path(aside).name) and b"before" in data for name, data in beside(path).items())
    ids = [number for number, _ in rows(path)]
    assert ids == list(range(ids[0], after + 1))  # nothing was lost once it was put aside
    again = serve(history=path)
    with Witness(again.port) as newcomer:
        assert newcomer.newest == after
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT last FROM epochs WHERE epoch = ?", (epoch,)).fetchall() == [(after,)]


def test_an_old_page_that_is_garbled(serve: Serve, talk: Talk, tmp_path: Path, log: Log) -> None:
    """Damage in an old page hinders no append; when pruning finds it, the file is put aside."""
    path = tmp_path / "chat.db"
    fill(path, 10 * MESSAGES)
    garble_pages_with(path, "kept 50 ")
    started = serve(history=SqliteHistory(path, keep=5 * MESSAGES))
    talker = talk(started.port)
    wait_until(lambda: log.has_line(0.2), talker)
    assert "is damaged" in log.line()
    (after,) = talker.say("after")
    talker.close()
    started.server.shutdown()
    assert log.rest() == []
    assert started.server.stats.unstored == 0
    assert rows(path)[-1] == (after, "after")


def test_files_put_aside_in_one_second_have_names_of_their_own(serve: Serve, tmp_path: Path) -> None:
    """None is overwritten."""
    path = tmp_path / "chat.db"
    for number in range(1, 4):
        path.write_bytes(b"\0" * number)
        serve(history=path).server.shutdown()
    sizes = {len(data) for name, data in beside(path).items() if "damaged" in name}
    assert sizes == {1, 2, 3}


def a_text(path: Path) -> None:
    path.write_text("Dear diary\n" * 100)


def another_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = WAL; CREATE TABLE messages (id); INSERT INTO messages VALUES (1)"
        )


def a_newer_schema(path: Path) -> None:
    fill(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")


def a_header_cut_short(path: Path) -> None:
    fill(path)
    os.truncate(path, 50)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_text, "isn't a history of chatkit"),
        (another_database, "isn't a history of chatkit"),
        (
            a_newer_schema,
            f"was written by a newer chatkit (schema {VERSION + 1}, this one reads {VERSION}); upgrade chatkit",
        ),
        (a_header_cut_short, "isn't a history of chatkit"),
    ],
)
def test_a_foreign_file_is_left_alone(run: Run, tmp_path: Path, make: Damage, reason: str) -> None:
    """The server doesn't start; one line says why; nothing has changed and nothing is left beside."""
    make(tmp_path / "chat.db")
    files = beside(tmp_path / "chat.db")
    status, out, err = run("chat-server", "--port", "0", "--history", str(tmp_path / "chat.db")).ends()
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert reason in err
    assert beside(tmp_path / "chat.db") == files


@needs(mount_works(), "mount namespaces")
def test_a_file_that_is_mounted_alone(run: Run, tmp_path: Path) -> None:
    """As `docker run -v chat.db:/data/chat.db` does: the log would be lost with the container, so it is refused."""
    path, mounted = tmp_path / "chat.db", tmp_path / "data" / "a file.db"
    fill(path)
    mounted.parent.mkdir()
    mounted.touch()
    command = ["sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", str(path), str(mounted)]
    server = [str(BIN / "chat-server"), "--port", "0", "--history", str(mounted)]
    status, out, err = run(shutil.which("unshare") or "unshare", "-rm", *command, *server).ends()
    assert (status, out) == (1, "")
    assert err == (f"chat-server: {mounted} is mounted alone, without the files beside it; mount its folder instead\n")
    assert list(beside(mounted)) == ["a file.db"]


def test_a_name_that_is_not_utf_8(run: Run, talk: Talk, tmp_path: Path) -> None:
    """Both commands take it, and show it with escapes where it comes up."""
    path = tmp_path / "caf\udce9.db"
    server, port = start_server(run, "--history", str(path))
    talker = talk(port)
    talker.say("one")
    _, _, refused = run("chat-server", "--port", "0", "--history", str(path)).ends()
    assert refused == (
        f"chat-server: another server keeps its history in {tmp_path}/caf\\udce9.db; "
        "end that server, or choose another file\n"
    )
    talker.close()
    assert stop(server) == ""
    status, out, err = run("chat-history", str(path)).ends()
    assert (status, out[20:].partition(": ")[2], err) == (0, "one\n", "")
    assert list(beside(path)) == [path.name]


def test_a_file_that_another_server_has(run: Run, talk: Talk, tmp_path: Path) -> None:
    """The second one doesn't start; the first notices nothing; when it ends the file is free."""
    path = tmp_path / "chat.db"
    server, port = start_server(run, "--history", str(path))
    talker = talk(port)
    talker.say("before")
    status, out, err = run("chat-server", "--port", "0", "--history", str(path)).ends()
    assert (status, out, err) == (
        1,
        "",
        f"chat-server: another server keeps its history in {path}; end that server, or choose another file\n",
    )
    talker.say("after")
    talker.close()
    assert stop(server) == ""
    assert rows(path) == [(1, "before"), (2, "after")]
    server, _ = start_server(run, "--history", str(path))
    assert stop(server) == ""


class Unmaintained(SqliteHistory):
    """Looks at its files with each message, but not in pauses."""

    def maintain(self, *, idle: bool) -> float:
        return math.inf


@pytest.mark.parametrize("notices", ["at once", "after the kill", "at its end"])
def test_files_that_a_second_server_has_taken(
    run: Run, serve: Serve, talk: Talk, tmp_path: Path, log: Log, notices: str
) -> None:
    """After `rm`, a second server has the name, and is killed. The first one touches none of its files, not even then.

    It says so once, its chat goes on, and its messages count as not stored. The third server has all of the second's.
    """
    path = tmp_path / "chat.db"
    first = serve(history=Unmaintained(path))
    talker = talk(first.port)
    talker.say("before")
    for file in list(tmp_path.glob("chat.db*")):
        file.unlink()
    second, port = start_server(run, "--history", str(path))
    other = talk(port)
    seen = [f"text {number}" for number in range(25)]
    other.say(*seen[:5])
    inodes = {file.name: file.stat().st_ino for file in tmp_path.iterdir()}
    assert set(inodes) == {"chat.db", "chat.db-lock", "chat.db-shm", "chat.db-wal"}

    def notice() -> None:
        assert talker.say("first", "second") == [2, 3]
        assert log.line().startswith(f"{LOST}another server has taken {path}")
        assert first.server.stats.unstored == 2

    if notices == "at once":
        notice()
    other.say(*seen[5:])
    second.process.kill()
    second.ends()
    other.close()
    if notices == "after the kill":
        notice()
    with Witness(first.port, 0) as asker:
        asker.wait_for("message", "before" if notices == "at its end" else "second")
    talker.close()
    first.server.shutdown()
    assert {file.name: file.stat().st_ino for file in tmp_path.iterdir()} == inodes
    assert log.rest() == []
    third, port = start_server(run, "--history", str(path))
    with Witness(port, 0) as newcomer:
        newcomer.wait_for("message", seen[-1])
    stop(third)
    assert [text for _, text in newcomer.seen if text != "before"] == seen
