"""The history in a file: the promises of every history, and its own."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit import Message
from chatkit.history.base import HistoryError
from chatkit.history.search import browse
from chatkit.history.sqlite import files, locks, maintenance, queries
from chatkit.history.sqlite.maintenance import STEP_SECONDS
from chatkit.history.sqlite.queries import VERSION
from chatkit.history.sqlite.store import RESERVED_IDS, SqliteHistory
from tests.helpers.history_contract import ALL, TIME, DurableContract, said
from tests.helpers.history_files import indexing
from tests.helpers.inside import checkpoint, crash, drop_cached_pages, reader_of, unsaved_ranges, writer_of
from tests.helpers.leaks import open_descriptors
from tests.helpers.marks import needs

Open = Callable[..., SqliteHistory]


class TestSqlite(DurableContract):
    def make(self, folder: Path) -> SqliteHistory:
        return SqliteHistory(folder / "chat.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def open_history(path: Path) -> Iterator[Open]:
    """open_history(keep=...) opens the file, and closes it at the end."""
    with ExitStack() as stack:

        def open_it(**options: Any) -> SqliteHistory:
            history = SqliteHistory(path, **options)
            history.open()
            stack.callback(history.close)
            return history

        yield open_it


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def tidy_up(history: SqliteHistory) -> None:
    for _ in range(10_000):
        if history.maintain(idle=True) > 0:
            return
    pytest.fail("there is always more to do")


def test_the_file_is_private_and_as_documented(path: Path, open_history: Open) -> None:
    """Mode 0600, also beside it; WAL; application id and version; whole; no lock file is left."""
    history = open_history()
    history.append(said(1, 2))
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["chat.db", "chat.db-lock", "chat.db-shm", "chat.db-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert rows(path, "PRAGMA user_version") == [(VERSION,)] == [(3,)]
    assert rows(path, "PRAGMA application_id") == [(0x63686174,)]
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    history.close()
    assert [file.name for file in path.parent.iterdir()] == ["chat.db"]


def test_options_that_make_no_sense(path: Path) -> None:
    """Are the caller's mistake."""
    for options in ({"keep": 0}, {"days": -1}, {"sync": "off"}):
        with pytest.raises(ValueError, match=r"must be"):
            SqliteHistory(path, **options)


@pytest.mark.parametrize(("sync", "level"), [("normal", 1), ("full", 2)])
def test_sync(open_history: Open, sync: str, level: int) -> None:
    """SQLite is told how much a commit waits for the disk."""
    history = open_history(sync=sync)
    assert writer_of(history).execute("PRAGMA synchronous").fetchone() == (level,)


def test_no_connection_makes_temporary_files(path: Path, open_history: Open) -> None:
    """SQLite keeps in memory all that it would put into a file in some folder: the writer, the reader, a search."""
    history = open_history()
    with closing(files.connect(path, mode="ro")) as of_a_search:
        for connection in (writer_of(history), reader_of(history), of_a_search):
            assert connection.execute("PRAGMA temp_store").fetchone() == (2,)


