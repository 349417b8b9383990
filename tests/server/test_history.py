"""A room with a history: messages are kept first, then delivered, also when the history is slow or fails."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

import pytest

from chatkit import Limits, Message, Server
from chatkit.history.base import HistoryError
from chatkit.history.sqlite.store import SqliteHistory
from chatkit.protocol.formats import TEXT
from chatkit.room import committer
from chatkit.room.pages import PageRequest
from tests.helpers.histories import Scripted
from tests.helpers.inside import (
    after_forgetting,
    before_waiting_for_publisher,
    break_committer,
    call_soon,
    committer_of,
    publisher_of,
    threads_of,
    waiting_bytes,
)
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.servers import Serve

SECONDS = 0.05


class Log(logging.Handler):
    """The operator's log, for tests that wait for a line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.lines.append(record.getMessage())
            self.changed.notify_all()

    def wait_for(self, words: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: any(words in line for line in self.lines), DEADLINE), self.lines


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    logging.getLogger("chatkit").addHandler(log)
    yield log
    logging.getLogger("chatkit").removeHandler(log)


def test_nobody_sees_a_message_before_it_is_kept(serve: Serve, store: Scripted) -> None:
    """While a commit is under way nothing of it is shown, nor anything later: not even the answer that says so."""
    started = serve(history=store)
    ann, bob = started.peers(2)
    ann.sync()
    bob.send(b"/json\n")
    bob.line()
    store.gate.clear()
    ann.send(b"Hi!\n/sync\n")
    assert store.waits.wait(DEADLINE)
    assert not store.read(0, 10, 10)
    delivered = threading.Event()
    call_soon(started.server, delivered.set)  # the worker has done all that was posted before
    assert delivered.wait(DEADLINE)
    for peer in (ann, bob):
        peer.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
        peer.sock.settimeout(DEADLINE)
    store.gate.set()
    assert ann.line() == b"*** synced, newest is 1"
    assert b'"text":"Hi!"' in bob.line()
    assert [message.text for message in store.read(0, 10, 1000)] == ["Hi!"]


def test_commits_group_themselves(serve: Serve, store: Scripted) -> None:
    """A lone message is committed at once; all messages that come during a commit are the next one."""
    started = serve(history=store)
    ann, bob = started.peers(2)
    ann.send(b"alone\n")
    assert bob.line().endswith(b": alone")
    store.gate.clear()
    ann.send(b"first\n")
    assert store.waits.wait(DEADLINE)
    for number in range(50):
        ann.send(b"%d\n" % number)
        started.events.wait_for("message")
    while started.events.wait_for("message") != f"{ann.name}: 49":
        pass
    store.gate.set()
    assert bob.lines(51)[-1].endswith(b": 49")
    assert store.groups[:2] == [1, 1]
    assert len(store.groups) <= 4


def test_a_history_that_fails(serve: Serve, store: Scripted, log: Log) -> None:
    """The chat goes on; the operator hears of it once, and once that it is over; lacking messages are counted."""
    started = serve(history=store)
    ann, bob = started.peers(2)
    store.failure = HistoryError("the disk is full")
    for number in range(5):
        ann.send(b"lost %d\n" % number)
        assert bob.line().endswith(b": lost %d" % number)
    assert started.server.stats.unstored == 5
    assert log.lines == ["cannot write to the history, the chat continues without it: the disk is full"]
    store.failure = None
    log.wait_for("writing to the history again; it lacks 5 messages")
    ann.send(b"kept\n")
    assert bob.line().endswith(b": kept")
    assert [(message.id, message.text) for message in store.read(0, 10, 1000)] == [(6, "kept")]
    store.failure = OSError("again")
    ann.send(b"lost\n")
    bob.line()
    store.failure = None
    log.wait_for("writing to the history again; it lacks 1 messages")
    assert (started.server.stats.unstored, started.server.stats.messages, len(log.lines)) == (6, 7, 4)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_history_that_raises_an_exit(serve: Serve, store: Scripted, log: Log, error: BaseException) -> None:
    """It has failed, as with any other exception; the chat goes on without it, and with it once it recovers."""
    started = serve(history=store)
    ann, bob = started.peers(2)
    store.failure = error
    ann.send(b"lost\n")
    assert bob.line().endswith(b": lost")
    store.failure = None
    log.wait_for("writing to the history again; it lacks 1 messages")
    ann.send(b"kept\n")
    assert bob.line().endswith(b": kept")


