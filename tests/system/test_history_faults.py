"""A locked, slow or failing history: the chat goes on, the operator is told twice, lacking messages are counted."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chatkit import Limits, Message
from chatkit.history.base import HistoryError
from chatkit.history.sqlite.store import SqliteHistory
from tests.helpers.inside import path_of
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve
from tests.helpers.witness import BACK, LOST, REFUSING, Log, Talk, Witness, rows

pytestmark = pytest.mark.once

NOT_SENT = "not sent: the room's history can't be kept now"


class Troubled(SqliteHistory):
    """Fails while `fails`, waits while not `goes_on`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fails = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.begun = threading.Event()

    def append(self, messages: Sequence[Message]) -> None:
        self.begun.set()
        if self.fails:
            raise HistoryError("the disk is full")
        assert self.goes_on.wait(DEADLINE)
        super().append(messages)


@contextmanager
def failing(history: Troubled) -> Iterator[None]:
    history.fails = True
    yield
    history.fails = False


@contextmanager
def locked(history: Troubled) -> Iterator[None]:
    with closing(sqlite3.connect(path_of(history), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def hanging(history: Troubled) -> Iterator[None]:
    history.goes_on.clear()
    try:
        yield
    finally:
        history.goes_on.set()


@pytest.fixture
def history(tmp_path: Path) -> Troubled:
    return Troubled(tmp_path / "chat.db")


patient, hasty = Limits(history_seconds=DEADLINE), Limits(history_seconds=0.2)


@pytest.mark.parametrize(
    ("trouble", "limits", "late", "reason"),
    [
        (failing, patient, 0, "the disk is full"),
        (locked, patient, 0, "another program has locked the file"),
        (hanging, hasty, 1, "it takes longer than 0.2 seconds"),
    ],
)
def test_the_chat_goes_on_without(
    serve: Serve,
    talk: Talk,
    history: Troubled,
    log: Log,
    trouble: Callable[..., object],
    limits: Limits,
    late: int,
    reason: str,
) -> None:
    """The log has one line when it begins and one, with the number lacking, when it ends.

    Late messages aren't lost, ids go on, and members get each line at once.
    """
    started = serve(history=history, limits=limits)
    talker = talk(started.port)
    talker.say("before")
    with trouble(history):  # type: ignore[attr-defined]
        talker.say("first")
        talker.say("second", "third")
        assert log.line().startswith(LOST + reason)
        assert started.server.stats.unstored == 3
    assert log.line() == BACK.format(3 - late)
    assert talker.say("after") == [5]
    assert (started.server.stats.unstored, started.server.stats.messages) == (3 - late, 5)
    talker.close()
    started.server.shutdown()
    assert log.rest() == []
    assert rows(path_of(history)) == [(1, "before"), (2, "first"), (5, "after")][:: 1 if late else 2]


@pytest.mark.parametrize(("trouble", "limits"), [(failing, patient), (locked, patient), (hanging, hasty)])
def test_messages_are_refused(
    serve: Serve, talk: Talk, history: Troubled, log: Log, trouble: Callable[..., object], limits: Limits
) -> None:
    """With a required history nobody ever sees them. Each sender is told, for each line; nothing counts as missing."""
    started = serve(history=history, limits=limits, history_required=True)
    talker = talk(started.port)
    (before,) = talker.say("before")
    with trouble(history):  # type: ignore[attr-defined]
        talker.peer.send(b"lost\nlost\n")
        assert [talker.peer.line() for _ in range(2)] == [f"*** {NOT_SENT}".encode()] * 2
        talker.witness.peer.send(b"lost, too\n")
        refused = talker.witness.wait_for("error")
        assert (refused["code"], refused["text"]) == ("not_kept", NOT_SENT)
        assert log.line().startswith(REFUSING)
    assert log.line().startswith("writing to the history again")
    assert rows(path_of(history)) == [(before, "before")]  # not even what the disk took late
    (after,) = talker.say("after")
    with Witness(started.port, 0) as newcomer:
        newcomer.wait_for("message", "after")
    talker.close()
    started.server.shutdown()
    assert before < after
    assert newcomer.seen == talker.witness.seen == rows(path_of(history)) == [(before, "before"), (after, "after")]
    assert not [event for event in newcomer.events if event["type"] == "gap"]
    assert log.rest() == []


def test_refused_ids_are_no_gap_after_a_restart(serve: Serve, talk: Talk, history: Troubled, log: Log) -> None:
    """The file knows that nobody was ever told these; they aren't given again."""
    started = serve(history=history, history_required=True)
    talker = talk(started.port)
    with failing(history):
        talker.peer.send(b"lost\n" * 3)
        talker.peer.line()
    assert [log.line().partition(",")[0], log.line().partition(";")[0]] == [
        "cannot write to the history",
        "writing to the history again",
    ]
    (after,) = talker.say("after")
    talker.close()
    started.server.shutdown()
    with Witness(serve(history=history).port, 0) as newcomer:
        newcomer.wait_for("message", "after")
    assert newcomer.seen == [(after, "after")]
    assert not [event for event in newcomer.events if event["type"] == "gap"]


def test_shutdown_waits_for_no_disk(serve: Serve, talk: Talk, history: Troubled) -> None:
    """While a history hangs a server ends in time, and the last line is delivered first."""
    started = serve(history=history, limits=Limits(history_seconds=0.2, drain_seconds=0.2))
    talker = talk(started.port)
    with hanging(history):
        talker.peer.send(b"the last words\n")
        assert history.begun.wait(DEADLINE)
        begun = time.monotonic()
        started.server.shutdown(1.0)
        assert time.monotonic() - begun < DEADLINE / 2
        talker.witness.wait_for("message", "the last words")
    for thread in threading.enumerate():
        if thread.name.startswith("chatkit-"):
            thread.join(DEADLINE)


def test_messages_that_cannot_be_read_are_a_gap(
    serve: Serve, talk: Talk, history: Troubled, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that asks for old messages is told how many there were; the operator is told once; the chat goes on."""
    started = serve(history=history, limits=Limits(history_size=1))
    talker = talk(started.port)
    talker.say("one", "two", "three")
    with monkeypatch.context() as patched:
        patched.setattr(history, "read", lambda *_: json.loads("["))
        for _ in range(2):
            with Witness(started.port, 0) as newcomer:
                assert newcomer.wait_for("gap")["missing"] == 2
                newcomer.wait_for("message", "three")
    assert len(log.rest()) == 1
    talker.say("four")
    with Witness(started.port, 0) as newcomer:
        newcomer.wait_for("message", "four")
    assert [text for _, text in newcomer.seen] == ["one", "two", "three", "four"]