@indexing
@pytest.mark.parametrize("match", ["", "plo AND loy"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_search_sorts_nothing(path: Path, open_history: Open, match: str, backwards: bool) -> None:
    """It finds messages in the order that it shows: a chunk of a common word costs no look at all its messages."""
    history = open_history()
    history.append(said(1, 2, 3, text="deployed"))
    tidy_up(history)
    with closing(files.connect(path, mode="ro")) as connection:
        statements = list[str]()
        connection.set_trace_callback(statements.append)
        found = queries.find(connection, 1, 3, (0.0, 1e300), match, 2, backwards=backwards)
        connection.set_trace_callback(None)
        (query,) = [each for each in statements if each.endswith("LIMIT 2")]
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall())
    assert [row[0] for row in found] == ([3, 2] if backwards else [1, 2])
    assert "SEARCH messages" in plan
    assert "TEMP B-TREE" not in plan


def test_ids_are_never_given_again_after_a_crash(open_history: Open) -> None:
    """Messages may have been shown that the file doesn't have (a full disk): ids go on above all that were reserved."""
    history = open_history()
    history.append(said(1, 2, 3))
    crash(history)
    again = open_history()
    assert again.newest_id == RESERVED_IDS
    assert again.earlier_epochs[history.epoch] == RESERVED_IDS
    assert (again.missing(1, again.newest_id), again.cursor_before_last(again.newest_id, 2)) == (3, 1)
    again.append(said(again.newest_id + 1))
    crash(again)
    third = open_history()
    assert third.newest_id > again.newest_id
    assert (third.missing(1, third.newest_id), len(third.unused)) == (4, 2)
    third.close()
    assert open_history().newest_id == third.newest_id, "an orderly end reserves nothing"


def test_so_many_epochs_are_remembered(path: Path, open_history: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a server starts; the oldest are forgotten."""
    monkeypatch.setattr(queries, "MAX_EPOCHS", 3)
    epochs = list[str]()
    for number in range(1, 7):
        history = open_history()
        history.append(said(number))
        history.close()
        epochs.append(history.epoch)
    assert len(set(epochs)) == 6
    assert rows(path, "SELECT epoch, last FROM epochs ORDER BY last") == list(zip(epochs[2:5], (3, 4, 5), strict=True))
    assert open_history().earlier_epochs == dict(zip(epochs[2:], (3, 4, 5, 6), strict=True))


def test_ids_are_reserved_before_the_first_is_given(open_history: Open) -> None:
    """It may be shown and never kept, if the first commit fails and the server is killed then."""
    history = open_history()
    history.append(said(1))
    history.close()
    crash(open_history())
    assert open_history().newest_id > RESERVED_IDS


def test_it_can_be_opened_while_it_cannot_be_written(path: Path, open_history: Open) -> None:
    """A room begins all the same, and messages are kept when that is over."""
    open_history().close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        history = open_history()
    history.append(said(1))
    crash(history)
    assert open_history().newest_id > RESERVED_IDS


def test_many_skips_in_a_row_are_one_range(path: Path, open_history: Open) -> None:
    """However many messages were refused one by one, the next append has one range to write."""
    history = open_history()
    history.append(said(1))
    for number in range(2, 1002):
        history.skip(number, number)
    assert unsaved_ranges(history) == 1
    history.append(said(1002))
    history.skip(1003, 1003)
    history.close()
    assert rows(path, "SELECT * FROM unused") == [(2, 1001), (1003, 1003)]


def test_a_commit_is_all_or_nothing(path: Path, open_history: Open) -> None:
    """Of several thousand messages, one of which can't be: none is kept, and the next ones are."""
    history = open_history()
    broken = said(*range(1, 3001))
    broken[2500] = Message("ada", None, 2501, TIME)  # type: ignore[arg-type]
    with pytest.raises(HistoryError):
        history.append(broken)
    assert rows(path, "SELECT count(*) FROM messages") == [(0,)]
    history.append(said(*range(1, 3001)))
    assert rows(path, "SELECT count(*), max(id) FROM messages") == [(3000, 3000)]


def test_a_foreign_file_is_left_alone(path: Path, open_history: Open) -> None:
    """A text, another program's database, a newer schema: one line of advice, no change, no new file beside it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    newer = path.with_name("newer.db")
    history = SqliteHistory(newer)
    history.open()
    history.close()
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    text = path.with_name("text")
    text.write_text("dear diary\n" * 100)
    for file, problem in (
        (path, "isn't a history"),
        (newer, r"newer chatkit .*; upgrade chatkit$"),
        (text, "isn't a history"),
    ):
        file.chmod(0o644)
        before = file.read_bytes()
        with pytest.raises(HistoryError, match=problem):
            SqliteHistory(file).open()
        assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (before, 0o644)
        assert not file.with_name(f"{file.name}-lock").exists()


def test_a_file_that_is_removed(path: Path, open_history: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Or renamed: later messages go into a new one of that name, which goes on with the room and its ids."""
    history = open_history()
    history.append(said(1, 2))
    for suffix in ("", "-wal", "-shm"):
        path.with_name(f"chat.db{suffix}").rename(path.with_name(f"old.db{suffix}"))
    history.append(said(3))
    assert history.maintain(idle=True) >= 0
    assert [message.id for message in history.read(0, ALL, ALL)] == [3]
    assert caplog.text.count("was removed or replaced") == 1
    history.close()
    again = open_history()
    assert (again.newest_id, again.earlier_epochs[history.epoch]) == (3, 3)
    assert rows(path.with_name("old.db"), "SELECT id FROM messages") == [(1,), (2,)]


def test_a_file_that_is_replaced(path: Path, open_history: Open) -> None:
    """By another history, while it runs: nothing in that is lost, and only later messages of ours come into it."""
    other = SqliteHistory(path.with_name("other.db"))
    other.open()
    other.append(said(*range(1, 11), text="other"))
    other.close()
    history = open_history()
    history.append(said(1, 2, text="mine"))
    path.with_name("other.db").rename(path)
    history.append(said(20))
    history.close()
    found = rows(path, "SELECT id, text FROM messages")
    assert found == [*[(number, "other") for number in range(1, 11)], (20, "x")]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_backup_of_a_running_room(path: Path, open_history: Open) -> None:
    """As docs/history.md says: whole, while it is written; put back it is a history like any other, in WAL mode."""
    history = open_history()
    history.append(said(1, 2))
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute(f"VACUUM INTO '{copy}'")
    history.append(said(3))
    back = SqliteHistory(copy)
    back.open()
    assert [message.id for message in back.read(0, ALL, ALL)] == [1, 2]
    assert rows(copy, "PRAGMA journal_mode") == [("wal",)]
    assert back.earlier_epochs[history.epoch] == back.newest_id == RESERVED_IDS
    back.close()


def test_a_closed_history_stays_closed(path: Path, open_history: Open) -> None:
    """A late read or write raises; nothing is opened again."""
    history = open_history()
    history.append(said(1))
    history.close()
    for late in (lambda: history.read(0, ALL, ALL), lambda: history.append(said(2))):
        with pytest.raises(HistoryError, match=r"is closed; call open\(\) first$"):
            late()
    assert [file.name for file in path.parent.iterdir()] == ["chat.db"]


def test_one_server_per_object(open_history: Open) -> None:
    """A history that is open can't be opened again; that does it no harm."""
    history = open_history()
    history.append(said(1))
    with pytest.raises(HistoryError, match="another server keeps"):
        history.open()
    history.append(said(2))
    assert [message.id for message in history.read(0, ALL, ALL)] == [1, 2]


def test_one_server_per_file_also_by_another_name(path: Path, open_history: Open) -> None:
    """A link is the file that it leads to."""
    open_history()
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(HistoryError, match="another server"):
        SqliteHistory(link).open()


def test_rows_that_are_no_messages(path: Path, open_history: Open) -> None:
    """Rows of an unknown kind are passed over; rows that can't be read at all raise HistoryError."""
    history = open_history()
    history.append(said(1, 2, 3))
    rows_of_others = ["UPDATE messages SET kind = 'song' WHERE id = 2"]
    for statement in rows_of_others:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(statement)
    assert [message.id for message in history.read(0, ALL, ALL)] == [1, 3]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE messages SET sender = CAST(x'ff' AS TEXT) WHERE id = 2")
    with pytest.raises(HistoryError):
        history.read(0, ALL, ALL)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BlockingIOError(errno.EAGAIN, ""), "another server keeps its history in"),
        (OSError(errno.ENOLCK, ""), "can't be locked: No locks available; choose a folder on another file system"),
        (OSError(errno.EOPNOTSUPP, ""), "can't be locked: Operation not supported"),
    ],
)
@pytest.mark.parametrize("lock", ["flock", pytest.param("fcntl", marks=needs(locks.SET_LOCK, "locks of open files"))])
def test_a_lock_that_fails(
    path: Path, open_history: Open, monkeypatch: pytest.MonkeyPatch, lock: str, error: OSError, words: str
) -> None:
    """The reason is told as it is; only a lock of another server is called that. No lock file is left."""
    before = open_descriptors(everything=True)

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(pytest.importorskip("fcntl"), lock, fail)
        with pytest.raises(HistoryError, match=words):
            open_history()
    assert open_descriptors(everything=True) == before
    open_history().append(said(1))


