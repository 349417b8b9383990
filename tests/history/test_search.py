"""Finding messages in a history's file: equal results with and without the index, with and without a running server."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from chatkit import Action, Message
from chatkit.history import search
from chatkit.history.base import HistoryError
from chatkit.history.search import fold
from chatkit.history.sqlite.files import FOREIGN
from chatkit.history.sqlite.queries import APPLICATION_ID, VERSION
from chatkit.history.sqlite.store import SqliteHistory
from tests.helpers.history_files import START, connect, has_trigrams, indexing, insert, protected, write
from tests.helpers.inside import after_each_query

SAID = [
    "Hi!",
    "the quick brown fox",
    "THE END",
    "say \"quoted\" 'words'",
    "100% of a_b*",
    "ЧТО это?",
    "a👋🏽b",
    "straße",
    "x" * 300,
]


def some_messages(number: int = 40) -> list[Message]:
    """Ids have holes, now and then the clock is put back, one name is written in two ways."""
    kinds, names = (Message, Message, Action), ("ada", "Ada", "51044", "Zoë")
    return [
        kinds[place % 3](names[place % 4], SAID[place % len(SAID)], 3 * place + 1, START + place - 5 * (place % 7 == 0))
        for place in range(number)
    ]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture(params=[1000, 3])
def chunk_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatkit.history.search.CHUNK_ROWS", request.param)


PATTERNS = [
    "the",
    "THE",
    "e q",
    "x",
    "xxxx",
    "x" * 300,
    "x" * 301,
    '"quoted"',
    '"',
    "'words'",
    "100%",
    "%",
    "a_b",
    "_",
    "a_b*",
]
PATTERNS += [
    "что",
    "Это?",
    "👋🏽",
    "a👋🏽b",
    "STRAßE",
    "strasse",
    "hi!",
    "",
    " ",
    "AND",
    "the AND end",
    "nothing",
    "a\0b",
    "the\0",
]
WANTED: list[dict[str, Any]] = [{"text": pattern} for pattern in PATTERNS]
WANTED += [{}, {"sender": "ADA"}, {"sender": "nobody"}, {"sender": "ZOË", "text": "the"}, {"since": START + 20}]
WANTED += [{"since": START + 30, "sender": "51044"}, {"since": START + 1000}]
WANTED += [{"until": START + 20}, {"since": START + 9, "until": START + 20, "text": "the"}, {"until": START}]


@pytest.mark.parametrize(
    "indexed", [None, 0, pytest.param(60, marks=indexing), pytest.param(1000, marks=indexing)], ids=str
)
@pytest.mark.usefixtures("chunk_rows")
def test_finds_the_same_as_reading_everything(path: Path, indexed: int | None) -> None:
    """Every search finds the same with no index, half of one or a whole one, in chunks of any size."""
    messages = some_messages()
    if indexed == 0 and not has_trigrams():
        indexed = None
    write(path, messages, indexed=indexed).close()
    for wanted in WANTED:
        matching = [
            message
            for message in messages
            if wanted.get("text", "").lower() in message.text.lower()
            and wanted.get("sender", message.sender).lower() == message.sender.lower()
            and wanted.get("since", 0) <= (message.time or 0) < wanted.get("until", 2 * START)
        ]
        for last in (None, 4):
            found = list(search.browse(path, last=last, **wanted))
            assert found == (matching[-last:] if last else matching), (wanted, last)


@indexing
def test_the_index_is_asked(path: Path) -> None:
    """Where it lacks messages that it claims to have, three letters find only newer ones, two find all by reading."""
    hello = [Message("ada", "hello", number, START) for number in (1, 2)]
    with closing(write(path, hello, indexed=0)) as connection:
        connection.execute("UPDATE state SET indexed = 1")
    for last in (None, 2):
        assert list(search.browse(path, text="hel", last=last)) == hello[1:]
        assert list(search.browse(path, text="he", last=last)) == hello


@indexing
def test_indexed_messages_are_not_read(path: Path) -> None:
    """A damaged message there hinders no search for another one, neither forwards nor backwards."""
    with closing(write(path, [Message("ada", "hello", number, START) for number in (2, 3)], indexed=2)) as connection:
        connection.execute("INSERT INTO messages VALUES (1, 1.0, 'ada', 'nonsense', 'bye')")
    assert [message.id for message in search.browse(path, text="hello", last=5)] == [2, 3]
    with pytest.raises(HistoryError):
        list(search.browse(path, text="he"))


@indexing
def test_an_index_that_this_python_cannot_use_is_not_asked(path: Path) -> None:
    """As where its SQLite has no such tokenizer: reading finds the same."""
    with closing(write(path, some_messages(), indexed=1000)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'trigram', 'unheard_of') WHERE name = 'search'")
    assert {message.text for message in search.browse(path, text="quick")} == {"the quick brown fox"}


@indexing
def test_the_index_folds_as_the_search_does() -> None:
    """Letters that `fold` makes equal are equal to FTS5 and str.casefold, too, so nothing is missed; all of Unicode."""
    folding = {letter: fold(letter) for letter in map(chr, range(0xD800)) if fold(letter) != letter}
    folding |= {letter: fold(letter) for letter in map(chr, range(0xE000, sys.maxunicode)) if fold(letter) != letter}
    assert {"Ä": "ä", "Ж": "ж", "\u03c2": "\u03c3", "\u212a": "k"}.items() <= folding.items()
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE search USING fts5(text, tokenize = 'trigram', detail = none)")
        connection.executemany("INSERT INTO search VALUES (?)", [(letter * 3,) for letter in folding])
        for row, (letter, folded) in enumerate(folding.items(), 1):
            query = "SELECT 1 FROM search WHERE search MATCH ? AND rowid = ?"
            assert connection.execute(query, (f'"{folded * 3}"', row)).fetchone(), ascii(letter)
            assert letter.casefold() == folded.casefold(), ascii(letter)


def test_a_history_that_a_server_is_writing(path: Path) -> None:
    """Committed messages are found, in its log too, and nothing beside the file comes or goes."""
    first, second = some_messages(40)[:20], some_messages(40)[20:]
    with closing(write(path, first)) as server:
        insert(server, second)
        server.execute("BEGIN")
        server.execute("INSERT INTO messages VALUES (1000, 1.0, 'ada', 'message', 'not yet')")
        before = set(files(path.parent))
        assert list(search.browse(path)) == first + second
        assert set(files(path.parent)) == before
        server.execute("ROLLBACK")
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_later_messages_are_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast a server writes, reading ends with the newest message of its beginning."""
    monkeypatch.setattr(search, "CHUNK_ROWS", 1)
    with closing(write(path, [Message("ada", "0", 1, START)])) as server:
        for number, _ in enumerate(islice(search.browse(path), 9), 2):
            insert(server, [Message("ada", "more", number, START)])
        assert number == 2


