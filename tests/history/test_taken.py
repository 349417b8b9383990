"""Files that were removed or replaced while a history has them open: it acts only on its own."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from chatkit.history.base import HistoryError
from chatkit.history.sqlite import locks
from chatkit.history.sqlite.store import RESERVED_IDS, SqliteHistory
from tests.helpers.history_contract import ALL, said
from tests.helpers.inside import checkpoint, crash, drop_cached_pages
from tests.helpers.marks import needs

linux = needs(locks.SET_LOCK, "locks of open files (Linux)")

Open = Callable[[], SqliteHistory]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def start(path: Path) -> Iterator[Open]:
    """start() opens the file as another server would: flock tells two descriptors of one process apart."""
    with ExitStack() as stack:

        def open_it() -> SqliteHistory:
            history = SqliteHistory(path)
            history.open()
            stack.callback(history.close)
            return history

        yield open_it


def inodes(path: Path) -> dict[str, int]:
    """Return which file has which name in the folder."""
    return {file.name: file.stat().st_ino for file in path.parent.iterdir() if not file.is_dir()}


def remove(path: Path, pattern: str) -> None:
    for file in path.parent.glob(pattern):
        file.unlink()


def ids(history: SqliteHistory) -> list[int | None]:
    return [message.id for message in history.read(0, ALL, ALL)]


def ids_after_kill(path: Path) -> list[int]:
    """Return the ids that the next start would find if all servers were killed now."""
    folder = path.parent / "copy"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", folder)
    with closing(sqlite3.connect(folder / path.name)) as connection:
        return [number for (number,) in connection.execute("SELECT id FROM messages ORDER BY id")]


def test_another_server_has_taken_the_name(path: Path, start: Open) -> None:
    """After `rm chat.db*` a second server starts. The first one leaves its files alone, says why, and reads its own."""
    first = start()
    first.append(said(1, 2))
    remove(path, "chat.db*")
    second = start()
    second.append(said(*range(1, 6)))
    before = inodes(path)
    assert set(before) == {"chat.db", "chat.db-lock", "chat.db-shm", "chat.db-wal"}
    for _ in range(2):
        with pytest.raises(HistoryError, match=r"another server has taken .*chat\.db.*; end this server, or start it"):
            first.append(said(3))
    assert first.maintain(idle=True) == math.inf
    assert inodes(path) == before
    second.append(said(6))
    assert ids(first) == [1, 2]
    first.close()
    assert inodes(path) == before
    with pytest.raises(HistoryError, match="another server keeps"):
        start()
    assert ids_after_kill(path) == [1, 2, 3, 4, 5, 6]


@linux
@pytest.mark.parametrize("removed", ["chat.db-lock", "chat.db-*"])
def test_the_file_itself_is_locked(path: Path, start: Open, removed: str) -> None:
    """After `rm chat.db-lock` a second server is refused all the same; the first one locks a new lock file."""
    history = start()
    history.append(said(1))
    remove(path, removed)
    for _ in range(2):
        with pytest.raises(HistoryError, match="another server keeps"):
            start()
        history.append(said(history.newest_id + 1))
    assert ids(history) == [1, 2, 3]
    history.close()
    assert list(inodes(path)) == ["chat.db"]


@linux
def test_a_file_that_is_renamed(path: Path, start: Open) -> None:
    """Under its new name it is still the first server's, until that has let go of it."""
    history = start()
    history.append(said(1, 2))
    other = SqliteHistory(path.rename(path.with_name("other.db")))
    with pytest.raises(HistoryError, match=r"another server keeps its history in .*other\.db"):
        other.open()
    history.append(said(3))
    other.open()
    other.append(said(RESERVED_IDS + 1))
    assert (ids(history), ids(other)) == ([3], [1, 2, RESERVED_IDS + 1])
    other.close()


@linux
def test_a_locked_file_in_place_of_ours(path: Path, start: Open) -> None:
    """Another server's file that gets our name isn't written: appends fail until that server has ended."""
    other = SqliteHistory(path.with_name("other.db"))
    other.open()
    other.append(said(1))
    checkpoint(other)
    history = start()
    path.with_name("other.db").rename(path)
    for _ in range(2):
        with pytest.raises(HistoryError, match="another server keeps"):
            history.append(said(2))
    assert history.maintain(idle=True) == math.inf
    other.close()
    history.append(said(2))
    assert ids(history) == [1, 2]


def test_a_second_name_is_refused(path: Path, start: Open) -> None:
    """A hard link would have a lock and a log of its own. One line says so, and nothing is made beside it."""
    with closing(SqliteHistory(path)) as history:
        history.open()
    link = path.with_name("link.db")
    link.hardlink_to(path)
    for name in (path, link):
        with pytest.raises(HistoryError, match=rf"{name} has a second name \(hard link\).*; remove one$"):
            SqliteHistory(name).open()
    assert sorted(inodes(path)) == ["chat.db", "link.db"]
    link.unlink()
    start()