@needs(locks.SET_LOCK, "locks of open files")
def test_a_kernel_without_locks_of_open_files(open_history: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock file does."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "fcntl", fail)
    open_history().append(said(1))


@needs(hasattr(os, "chown"), "owners of files")
@pytest.mark.parametrize("suffixes", [[""], ["", "-wal", "-shm"]])
def test_a_copy_that_others_can_read(
    path: Path, open_history: Open, caplog: pytest.LogCaptureFixture, suffixes: list[str]
) -> None:
    """Its owner alone can read it from the next start on, with everything beside it. One line says so."""
    history = open_history()
    history.append(said(1))
    for suffix in suffixes:
        shutil.copyfile(f"{path}{suffix}", path.with_name(f"copy.db{suffix}"))
        path.with_name(f"copy.db{suffix}").chmod(0o644)
    copy = SqliteHistory(path.with_name("copy.db"))
    copy.open()
    copy.append(said(copy.newest_id + 1))
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    copy.close()
    copy.open()
    copy.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"{path.with_name('copy.db')} could be read by others; now its owner alone can"
    ]


def test_a_name_that_is_not_utf_8(path: Path) -> None:
    """Any name that a file can have will do, for a search, too."""
    path = path.with_name("caf\udce9 #1?%41.db")
    with closing(SqliteHistory(path)) as history:
        history.open()
        history.append(said(1, 2))
        assert [message.id for message in history.read(0, ALL, ALL)] == [1, 2]
        assert [message.id for message in browse(path)] == [1, 2]
    assert [message.id for message in browse(path)] == [1, 2]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["chat.db", r"a \b	c.db"])
