"""Files of an older version: a server migrates them when it opens them, chat-history reads them as they are."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatkit import Message
from chatkit.history import search
from chatkit.history.base import HistoryError
from chatkit.history.search import browse
from chatkit.history.sqlite import files, queries
from chatkit.history.sqlite.queries import VERSION
from chatkit.history.sqlite.store import RESERVED_IDS, SqliteHistory
from tests.helpers.history_contract import ALL, TIME
from tests.helpers.history_files import indexing, protected
from tests.helpers.peers import DEADLINE

EPOCH = "0123456789abcdef"

# As chatkit wrote it before `state`: ids up to 9 are reserved, 4 and 5 are unused, the index has messages 1 to 3.
VERSION_1 = f"""
    PRAGMA journal_mode = WAL;
    BEGIN;
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY, time REAL NOT NULL, sender TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL
    );
    CREATE TABLE room (name TEXT NOT NULL, reserved INTEGER NOT NULL, indexed INTEGER NOT NULL);
    CREATE TABLE unused (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
    PRAGMA application_id = 1667785076;
    PRAGMA user_version = 1;
    INSERT INTO room VALUES ('{EPOCH}', 9, 0);
    INSERT INTO unused VALUES (4, 5);
    INSERT INTO messages VALUES
        (1, {TIME}, 'ada', 'message', 'deployed it'), (2, {TIME}, 'bob', 'message', 'fine'),
        (3, {TIME}, 'ada', 'message', 'nothing'), (6, {TIME}, 'Zoë', 'message', 'DEPLOYED again'),
        (7, {TIME}, 'bob', 'message', 'bye');
    COMMIT;
"""
# It had `state`, and no `epochs`.
VERSION_2 = (
    VERSION_1.replace("room (name", "state (epoch").replace("room", "state").replace("version = 1", "version = 2")
)
INDEX = """
CREATE VIRTUAL TABLE search USING fts5(
    text, content = 'messages', content_rowid = 'id', tokenize = 'trigram', detail = none
);
INSERT INTO search (rowid, text) SELECT id, text FROM messages WHERE id <= 3;
UPDATE room SET indexed = 3;
"""
IDS = [1, 2, 3, 6, 7]


@pytest.fixture(params=["reading", pytest.param("index", marks=indexing)])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a history of version 1 that no server has open, without the search index or with it."""
    path = tmp_path / "chat.db"
    script(path, VERSION_1, INDEX if request.param == "index" else "")
    return path


def script(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for each in statements:
            connection.executescript(each)


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def schema(path: Path) -> list[Any]:
    """Return every table as its file describes it."""
    return rows(path, "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name")


def found(path: Path, **criteria: Any) -> list[int | None]:
    return [message.id for message in browse(path, **criteria)]


def opened(path: Path, **options: Any) -> SqliteHistory:
    history = SqliteHistory(path, **options)
    history.open()
    return history


def check_migrated(path: Path) -> None:
    """Assert that a server goes on with everything that the file of an older version had."""
    with closing(opened(path)) as history:
        assert (history.newest_id, history.unused, history.pruned_upto) == (9, [(4, 5)], 0)
        assert history.earlier_epochs == {EPOCH: 9}
        assert [message.id for message in history.read(0, ALL, ALL)] == IDS
        assert history.missing(1, 9) == 7
        assert rows(path, "PRAGMA user_version") == [(VERSION,)]
        assert found(path, text="deployed") == [1, 6]
        history.append([Message("ada", "deployed once more", 10, TIME)])
        while history.maintain(idle=True) == 0:
            pass
        assert found(path, text="deployed") == [1, 6, 10]
    assert found(path) == [*IDS, 10]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_server_migrates(path: Path, tmp_path: Path) -> None:
    """Ids, unused ids and the index are as before; the tables are those of a new file, to the letter."""
    check_migrated(path)
    with closing(opened(tmp_path / "new.db")) as new:
        new.maintain(idle=True)
    assert schema(path) == schema(tmp_path / "new.db")
    with closing(opened(path)) as again:
        assert (again.newest_id, again.unused, again.earlier_epochs[EPOCH]) == (10, [(4, 5)], 9)


@pytest.mark.parametrize("killed", [False, True])
def test_a_server_migrates_version_2(tmp_path: Path, killed: bool) -> None:
    """The same, also after a kill in the middle; chat-history reads it before, too."""
    path = tmp_path / "chat.db"
    script(path, VERSION_2)
    assert found(path, text="deployed") == [1, 6]
    if killed:
        command = [sys.executable, "-c", KILLED, str(path), "PRAGMA user_version = 3"]
        assert subprocess.run(command, timeout=DEADLINE).returncode == -signal.SIGKILL
        assert rows(path, "PRAGMA user_version") == [(2,)]
    check_migrated(path)


@indexing
def test_a_migrated_index_is_whole(tmp_path: Path) -> None:
    """It keeps its messages, and gets the others; none is indexed twice."""
    path = tmp_path / "chat.db"
    script(path, VERSION_1, INDEX)
    history = opened(path)
    assert rows(path, "SELECT epoch, reserved, indexed FROM state") == [(history.epoch, 9 + RESERVED_IDS, 3)]
    assert rows(path, "SELECT * FROM epochs") == [(EPOCH, 9)]
    assert rows(path, "SELECT rowid FROM search WHERE search MATCH 'plo'") == [(1,)]
    while history.maintain(idle=True) == 0:
        pass
    assert rows(path, "SELECT indexed FROM state") == [(7,)]
    assert rows(path, "SELECT rowid FROM search WHERE search MATCH 'plo'") == [(1,), (6,)]
    history.close()
    rows(path, "INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")


def test_a_crashed_server_of_version_1(path: Path) -> None:
    """Its reserved ids may have been given: they count as unused after the migration."""
    script(path, f"UPDATE room SET reserved = 7 + {RESERVED_IDS}")
    with closing(opened(path)) as history:
        assert (history.newest_id, history.unused) == (7 + RESERVED_IDS, [(4, 5), (8, 7 + RESERVED_IDS)])


def test_a_migrated_file_keeps_the_newest(path: Path) -> None:
    """Pruning works on it, in the index too."""
    with closing(opened(path, keep=4)) as history:
        while history.maintain(idle=True) == 0:
            pass
        assert [message.id for message in history.read(0, ALL, ALL)] == [6, 7]
    assert found(path, text="deployed") == [6]


def test_chat_history_reads_version_1(path: Path) -> None:
    """It finds the same without a migration, and changes nothing."""
    before = path.read_bytes()
    assert found(path) == IDS
    assert found(path, text="deployed") == [1, 6]
    assert found(path, text="deployed", last=1) == [6]
    assert found(path, sender="zoË") == [6]
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@indexing
def test_chat_history_asks_the_index_of_version_1(tmp_path: Path) -> None:
    """A search trusts the index for the messages that it covers: here it lacks the first one."""
    script(tmp_path / "chat.db", VERSION_1, INDEX, "INSERT INTO search (search) VALUES ('delete-all')")
    assert found(tmp_path / "chat.db", text="deployed") == [6]
    assert found(tmp_path / "chat.db", text="de") == [1, 6]


def test_a_migration_while_chat_history_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader goes on in the tables of the new version."""
    monkeypatch.setattr(search, "CHUNK_ROWS", 1)
    reading = browse(path, text="deployed")
    assert next(reading).id == 1
    with closing(opened(path)):
        assert [message.id for message in reading] == [6]


# Opens the file argv[1] as a server does, and kills itself where SQLite begins a statement that starts with argv[2].
KILLED = """
import os, signal, sys
from chatkit.history.sqlite import files, queries
from chatkit.history.sqlite.store import SqliteHistory

def connect(*arguments, **options):
    connection = unwatched(*arguments, **options)
    connection.set_trace_callback(lambda begun: begun.startswith(sys.argv[2]) and os.kill(os.getpid(), signal.SIGKILL))
    return connection

unwatched, files.connect = files.connect, connect
SqliteHistory(sys.argv[1]).open()
"""


@pytest.mark.parametrize(
    ("statement", "version"),
    [
        ("BEGIN IMMEDIATE", 1),
        ("CREATE TABLE state", 1),
        ("INSERT INTO state", 1),
        ("DROP TABLE room", 1),
        ("PRAGMA user_version = 2", 1),
        ("CREATE TABLE epochs", 1),
        ("PRAGMA user_version = 3", 1),
        ("COMMIT", 1),
        ("SELECT epoch", 3),
    ],
)
def test_a_kill_in_the_migration(path: Path, statement: str, version: int) -> None:
    """The file has one version or the other, never a part of both; chat-history and the next server read it."""
    command = [sys.executable, "-c", KILLED, str(path), statement]
    assert subprocess.run(command, timeout=DEADLINE).returncode == -signal.SIGKILL
    assert found(path, text="deployed") == [1, 6]
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    assert rows(copy, "PRAGMA user_version") == [(version,)]
    names = {name for name, _ in schema(copy)}
    assert names >= {"messages", "unused", "room" if version == 1 else "state"}
    assert len(names & {"room", "state"}) == 1
    check_migrated(path)


def test_an_error_in_the_migration(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The migration is rolled back, and the file stays one of version 1."""
    before, tables = rows(path, "SELECT * FROM room"), schema(path)
    with monkeypatch.context() as patched:
        patched.setitem(queries.MIGRATIONS, 1, (*queries.MIGRATIONS[1], "SELECT nonsense"))
        with pytest.raises(HistoryError, match="nonsense"):
            SqliteHistory(path).open()
    assert (rows(path, "SELECT * FROM room"), schema(path)) == (before, tables)
    assert rows(path, "PRAGMA user_version") == [(1,)]
    check_migrated(path)


def test_a_locked_file_is_not_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says why; the next attempt migrates."""
    monkeypatch.setattr(files, "BUSY_SECONDS", 0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HistoryError, match=r"^another program has locked the file"):
            SqliteHistory(path).open()
    assert rows(path, "PRAGMA user_version") == [(1,)]
    check_migrated(path)


@pytest.fixture
def shelf() -> Iterator[Path]:
    """Yield a folder that other users reach, too."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_read_only_file_is_not_migrated(shelf: Path) -> None:
    """The error is that of any read-only file; chat-history reads it."""
    path = shelf / "chat.db"
    script(path, VERSION_1)
    path.chmod(0o444)
    path.with_name("chat.db-lock").touch(0o666)
    path.with_name("chat.db-lock").chmod(0o666)
    before = path.read_bytes()
    with protected(shelf):
        with pytest.raises(HistoryError, match=r"chat\.db: Permission denied$"):
            SqliteHistory(path).open()
        assert found(path) == IDS
    assert path.read_bytes() == before


def test_a_damaged_file_is_put_aside_unmigrated(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its bytes are kept as they were."""
    data = path.read_bytes()
    assert data.count(b"DEPLOYED again") == 1
    root = data.index(b"DEPLOYED again") // 4096 * 4096  # the page of the messages
    damaged = data[:root] + b"\xff" * 4096 + data[root + 4096 :]
    path.write_bytes(damaged)
    with closing(opened(path)) as history:
        assert (history.newest_id, history.epoch != EPOCH) == (0, True)
    (aside,) = path.parent.glob("chat.db.damaged-*")
    assert aside.read_bytes() == damaged
    assert "is damaged" in caplog.text


def test_a_backup_of_version_1_put_back_while_a_server_runs(path: Path, tmp_path: Path) -> None:
    """It is migrated, and the running epoch and its ids go on in it."""
    with closing(opened(tmp_path / "live.db")) as history:
        history.append([Message("ada", "before", 20, TIME)])
        path.rename(tmp_path / "live.db")
        history.append([Message("ada", "after", 21, TIME)])
        assert [message.id for message in history.read(0, ALL, ALL)] == [*IDS, 21]
        assert rows(tmp_path / "live.db", "SELECT epoch FROM state") == [(history.epoch,)]


def test_a_newer_version_in_the_log(path: Path) -> None:
    """A newer server that crashed may have left its version in the log alone: it is refused, and its messages stay."""
    live = path.rename(path.with_name("live.db"))
    with closing(sqlite3.connect(live, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {VERSION + 1}")
        for suffix in ("", "-wal"):
            shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
    assert path.read_bytes()[60:64] == (1).to_bytes(4, "big")
    for refused in (SqliteHistory(path).open, lambda: found(path)):
        with pytest.raises(HistoryError, match=rf"newer chatkit \(schema {VERSION + 1}, this one reads {VERSION}\)"):
            refused()
    assert rows(path, "SELECT count(*) FROM messages") == [(5,)]
    assert not os.path.exists(f"{path}-lock")