def test_a_second_name_for_a_file_in_use(path: Path, start: Open) -> None:
    """The first server goes on as it was; a second one is refused under either name."""
    history = start()
    link = path.with_name("link.db")
    link.hardlink_to(path)
    with pytest.raises(HistoryError, match="hard link"):
        SqliteHistory(link).open()
    history.append(said(1))
    assert ids_after_kill(path) == [1]


def test_another_server_has_taken_the_file(path: Path, start: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a system can't lock the file itself, `rm chat.db-lock` lets a second server in.

    The first one then writes nothing to the file any more, also at its end.
    """
    monkeypatch.setattr(locks, "SET_LOCK", None)
    first = start()
    first.append(said(1, 2))
    remove(path, "*-lock")
    second = start()
    second.append(said(RESERVED_IDS + 1))
    before = inodes(path)
    with pytest.raises(HistoryError, match="another server has taken"):
        first.append(said(3))
    second.append(said(RESERVED_IDS + 2))
    first.close()
    assert inodes(path) == before
    assert ids_after_kill(path) == [1, 2, RESERVED_IDS + 1, RESERVED_IDS + 2]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT reserved FROM state").fetchone() == (2 * RESERVED_IDS,)


@pytest.mark.parametrize("removed", ["chat.db*", "chat.db-lock"])
@pytest.mark.parametrize("end", [SqliteHistory.close, crash])
def test_another_server_came_and_went(
    path: Path, start: Open, removed: str, end: Callable[[SqliteHistory], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come again at any moment, so its files are still left alone."""
    monkeypatch.setattr(locks, "SET_LOCK", None)
    first = start()
    first.append(said(1))
    remove(path, removed)
    second = start()
    second.append(said(second.newest_id + 1))
    end(second)
    before = inodes(path)
    with pytest.raises(HistoryError, match="another server has taken"):
        first.append(said(2))
    first.close()
    assert inodes(path) == before
    start()


def test_a_name_that_is_taken_unnoticed(path: Path, start: Open) -> None:
    """A history that ends without another look removes no lock file but its own."""
    first = start()
    remove(path, "chat.db*")
    start().append(said(1))
    before = inodes(path)
    first.close()
    assert inodes(path) == before


@pytest.mark.parametrize(("removed", "kept"), [("chat.db-lock", [1, 2]), ("chat.db*", [2])])
def test_the_lock_file_is_removed_and_nobody_comes(
    path: Path, start: Open, removed: str, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is locked anew with the next message, in a new file if that was removed, too: a second server is refused."""
    monkeypatch.setattr(locks, "SET_LOCK", None)
    history = start()
    history.append(said(1))
    remove(path, removed)
    history.append(said(2))
    with pytest.raises(HistoryError, match="another server keeps"):
        start()
    assert ids(history) == kept
    history.close()
    assert list(inodes(path)) == ["chat.db"]


def test_a_log_that_is_removed(path: Path, start: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Its messages are written into the file with the next append, which has a new log: a kill loses none."""
    history = start()
    history.append(said(1, 2))
    remove(path, "*-wal")
    history.append(said(3))
    assert ids(history) == [1, 2, 3] == ids_after_kill(path)
    assert caplog.text.count("chat.db-wal was removed or replaced") == 1


def test_a_log_that_is_removed_under_a_reader(path: Path, start: Open) -> None:
    """As long as another program's transaction needs the log, it stays open and in use."""
    history = start()
    history.append(said(1))
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM messages").fetchall()
        history.append(said(2))
        remove(path, "*-wal")
        history.append(said(3))
        other.execute("COMMIT")
    history.append(said(4))
    assert ids(history) == [1, 2, 3, 4] == ids_after_kill(path)


def test_a_file_that_is_replaced_with_its_log(path: Path, start: Open) -> None:
    """The other history's log stays beside it: nothing in that is lost."""
    other = SqliteHistory(path.with_name("other.db"))
    other.open()
    other.append(said(*range(1, 11)))
    for suffix in ("", "-wal"):
        shutil.copy(f"{path.with_name('other.db')}{suffix}", f"{path.with_name('new.db')}{suffix}")
    history = start()
    history.append(said(1, 2))
    for suffix in ("-wal", ""):
        path.with_name(f"new.db{suffix}").rename(f"{path}{suffix}")
    history.append(said(20))
    assert ids(history) == [*range(1, 11), 20]
    other.close()


def test_a_damaged_file_that_is_replaced(path: Path, start: Open) -> None:
    """A whole one that was put in its place isn't put aside for it."""
    history = start()
    history.append(said(*range(1, 2001)))
    checkpoint(history)
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (len(whole) - 4096))
    drop_cached_pages(history)
    with pytest.raises(HistoryError, match="is damaged"):
        history.read(0, ALL, ALL)
    backup = path.with_name("backup.db")
    backup.write_bytes(whole)
    backup.rename(path)
    history.append(said(2001))
    assert not list(path.parent.glob("*damaged*"))
    assert [message.id for message in history.read(1999, ALL, ALL)] == [2000, 2001]