def test_a_file_that_is_mounted_alone(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is refused, since its log would stay behind: mount the folder."""
    path = path.with_name(name)
    escaped = str(path).replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda rw\n29 22 8:1 /x.db {escaped} rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr(locks, "MOUNTS", str(mounts))
    path.touch()
    with pytest.raises(HistoryError, match=r"is mounted alone, without the files beside it; mount its folder instead$"):
        SqliteHistory(path).open()
    assert {file.name for file in tmp_path.iterdir()} == {"mountinfo", name}
    mounts.unlink()
    with closing(SqliteHistory(path)) as history:
        history.open()


@pytest.mark.parametrize("missing", ["folder/chat.db", "."])
def test_a_file_that_cannot_be(tmp_path: Path, missing: str) -> None:
    """No such folder, or a folder: one line."""
    with pytest.raises(HistoryError, match=r"(No such file|ordinary)"):
        SqliteHistory(tmp_path / missing).open()


@pytest.mark.parametrize("content_lock", [True, False])
def test_one_server_per_file(
    path: Path, open_history: Open, monkeypatch: pytest.MonkeyPatch, content_lock: bool
) -> None:
    """A second one is refused, in this process or another, until the first has ended; by the lock file alone, too."""
    if not content_lock:
        monkeypatch.setattr(locks, "SET_LOCK", None)
    history = open_history()
    with pytest.raises(HistoryError, match="another server"):
        open_history()
    history.append(said(1))
    history.close()
    assert [message.id for message in open_history().read(0, ALL, ALL)] == [1]


@pytest.mark.parametrize("harm", ["cut", "zeros", "garbage"])
def test_a_damaged_file_is_put_aside(
    path: Path, open_history: Open, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its bytes are kept under another name, one line says so, and a new history begins with a name of its own."""
    history = open_history()
    history.append(said(*range(1, 2001)))
    history.close()
    whole = path.read_bytes()
    harmed = {"cut": whole[: len(whole) // 2], "zeros": bytes(len(whole)), "garbage": whole[:4096] + b"\xff" * 60_000}[
        harm
    ]
    path.write_bytes(harmed)
    again = open_history()
    (aside,) = path.parent.glob("chat.db.damaged-*")
    assert aside.read_bytes() == harmed
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert str(aside) in caplog.text
    assert (again.newest_id, again.read(0, ALL, ALL)) == (0, [])
    assert again.epoch != history.epoch
    again.append(said(1))


def test_damage_while_it_runs(path: Path, open_history: Open) -> None:
    """The room goes on in a new file: same name, and ids that come next."""
    history = open_history()
    history.append(said(*range(1, 2001)))
    tidy_up(history)
    checkpoint(history)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    drop_cached_pages(history)
    history.append(said(2001))
    (aside,) = path.parent.glob("chat.db.damaged-*")
    assert b"\xff" * 4096 in aside.read_bytes()
    assert [message.id for message in history.read(0, ALL, ALL)] == [2001]
    history.close()
    again = open_history()
    assert (again.newest_id, again.earlier_epochs[history.epoch]) == (2001, 2001)


def test_keep(path: Path, open_history: Open) -> None:
    """The newest so many stay, in steps; pruned messages are gone from the file's bytes and from the index."""
    history = open_history(keep=1000)
    secret = "pass phrase 42"
    for start in range(1, 5001, 1000):
        history.append(said(*range(start, start + 1000), text=secret if start == 1 else "x"))
        tidy_up(history)
    assert rows(path, "SELECT min(id), max(id), count(*) FROM messages") == [(4001, 5000, 1000)]
    history.close()
    assert secret.encode() not in path.read_bytes()
    assert rows(path, "SELECT count(*) FROM search WHERE search MATCH 'pas'") == [(0,)]
    rows(path, "INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")


def test_days(path: Path, open_history: Open) -> None:
    """Older messages go, younger ones stay."""
    now = time.time()
    old, young = [Message("ada", "x", number, now - number * 86400) for number in (3, 2)], Message("ada", "x", 4, now)
    history = open_history(days=2.5)
    history.append(
        [old[0].__class__("ada", "old", 1, now - 3 * 86400), Message("ada", "new", 2, now - 2 * 86400), young]
    )
    tidy_up(history)
    assert [message.id for message in history.read(0, ALL, ALL)] == [2, 4]


@pytest.mark.parametrize(
    ("ages", "kept"),
    [
        ([3, 2, 20_000, 1], [2, 3, 4]),  # said in 1970, as an empty battery has it
        ([20_000, 3, 2, 1], [3, 4]),
        ([3, 3, -30, 3, 2, -30, 1], [5, 6, 7]),  # a month ahead: the next message tells its age
        ([3, -30, -30, 2], [2, 3, 4]),
        ([-30, -30], [1, 2]),
        ([3, 3], []),
    ],
)
def test_days_beside_a_wrong_clock(open_history: Open, ages: list[int], kept: list[int]) -> None:
    """Messages that were said under one protect nothing that is old, and take nothing with them that is young."""
    now = time.time()
    history = open_history(days=2.5)
    history.append([Message("ada", "x", number, now - age * 86400) for number, age in enumerate(ages, 1)])
    tidy_up(history)
    assert [message.id for message in history.read(0, ALL, ALL)] == kept


class Clocks:
    """The clocks that maintenance sees: one that can be set, and one that can't."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.steady = 1_800_000_000.0
        steady = {"monotonic": lambda: self.steady, "clock_gettime": lambda clock: self.steady}
        monkeypatch.setattr(maintenance, "time", SimpleNamespace(time=lambda: self.now, **steady))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.steady += seconds


DAY = 86400.0


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.mark.parametrize(
    ("jump", "words"),
    [
        (30 * DAY, "clock jumped ahead by 30 days, 0:00:00: messages grow old by the time before that, until the next"),
        (-30 * DAY, "clock jumped back by 30 days, 0:00:00: messages grow old that much later"),
    ],
)
def test_a_clock_that_jumps_prunes_nothing(
    open_history: Open, clocks: Clocks, caplog: pytest.LogCaptureFixture, jump: float, words: str
) -> None:
    """It is noticed, and said once. Messages go when they are old by the time before it; and so when it is over."""
    history = open_history(days=2)
    history.append([Message("ada", "x", 1, clocks.now - DAY), Message("ada", "x", 2, clocks.now)])

    def ids_after(seconds: float) -> list[int | None]:
        clocks.wait(seconds)
        history.append([])
        history.maintain(idle=True)
        return [message.id for message in history.read(0, ALL, ALL)]

    assert ids_after(0) == [1, 2]
    clocks.now += jump
    assert ids_after(0.9 * DAY) == [1, 2]
    assert ids_after(0.2 * DAY) == ([2] if jump > 0 else [1, 2])
    clocks.now -= jump
    assert ids_after(0) == [2]
    assert [words in record.getMessage() for record in caplog.records] == [True]


def test_small_steps_of_the_clock_are_followed(open_history: Open, clocks: Clocks) -> None:
    """As a time server makes them: each moves the end of `days` by as much."""
    history = open_history(days=1)
    history.append([Message("ada", "x", 1, clocks.now)])
    for _ in range(100):
        clocks.now += 59
        history.maintain(idle=True)
    clocks.wait(DAY - 100 * 59 - 1)
    history.maintain(idle=True)
    assert len(history.read(0, ALL, ALL)) == 1
    clocks.wait(2)
    history.maintain(idle=True)
    assert not history.read(0, ALL, ALL)


def test_all_of_it_is_pruned(open_history: Open) -> None:
    """Newcomers aren't told of that, also after the next start."""
    history = open_history(days=1)
    history.append(said(1, 2, 3))
    tidy_up(history)
    assert (history.read(0, ALL, ALL), history.pruned_upto) == ([], 3)
    history.close()
    assert open_history().pruned_upto == 3


def test_pruning_keeps_up_with_a_flood(path: Path, open_history: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step, however slow, removes more than was said since the step before, also while nobody pauses."""
    ticks = count(step=0.6 * STEP_SECONDS)
    monkeypatch.setattr(maintenance, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: next(ticks)}))
    history = open_history(keep=100)
    for start in range(1, 50_001, 5000):
        history.append(said(*range(start, start + 5000)))
        history.maintain(idle=False)
    assert rows(path, "SELECT count(*) FROM messages")[0][0] <= 5100


def test_the_index_follows(path: Path, open_history: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pauses only; without FTS5 there is none, and nothing else changes."""
    history = open_history()
    history.append(said(1, 2, 3, text="deployed"))
    history.maintain(idle=False)
    assert rows(path, "SELECT indexed FROM state") == [(0,)]
    tidy_up(history)
    assert rows(path, "SELECT indexed FROM state") == [(3,)]
    assert rows(path, "SELECT count(*) FROM search WHERE search MATCH 'plo'") == [(3,)]
    history.close()
    monkeypatch.setattr(queries, "make_index", lambda connection: False)
    without = open_history()
    without.append(said(4))
    tidy_up(without)
    assert rows(path, "SELECT indexed FROM state") == [(3,)]


def test_checkpoints(path: Path, open_history: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many bytes, or so many seconds: the log stays small, and a power failure takes little."""
    history = open_history()
    wal = path.with_name("chat.db-wal")
    for start in range(1, 40_001, 1000):
        history.append(said(*range(start, start + 1000), text="x" * 400))
        history.maintain(idle=False)
    assert wal.stat().st_size < 3 * maintenance.CHECKPOINT_BYTES
    tidy_up(history)
    history.append(said(50_000))
    tidy_up(history)
    assert 0 < history.maintain(idle=True) <= maintenance.CHECKPOINT_SECONDS
    now = time.monotonic() + maintenance.CHECKPOINT_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: now)
    history.maintain(idle=True)
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())  # the file itself has it now, without its log
    assert rows(copy, "SELECT max(id) FROM messages") == [(50_000,)]


def test_reading_takes_one_step(open_history: Open) -> None:
    """For any number of rows. SQLite releases the interpreter's lock at each step; busy threads return it slowly."""
    history = open_history()
    history.append(said(*range(1, 501)))
    steps = list[str]()
    history.read(0, 1, 1)
    reader_of(history).set_trace_callback(steps.append)
    assert len(history.read(0, ALL, ALL)) == 500
    assert len(steps) == 1
    assert json.dumps(steps).count("json_group_array") == 1