def test_nothing_is_open_between_two_chunks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a pager waits, the server can empty its log, end and remove it, start again; nothing is missed then."""
    monkeypatch.setattr(search, "CHUNK_ROWS", 2)
    messages = some_messages()
    with closing(write(path, messages)) as server:
        found = search.browse(path)
        begun = [next(found) for _ in range(2)]
        assert server.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    begun += [next(found) for _ in range(2)]
    with closing(connect(path)) as server:
        insert(server, [Message("ada", "later", 1000, START)])
        assert begun + list(found) == messages


def test_an_unserved_history_stays_as_it_is(path: Path) -> None:
    """No byte changes, and no file comes, not even for a moment that a server could mistake for its own."""
    write(path, some_messages()).close()
    before = files(path.parent)
    found = search.browse(path)
    next(found)
    assert files(path.parent) == before
    list(found)
    assert files(path.parent) == before


def test_a_server_that_came_and_went_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read while another process wrote the file itself doesn't count: the file is read once more."""
    write(path, some_messages(2)).close()
    later = [Message("ada", "later", 100, START)]
    asked = list[bool]()

    def write_after_the_first(immutable: bool) -> None:
        asked.append(immutable)
        if len(asked) == 1:
            with closing(connect(path)) as server:
                insert(server, later)

    after_each_query(monkeypatch, write_after_the_first)
    assert list(search.browse(path)) == some_messages(2) + later
    assert asked == [True, True, True]


def crashed(path: Path, messages: Sequence[Message]) -> Path:
    """A history whose server didn't end in order: its log is all there is of the messages."""
    with closing(write(path.with_name("live"), messages)):
        for suffix in ("", "-wal"):
            shutil.copy(path.with_name(f"live{suffix}"), f"{path}{suffix}")
    return path


def test_a_history_whose_server_crashed(path: Path) -> None:
    """Messages in its log are found."""
    assert list(search.browse(crashed(path, some_messages()))) == some_messages()


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that others than root reach too."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_write_protected_folder(shelf: Path) -> None:
    """A history that nobody serves is read there, and so is one that is served by somebody who may write."""
    write(shelf / "ended", some_messages()).close()
    with closing(write(shelf / "served", some_messages())), protected(shelf):
        assert list(search.browse(shelf / "ended")) == some_messages()
        assert list(search.browse(shelf / "served")) == some_messages()


def test_a_crashed_history_in_a_write_protected_folder(shelf: Path) -> None:
    """SQLite can't read its log there: one line says what to do."""
    path = crashed(shelf / "chat.db", some_messages())
    told = r"chat\.db can't be read: .* folder must be writable; copy"
    with protected(shelf), pytest.raises(HistoryError, match=told):
        list(search.browse(path))


def test_a_file_that_may_not_be_read(shelf: Path) -> None:
    """The system's word for it."""
    write(shelf / "chat.db", []).close()
    (shelf / "chat.db").chmod(0)
    with protected(shelf), pytest.raises(HistoryError, match=r"chat\.db can't be read: Permission denied$"):
        list(search.browse(shelf / "chat.db"))


def test_a_symbolic_link(path: Path) -> None:
    """The log is beside the file, not beside the link."""
    link = path.parent / "links" / "link"
    link.parent.mkdir()
    link.symlink_to(path)
    with closing(write(path, some_messages())):
        assert list(search.browse(link)) == some_messages()