@pytest.mark.parametrize("verb", ["maintain", "close"])
def test_a_step_of_a_history_that_raises_an_exit(
    serve: Serve, store: Scripted, log: Log, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Maintenance and the end are logged as failed, and nothing else happens."""

    def leave(**_: bool) -> float:
        raise SystemExit(verb)

    monkeypatch.setattr(store, verb, leave)
    server = serve(history=store).server
    if verb == "close":
        server.shutdown()
    log.wait_for(f"failed: {verb}")
    server.shutdown()
    assert len(log.lines) == 1


def test_a_history_that_hangs(serve: Serve, store: Scripted, log: Log) -> None:
    """It holds the chat up once, for `history_seconds`; a late commit counts."""
    started = serve(history=store, limits=Limits(history_seconds=SECONDS))
    ann, bob = started.peers(2)
    store.gate.clear()
    for number in range(3):
        ann.send(b"%d\n" % number)
        assert bob.line().endswith(b": %d" % number)
    assert started.server.stats.unstored == 3
    assert log.lines == [
        "cannot write to the history, the chat continues without it: it takes longer than 0.05 seconds"
    ]
    store.gate.set()
    log.wait_for("writing to the history again; it lacks 2 messages")
    assert [message.text for message in store.read(0, 10, 1000)] == ["0"]
    assert started.server.stats.unstored == 2


def test_the_end_doesnt_wait_for_a_history_that_hangs(store: Scripted) -> None:
    """Everyone gets what was said, and the server ends in time."""
    with Server(port=0, history=store, limits=Limits(history_seconds=SECONDS)) as server:
        ann, bob = Peer(server.port), Peer(server.port)
        store.gate.clear()
        ann.send(b"last words\n")
        assert store.waits.wait(DEADLINE)
        server.shutdown(grace=1.0)
        assert bob.rest().endswith(b": last words\n")
        assert ann.rest() == b""
        store.gate.set()
        for peer in (ann, bob):
            peer.close()
        for thread in threads_of(committer_of(server)):
            thread.join(DEADLINE)


def test_required(serve: Serve, store: Scripted, log: Log) -> None:
    """A message that can't be kept isn't delivered. Its sender is told, in its format; no id is missing later."""
    started = serve(history=store, history_required=True)
    ann, bob, cid = started.peers(3)
    for peer in (ann, cid):
        peer.sync()
    bob.send(b"/json\n")
    bob.line()
    store.failure = HistoryError("the disk is full")
    ann.send(b"a\nb\n/who\n")
    refused = b"*** not sent: the room's history can't be kept now"
    assert ann.lines(2) == [refused] * 2
    assert ann.line().startswith(b"*** 3 here")
    bob.send(b"c\n")
    assert bob.line() == b'{"type":"error","text":"not sent: the room\'s history can\'t be kept now","code":"not_kept"}'
    assert log.lines == ["cannot write to the history, messages are refused: the disk is full"]
    store.failure = None
    log.wait_for("writing to the history again")
    ann.send(b"d\n")
    assert cid.line().endswith(b": d")
    assert b'"id":3' in bob.line()
    cid.send(b"/json 0\n")
    assert b'"newest":3' in cid.line()
    assert b'"id":3' in cid.line(), "no gap before it"
    assert started.server.stats.unstored == 2


def test_required_of_a_lone_message(serve: Serve, store: Scripted, log: Log) -> None:
    """Also the one whose commit fails first, and alone, is shown to nobody."""
    started = serve(history=store, history_required=True)
    ann, bob = started.peers(2)
    store.failure = HistoryError("the disk is full")
    ann.send(b"alone\n")
    assert ann.line() == b"*** not sent: the room's history can't be kept now"
    store.failure = None
    log.wait_for("writing to the history again")
    ann.send(b"next\n")
    assert bob.line().endswith(b": next")


def test_required_needs_a_history() -> None:
    """The memory can't fail."""
    with pytest.raises(ValueError, match="needs a history"):
        Server(history_required=True)


def test_a_member_that_says_much_waits(serve: Serve, store: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that wait for a commit have a bound. Beyond it the room stops reading; afterwards nothing is lost."""
    full = threading.Event()
    before_waiting_for_publisher(monkeypatch, full.set)
    started = serve(history=store, limits=Limits(history_seconds=60))
    ann, bob = started.peers(2)
    store.gate.clear()
    line = b"x" * 1000 + b"\n"
    thread = threading.Thread(target=ann.send, args=(line * 20_000,))
    thread.start()
    assert full.wait(DEADLINE)
    assert publisher_of(started.server).is_backlogged
    assert waiting_bytes(committer_of(started.server)) < 4 * committer.MAX_WAITING_BYTES
    store.gate.set()
    bob.lines(20_000)
    thread.join(DEADLINE)
    assert store.newest_id == 20_000


def test_a_committer_that_dies_ends_the_server(serve: Serve, store: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    """A server is never half alive."""
    server = Server(port=0, history=store)
    server.start()
    ann = Peer(server.port)
    break_committer(committer_of(server))
    ann.send(b"Hi!\n")
    ann.rest()
    ann.close()
    with pytest.raises(RuntimeError, match="a thread of the server died"):
        server.shutdown()
    assert "chatkit-committer died" in caplog.text


def test_a_newcomer_leaves_in_order(serve: Serve, store: Scripted) -> None:
    """At the end of the room also a member that wasn't told anything yet, because the history held it up."""
    started = serve(history=store, limits=Limits(history_seconds=60))
    ann = started.peer()
    started.events.wait_for("join")
    store.gate.clear()
    ann.send(b"Hi!\n")
    assert store.waits.wait(DEADLINE)
    bob = started.peer()
    started.events.wait_for("join")
    ending = threading.Thread(target=started.server.shutdown)
    ending.start()
    store.gate.set()
    assert [started.events.wait_for("leave") for _ in range(2)] == ["shutdown"] * 2
    ending.join(DEADLINE)
    assert bob.rest() == b""


def test_a_history_that_is_slower_than_the_end(store: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    """Its late batches go nowhere; nothing dies of it."""
    server = Server(port=0, history=store, limits=Limits(history_seconds=60))
    server.start()
    ann = Peer(server.port)
    store.gate.clear()
    ann.send(b"Hi!\n")
    assert store.waits.wait(DEADLINE)
    server.shutdown(grace=0.2)
    ann.close()
    store.gate.set()
    for thread in threads_of(committer_of(server)):
        thread.join(DEADLINE)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    server.shutdown()


def test_trouble_is_not_tried_with_every_message(
    serve: Serve, store: Scripted, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is asked again only when it is time, however much is said; also an error without words is one."""
    monkeypatch.setattr(committer, "RETRY_SECONDS", 60.0)
    attempts, append = list[int](), store.append

    def counted(messages: Sequence[Message]) -> None:
        attempts.append(len(messages))
        append(messages)

    monkeypatch.setattr(store, "append", counted)
    started = serve(history=store)
    ann, bob = started.peers(2)
    store.failure = MemoryError()
    for number in range(50):
        ann.send(b"%d\n" % number)
        bob.line()
    assert attempts == [1]
    assert log.lines == ["cannot write to the history, the chat continues without it: MemoryError()"]


def test_pruned_messages_are_forgotten(serve: Serve, tmp_path: Path) -> None:
    """By the memory too: a replay tells no more than the history keeps."""
    started = serve(history=SqliteHistory(tmp_path / "chat.db", keep=5), replay=100)
    ann = started.peer()
    ann.send(b"".join(b"%d\n" % number for number in range(300)) + b"/sync\n")
    ann.line()
    publisher, pruned = publisher_of(started.server), threading.Event()
    pages = SimpleQueue[bytes]()

    def page() -> bytes:
        publisher.pages.read(PageRequest(0, 300, 1 << 20, TEXT), lambda lines, upto: pages.put(lines))
        return pages.get(timeout=DEADLINE)

    assert page().startswith(b"%s: 0\n" % ann.name.encode())

    def forgotten(upto: int) -> None:
        if upto == 295:
            pruned.set()

    after_forgetting(publisher, forgotten)
    ann.send(b"/sync\n")
    assert pruned.wait(DEADLINE)
    bob = started.peer()
    assert [line.rpartition(b" ")[2] for line in bob.lines(7)[1:6]] == [b"295", b"296", b"297", b"298", b"299"]
    assert b"295" in page().partition(b"\n")[0], "pages that were shared are forgotten, too"


def test_messages_older_than_lacking_ones(serve: Serve, store: Scripted) -> None:
    """They are told from the history, however many of the newest it lacks."""
    store.append([Message("ada", "old", 1, 0.0)])
    store.newest_id = 2000
    started = serve(history=store, limits=Limits(history_size=10))
    ann = started.peer()
    ann.send(b"/json 0\n")
    assert [b'"type":"%s"' % kind in ann.line() for kind in (b"welcome", b"message", b"gap")] == [True] * 3