@pytest.mark.parametrize("name", ["a b?mode=rwc&x=#%41.db", "chät.db", os.fsdecode(b"\xff.db")], ids=ascii)
def test_any_file_name(path: Path, name: str) -> None:
    """Also one with characters of a URI, or one that isn't UTF-8."""
    write(path, some_messages()).close()
    assert list(search.browse(path.rename(path.with_name(name)))) == some_messages()


def alter(*statements: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with closing(write(path, some_messages(3))) as connection:
            for statement in statements:
                connection.execute(statement)

    return spoil


def overwrite(path: Path) -> None:
    write(path, some_messages(1000)).close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 100_000)


ROW = "INSERT INTO messages VALUES (1000, {}, {}, {}, {})"
UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "can't be read: No such file or directory"),
    "folder": (Path.mkdir, "isn't an ordinary file; choose another file"),
    "fifo": (os.mkfifo, "isn't an ordinary file; choose another file"),
    "empty": (Path.touch, FOREIGN),
    "text": (lambda path: path.write_text("Hi!\n" * 1000), FOREIGN),
    "foreign": (alter("PRAGMA application_id = 1"), FOREIGN),
    "no version": (alter("PRAGMA user_version = 0"), FOREIGN),
    "newer": (
        alter(f"PRAGMA user_version = {VERSION + 1}"),
        f"was written by a newer chatkit (schema {VERSION + 1}, this one reads {VERSION}); upgrade chatkit",
    ),
    "no table": (alter("DROP TABLE messages"), "is damaged; restore a backup"),
    "overwritten": (overwrite, "is damaged; restore a backup"),
    "kind": (alter(ROW.format(1.0, "'ada'", "'shout'", "'Hi!'")), "is damaged (message 1000); restore a backup"),
    "time": (alter(ROW.format("9e99", "'ada'", "'message'", "'Hi!'")), "is damaged (message 1000); restore a backup"),
    "no time": (
        alter(ROW.format("'now'", "'ada'", "'message'", "'Hi!'")),
        "is damaged (message 1000); restore a backup",
    ),
    "bytes": (alter(ROW.format(1.0, "'ada'", "'message'", "x'ff'")), "is damaged (message 1000); restore a backup"),
    "not UTF-8": (
        alter(ROW.format(1.0, "'ada'", "'message'", "CAST(x'1b5b324aff0a' AS TEXT)")),
        "is damaged; restore a backup",
    ),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_file_that_is_no_history_is_told_in_one_line(path: Path, fault: str) -> None:
    """Missing, foreign, newer or damaged: one kind of error, which names the file and the reason."""
    spoil, told = UNREADABLE[fault]
    spoil(path)
    with pytest.raises(HistoryError) as raised:
        list(search.browse(path, text="", sender="ada"))
    assert str(raised.value) == f"{path} {told}"


def test_reads_the_files_of_a_server(path: Path) -> None:
    """The server's own code and this one agree, in the middle of its work and after its end."""
    history = SqliteHistory(path)
    history.open()
    history.append(some_messages())
    assert list(search.browse(path, text="QUICK")) == [each for each in some_messages() if "quick" in each.text]
    history.maintain(idle=True)
    assert list(search.browse(path, text="QUICK")) == [each for each in some_messages() if "quick" in each.text]
    history.close()
    assert list(search.browse(path)) == some_messages()
    assert APPLICATION_ID.to_bytes(4, "big") == b"chat"


@pytest.mark.parametrize(
    "wanted", [{}, {"last": 1}, {"sender": "ada"}, {"text": "the"}, {"last": 1, "text": "the"}], ids=str
)
@pytest.mark.usefixtures("chunk_rows")
def test_later_messages(path: Path, wanted: dict[str, Any]) -> None:
    """After each wait come the messages that are new, each once, and those alone that match; none may be new."""
    messages = some_messages()
    with closing(write(path, messages[:10])) as connection:
        earlier = list(search.browse(path, **wanted))
        coming = [messages[10:11], [], messages[11:30], messages[30:]]

        def wait() -> bool:
            if coming:
                insert(connection, coming.pop(0))
                return True
            return False

        found = list(search.browse(path, **wanted, wait=wait))
        criteria = {name: value for name, value in wanted.items() if name != "last"}
        assert found == earlier + [message for message in search.browse(path, **criteria) if message in messages[10:]]
        assert len(found) > len(earlier)


def test_later_messages_of_a_file_in_its_place(path: Path, tmp_path: Path) -> None:
    """A backup that was put in place goes on below the last id that was read: what is said then is found."""
    messages = [Message("ada", str(number), number, START) for number in range(1, 6)]
    anew = [Message("bob", str(number), number, START) for number in (3, 4)]
    write(path, messages).close()
    write(tmp_path / "backup.db", messages[:2]).close()

    def say_anew() -> None:
        with closing(connect(path)) as connection:
            insert(connection, anew)

    steps: list[Callable[[], None]] = [say_anew, lambda: os.replace(tmp_path / "backup.db", path)]

    def wait() -> bool:
        if steps:
            steps.pop()()
            return True
        return False

    assert list(search.browse(path, wait=wait)) == messages + anew
