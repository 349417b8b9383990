"""Replays for newcomers and for programs that come back: whole, in order, before live messages."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from chatkit import Event, Gap, Limits, Member, Message, Welcome
from chatkit.history.base import HistoryError
from chatkit.history.memory import MemoryHistory
from chatkit.protocol.formats import JSON, TEXT, parse_json
from chatkit.room.batch import Batch, BatchBuilder, Subscribe
from chatkit.room.pages import Deliver, PageRequest
from chatkit.server import replays
from chatkit.server.replays import RANGE_BYTES, Replay
from tests.helpers.inside import before_release, call_soon, committer_of, connections_of, publisher_of, workers_of
from tests.helpers.marks import over_tls
from tests.helpers.peers import Peer
from tests.helpers.servers import Serve, Started, a_share

kept_in = pytest.mark.parametrize("kept", ["memory", "file"])


@pytest.fixture
def where(kept: str, tmp_path: Path) -> dict[str, Any]:
    """Where the room keeps what is said: in memory, or in a file with hardly anything in memory."""
    if kept == "memory":
        return {"limits": Limits(history_size=100_000)}
    return {"history": tmp_path / "chat.db", "limits": Limits(history_size=3)}


def event(line: bytes) -> Event:
    found = parse_json(line.decode())
    assert found
    return found


def messages_upto(peer: Peer, newest: int) -> list[Message]:
    """The messages that a program gets, to the one with this id."""
    found = list[Message]()
    while not found or found[-1].id != newest:
        told = event(peer.line())
        assert not isinstance(told, Gap)
        if isinstance(told, Message):
            found.append(told)
    return found


def sync(peer: Peer) -> bytes:
    """Ask, and return the peer's lines before the answer."""
    peer.send(b"/sync\n")
    lines = list[bytes]()
    while b"synced" not in (line := peer.line()):
        lines.append(line)
    return b"\n".join(lines)


@kept_in
@pytest.mark.parametrize(("wanted", "first"), [(1, 5), (3, 3), (5, 1), (1000, 1)])
def test_newcomers(serve: Serve, where: dict[str, Any], wanted: int, first: int) -> None:
    """The last so many messages between two notices, then what is live; in JSON the same as objects."""
    started = serve(replay=wanted, **where)
    ann = started.peer()
    ann.send(b"1\n2\n3\n/me 4\n5\n")
    assert not sync(ann)
    bob, cid = started.peers(2)
    cid.send(b"/json\n")
    while not (line := cid.line()).startswith(b"{"):
        pass
    ann.send(b"live\n")
    name = ann.name.encode()
    told = [b"* %s 4" % name if n == 4 else b"%s: %d" % (name, n) for n in range(first, 6)]
    assert bob.lines(len(told) + 3) == [
        b"*** before you came:",
        *told,
        b"*** from here on it is live",
        name + b": live",
    ]
    assert isinstance(event(line), Welcome)
    assert [message.id for message in messages_upto(cid, 6)] == list(range(first, 7))


def test_nothing_is_told_by_default(serve: Serve) -> None:
    """The contract: no greeting, no replay; and in an empty room none with a replay either."""
    for started in (serve(), serve(replay=5)):
        ann, bob = started.peers(2)
        assert not sync(bob)
        ann.send(b"before\n")
        bob.line()
    cid = serve().peer()
    assert not sync(cid)


def test_after_the_password(serve: Serve, tmp_path: Path) -> None:
    """A peer receives no message before its login; then the replay comes first."""
    started = serve(password="sesame", replay=5, history=tmp_path / "chat.db")
    ann, bob = started.peers(2)
    for peer in (ann, bob):
        assert peer.line().startswith(b"*** this room asks for its password")
    ann.send(b"/password sesame\nhello\n/sync\n")
    assert ann.lines(2) == [b"*** you are in", b"*** synced, newest is 1"]
    bob.send(b"/password sesame\n")
    said = ann.name.encode() + b": hello"
    assert bob.lines(4) == [b"*** you are in", b"*** before you came:", said, b"*** from here on it is live"]


@over_tls
@kept_in
def test_in_pages(serve: Serve, where: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the gap, and however small the pieces: every message once, in order, the own ones too."""
    monkeypatch.setattr(replays, "MAX_PAGE_BYTES", 2000)
    started = serve(**where)
    ann, bob = started.peers(2)
    ann.send(b"".join(b"%d\n" % number for number in range(1, 2001)))
    bob.lines(2000)
    bob.send(b"/json 7\n")
    assert event(bob.line()) == Welcome(bob.name, 2000, publisher_of(started.server).epoch)
    assert [message.text for message in messages_upto(bob, 2000)] == [str(number) for number in range(8, 2001)]


@kept_in
def test_a_replay_never_makes_a_slow_consumer(serve: Serve, where: dict[str, Any]) -> None:
    """A reader gets far more than may be pending, even late: messages wait in the history, not in memory."""
    limits = Limits(history_size=where["limits"].history_size, max_pending_bytes=100_000)
    started = serve(replay=50_000, **{**where, "limits": limits})
    ann = started.peer()
    for _ in range(10):
        ann.send((b"x" * 1000 + b"\n") * 1000)
        sync(ann)
    bob = started.peer(receive_buffer=4096)
    sync(ann)
    ann.send(b"live\n")
    sync(ann)
    assert bob.line() == b"*** before you came:"
    assert {len(line) for line in bob.lines(10_000)} == {len(ann.name) + 1002}
    assert bob.lines(2) == [b"*** from here on it is live", ann.name.encode() + b": live"]
    assert started.server.stats.slow_consumers == 0


@pytest.mark.parametrize("opening", [b"", b"/json 0\n", b"/json 0 echo\n"])
def test_more_is_said_than_may_wait_behind_a_replay(serve: Serve, tmp_path: Path, opening: bytes) -> None:
    """Messages come from the history then, all and in order, its own only with echo; other events come later."""
    limits = Limits(history_size=3, max_pending_bytes=100_000)
    started = serve(replay=0 if opening else 50_000, history=tmp_path / "chat.db", limits=limits)
    ann = started.peer()
    for _ in range(5):
        ann.send((b"x" * 1000 + b"\n") * 1000)
        sync(ann)
    cid = started.peer()
    cid.sync()
    bob = started.peer(receive_buffer=4096)
    bob.send(opening)
    assert bob.line().startswith(b"{" if opening else b"*** before you came:")
    bob.send(b"mine\n/nick bob\nmine, too\n/sync\n")
    while b"mine, too" not in ann.line():
        pass
    ann.send(b"/msg bob psst\n")
    cid.close()
    for _ in range(5):
        ann.send((b"y" * 1000 + b"\n") * 1000)
        sync(ann)
    assert started.server.stats.slow_consumers == 0
    ann.send(b"the last\n")
    told = [bob.line()]
    while not told[-1].endswith((b"the last", b'"the last"}')):
        told.append(bob.line())
    long = [line for line in told if len(line) > 1000]
    assert [b"y" * 1000 in line for line in long] == [False] * 5000 + [True] * 5000
    own = told[5000:5002] if b"echo" in opening else []
    assert [line.endswith((b'mine","own":true}', b'mine, too","own":true}')) for line in own] == [True] * len(own)
    *after, _ = [line for line in told if len(line) < 1000 and line not in own]
    ends = [b"renamed", b"synced", b"psst", b"left"] if opening else [b"live on", b"you are now", b"synced", b"psst"]
    assert [end in line for end, line in zip(ends, after, strict=True)], after


@pytest.mark.parametrize("what", ["private", "unkept", "in memory"])
def test_lines_outside_the_history_count_while_a_replay_waits(
    serve: Serve, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that doesn't read is disconnected when too many of them are pending: a prefix, then the reason."""
    store = None if what == "in memory" else MemoryHistory(10_000)
    limits = Limits(max_pending_bytes=200_000, history_size=3 if store else 10_000)
    started = serve(replay=50_000, history=store, limits=limits)
    ann = started.peer()
    ann.send((b"x" * 1000 + b"\n") * 8000)
    sync(ann)
    bob = started.peer(receive_buffer=4096)
    assert bob.line() == b"*** before you came:"
    lines = [bob.line()]
    if what == "unkept":
        monkeypatch.setattr(store, "append", lambda messages: 1 / 0)
    said = b"y" * 1000 + b"\n"
    for _ in range(4):
        ann.send((b"/msg %s %s" % (bob.name.encode(), said) if what == "private" else said) * 100)
        sync(ann)
    *more, last = bob.rest().splitlines()
    assert last == b"*** you were cut off: more than 200000 bytes were waiting behind the replay"
    assert set(lines + more) == {ann.name.encode() + b": " + b"x" * 1000}
    assert started.server.stats.slow_consumers == 1


@over_tls
@kept_in
@pytest.mark.parametrize("end", ["exit", "end of stream"])
def test_a_leaver_is_told_the_rest(serve: Serve, where: dict[str, Any], end: str, tls: bool) -> None:
    """`printf '/json 0\\n' | nc -N` gets all of it, then the end; its place is free at once."""
    started = serve(**where)
    ann, bob = started.peers(2)
    ann.send((b"x" * 1000 + b"\n") * 5000)
    sync(ann)
    sync(bob)
    bob.send(b"/json 0\n" + (b"exit\n" if end == "exit" or tls else b""))
    if not tls:
        bob.send_eof()
    started.events.wait_for("leave")
    assert len(started.server.members) == 1
    assert [event(line) for line in bob.rest().splitlines()][-1].id == 5000  # type: ignore[union-attr]


def test_a_leaver_that_stops_reading_gets_no_whole_end(serve: Serve, tmp_path: Path) -> None:
    """After `stall_seconds` it is closed, by a reset: half a replay must not look like a whole one."""
    started = serve(history=tmp_path / "chat.db", limits=Limits(stall_seconds=0.2, drain_seconds=0.1))
    ann = started.peer()
    ann.send((b"x" * 1000 + b"\n") * 10_000)
    sync(ann)
    bob = started.peer(receive_buffer=4096)
    bob.send(b"/json 0\nexit\n")
    started.events.wait_for("leave")
    (worker,) = workers_of(started.server)
    done = threading.Event()

    def look() -> None:
        done.set() if worker.load == 1 else worker.post(look)

    worker.post(look)
    assert done.wait(10)
    with pytest.raises(ConnectionResetError):
        bob.rest()


def test_nobody_is_told_anything_after_a_reset(serve: Serve, tmp_path: Path) -> None:
    """A replay ends with its connection: its place, its descriptor and the disk are free for others."""
    started = serve(history=tmp_path / "chat.db")
    ann = started.peer()
    ann.send((b"x" * 1000 + b"\n") * 20_000)
    sync(ann)
    for _ in range(20):
        peer = started.peer(receive_buffer=4096)
        peer.send(b"/json 0\n")
        peer.line()
        peer.reset()
    connections, done = connections_of(started.server), threading.Event()

    def look() -> None:
        done.set() if len(connections) == 1 and not connections.subscribers.replaying else call_soon(
            started.server, look
        )

    call_soon(started.server, look)
    assert done.wait(5)


def test_pages_of_all_idle_readers_have_a_bound(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask and never read: their pages together have one bound."""
    monkeypatch.setattr(replays, "ALL_PAGES_BYTES", 200_000)
    started = serve(history=tmp_path / "chat.db", limits=Limits(stall_seconds=60))
    ann = started.peer()
    connections = connections_of(started.server)
    pages, requests = publisher_of(started.server).pages, list[tuple[int, int]]()
    read = pages.read

    def read_and_note(request: PageRequest, deliver: Deliver) -> None:
        requests.append((len(connections.subscribers.replaying), request.max_bytes))
        read(request, deliver)

    monkeypatch.setattr(pages, "read", read_and_note)
    ann.send((b"x" * 1000 + b"\n") * 8000)
    sync(ann)
    idle = [started.peer(receive_buffer=4096) for _ in range(4)]
    for number, peer in enumerate(idle):
        peer.send(b"/json 0\n")
        if not number:  # its first page is requested while nobody else waits for one
            peer.line()
            sync(ann)
    until_all_wait = threading.Event()

    def look() -> None:
        waiting = [told.pending_bytes for told in connections.subscribers.replaying.values()]
        if len(waiting) == 4 and all(waiting):
            pending.extend(waiting)
            until_all_wait.set()
        else:
            call_soon(started.server, look)

    pending: list[int] = []
    call_soon(started.server, look)
    assert until_all_wait.wait(10)
    assert sum(pending) <= 2 * 200_000
    assert 4 in [number for number, _ in requests]
    assert all(max_bytes <= min(replays.MAX_PAGE_BYTES, 200_000 // number) for number, max_bytes in requests)


def held(batches: Iterable[Batch], member: Member) -> Replay:
    """Return a replay that holds these batches."""
    replay = Replay(Subscribe(member, TEXT, after=0, upto=5), a_share())
    for batch in batches:
        replay.hold(batch)
    return replay


def test_every_byte_that_a_replay_holds_is_counted() -> None:
    """Live lines, private ones, ranges of its own ids; also after messages were left to the history."""
    ann, bob = Member("ann", ("", 1)), Member("bob", ("", 2))
    batches = list[Batch]()
    for number in range(6, 106, 2):
        builder = BatchBuilder([TEXT])
        builder.say(bob, Message("bob", "mine", number))
        builder.say(ann, Message("ann", "hers", number + 1))
        builder.tell(bob, TEXT, b"*** for bob alone\n")
        batches.append(builder.batch() or Batch())
    replay = held(batches, bob)
    private, ranges = 50 * len(b"*** for bob alone\n"), 50 * RANGE_BYTES
    assert replay.held_bytes == 50 * len(b"ann: hers\n") + private + ranges
    assert replay.private_bytes >= private + ranges
    replay.leave_to_history()
    assert replay.exclude == [(number, number) for number in range(6, 106, 2)]
    assert replay.held == [b"*** for bob alone\n"] * 50
    assert replay.held_bytes == replay.private_bytes == private + ranges


def test_own_messages_are_left_to_the_history_and_marked() -> None:
    """Those of a member that wants them; what was said before it asked for JSON is not told again."""
    ann, bob = Member("ann", ("", 1)), Member("bob", ("", 2))
    bob.echo = True
    for format, exclude, own in ((TEXT, [(6, 6)], []), (JSON, [], [(6, 6)])):
        builder = BatchBuilder([format])
        builder.say(bob, Message("bob", "mine", 6, 0.0))
        builder.say(ann, Message("ann", "hers", 7, 0.0))
        builder.tell(bob, format, b"for bob alone\n")
        replay = Replay(Subscribe(bob, format, after=0, upto=5), a_share())
        replay.hold(builder.batch() or Batch())
        assert b'"own":true' in b"".join(replay.held) or format is TEXT
        replay.leave_to_history()
        assert (replay.exclude, replay.own, replay.upto) == (exclude, own, 7)
        assert replay.held == [b"for bob alone\n"]
        assert replay.held_bytes == replay.private_bytes == len(b"for bob alone\n") + RANGE_BYTES
        replay.release()
        assert replay.private_bytes == 0


def test_a_replay_holds_no_batch_for_a_few_bytes_of_it() -> None:
    """They are copied, and count as its own."""
    ann, bob = Member("ann", ("", 1)), Member("bob", ("", 2))
    builder = BatchBuilder([TEXT])
    builder.say(bob, Message("bob", "x" * 8000, 6))
    builder.say(ann, Message("ann", "hi", 7))
    replay = held([builder.batch() or Batch()], bob)
    assert replay.held == [b"ann: hi\n"]
    assert isinstance(replay.held[0], bytes)
    assert replay.private_bytes == len(b"ann: hi\n") + RANGE_BYTES


def test_replays_hold_one_view_of_a_batch() -> None:
    """A view takes more memory than a short line, and nothing counts that."""
    ann, bob, cid = (Member(name, ("127.0.0.1", 1)) for name in ("ann", "bob", "cid"))
    builder = BatchBuilder([TEXT])
    builder.say(ann, Message("ann", "hi", 6))
    batches = [builder.batch() or Batch()]
    assert held(batches, bob).held[0] is held(batches, cid).held[0]


def test_a_replay_holds_only_lines_for_its_member(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to others cost nothing for thousands of members that receive a replay."""
    held = list[int]()
    hold = replays.Replay.hold

    def counted(replay: replays.Replay, batch: Batch, first: int = 0, last: int | None = None) -> None:
        hold(replay, batch, first, last)
        held.append(replay.held_bytes)

    monkeypatch.setattr(replays.Replay, "hold", counted)
    started = serve(limits=Limits(history_size=10_000))
    ann = started.peer()
    ann.send((b"x" * 1000 + b"\n") * 8000)
    sync(ann)
    idle = started.peer(receive_buffer=4096)
    idle.send(b"/json 0\n")
    assert b'"welcome"' in idle.line()
    for _ in range(2):  # a second answer proves that the turn of the first is over
        sync(ann)
    held.clear()
    for _ in range(10):
        sync(ann)
    assert held == []
    ann.send(b"live\n")
    for _ in range(2):
        sync(ann)
    assert len(held) == 1
    assert held[0] > len(b"live")


def test_a_leaver_receives_nothing_after_its_leave(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a disk hangs, a program switches to JSON and leaves, somebody speaks, another switches and hears more.

    The line between is not encoded in JSON: nobody in the room reads it. The leaver must not receive the later line.
    """
    store, hanging, may_go_on = MemoryHistory(100), threading.Event(), threading.Event()
    append = store.append

    def hang(messages: list[Message]) -> None:
        hanging.set()
        assert may_go_on.wait(10)
        append(messages)

    monkeypatch.setattr(store, "append", hang)
    started = serve(history=store, limits=Limits(history_seconds=20))
    ann, leaver, bob, cid = peers = started.peers(4)
    for peer in peers:  # a member is read from once its join is through, and that takes the same way as messages
        sync(peer)
    ann.send(b"hold\n")
    assert hanging.wait(10)
    leaver.send(b"/json 0\nexit\n")
    started.events.wait_for("leave")
    bob.send(b"between\n")
    while started.events.wait_for("message").split(": ")[1] != "between":
        pass
    cid.send(b"/json\nlast\n")
    while started.events.wait_for("message").split(": ")[1] != "last":
        pass
    may_go_on.set()
    told = leaver.rest()
    assert b'"hold"' in told
    assert b"last" not in told or b"between" in told
    while not bob.line().endswith(b": last"):
        pass


def test_a_replay_leaves_room_for_the_next_burst(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its end at most half of `max_pending_bytes` waits, so that the next burst disconnects nobody."""
    waiting = list[int]()
    before_release(monkeypatch, lambda replay: waiting.append(replay.held_bytes))
    limits = Limits(history_size=3, max_pending_bytes=100_000)
    started = serve(replay=50_000, history=MemoryHistory(100_000), limits=limits)
    ann = started.peer()
    ann.send((b"x" * 1000 + b"\n") * 5000)
    sync(ann)
    bob = started.peer(receive_buffer=4096)
    assert bob.line() == b"*** before you came:"
    ann.send((b"y" * 1000 + b"\n") * 80)
    sync(ann)
    while b"from here on it is live" not in bob.line():
        pass
    sync(ann)
    assert waiting[0] <= 50_000


def test_json_in_the_middle_of_a_replay(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages left to the history are told in JSON, but for its own; waiting lines come before that."""
    store = MemoryHistory(100_000)
    started = serve(replay=5000, history=store, limits=Limits(max_pending_bytes=100_000, history_size=3))
    ann = started.peer()
    ann.send((b"x" * 1000 + b"\n") * 5000)
    sync(ann)
    bob = started.peer(receive_buffer=4096)
    assert bob.line() == b"*** before you came:"
    bob.send(b"mine\n")
    assert b"mine" in ann.line()
    ann.send((b"y" * 1000 + b"\n") * 5000)
    sync(ann)
    monkeypatch.setattr(store, "append", lambda messages: 1 / 0)
    ann.send(b"z\n" * 50 + b"the last\n")
    sync(ann)
    bob.send(b"/json 10052\n/sync\n")
    told = [bob.line()]
    while b'"synced"' not in told[-1]:
        told.append(bob.line())
    assert sum(b"y" * 1000 in line for line in told) == 5000
    assert sum(line.endswith(b": z") for line in told) == 50
    assert not [line for line in told if b"mine" in line]
    assert started.server.stats.slow_consumers == 0


class Flaky(MemoryHistory):
    """Can't be read each other time."""

    reads = 0

    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        self.reads += 1
        if self.reads % 2:
            raise HistoryError("flaky")
        return super().read(after, upto, max_bytes)


def test_passing_trouble_makes_no_gap(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that fails is tried once more."""
    monkeypatch.setattr("chatkit.room.committer.RETRY_SECONDS", 0.01)
    started = serve(history=Flaky(1000), limits=Limits(history_size=1))
    ann = started.peer()
    ann.send(b"1\n2\n3\n/json 0\n")
    assert [getattr(event(line), "id", None) for line in ann.lines(4)] == [None, 1, 2, 3]


class Holey(MemoryHistory):
    """Doesn't keep what comes while it is `broken`, nor is read then."""

    broken = False
    error: type[BaseException] = HistoryError

    def append(self, messages: Any) -> None:
        if self.broken:
            raise self.error("broken")
        super().append(messages)

    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        if self.broken:
            raise self.error("broken")
        return super().read(after, upto, max_bytes)


@pytest.mark.parametrize("error", [HistoryError, SystemExit])
def test_gaps_are_where_they_are(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    """Messages that weren't kept are a gap between the others. An unreadable history is a gap and one log line."""
    for module in ("room.committer",):
        monkeypatch.setattr(f"chatkit.{module}.RETRY_SECONDS", 0.01)
    store = Holey(1000)
    store.error = error
    started = serve(history=store, limits=Limits(history_size=2))
    ann, bob = started.peers(2)
    for broken, lines in ((False, b"1\n2\n"), (True, b"3\n4\n5\n"), (False, b"6\n7\n8\n9\n")):
        store.broken = broken
        while store.broken != bool(committer_of(started.server).failure) and not broken:
            sync(ann)
        ann.send(lines)
        bob.lines(lines.count(b"\n"))
    bob.send(b"/json 0\n")
    bob.line()
    told = [event(line) for line in bob.lines(7)]
    assert [getattr(each, "id", each) for each in told] == [1, 2, Gap(3), 6, 7, 8, 9]
    cid, dan = started.peers(2)
    store.broken = True
    for after, peer in ((1, cid), (2, dan)):
        peer.send(b"/json %d\n" % after)
        peer.line()
        assert [getattr(event(line), "id", event(line)) for line in peer.lines(3)] == [Gap(7 - after), 8, 9]
    assert caplog.text.count("the history can't be read: broken") == 1
    store.broken = False
    (eve,) = started.peers(1)
    eve.send(b"/json 1\n")
    eve.line()
    assert [getattr(event(line), "id", None) for line in eve.lines(2)] == [2, None], "what failed once is asked again"


@kept_in
@pytest.mark.parametrize("threads", [1, 2])
def test_replay_against_live(serve: Serve, where: dict[str, Any], threads: int) -> None:
    """Eight members talk, others join at any moment: each sees a contiguous run of ids to the very last."""
    check_runs(serve(threads=threads, replay=40, **where), senders=8, lines=400, joiners=24)


@kept_in
@pytest.mark.stress
def test_replay_against_live_under_a_tiny_switch_interval(serve: Serve, where: dict[str, Any]) -> None:
    """Replay against live while threads switch at almost every step."""
    check_runs(serve(threads=2, replay=40, **where), senders=4, lines=50, joiners=8)


def talk(peer: Peer, lines: int) -> None:
    for number in range(lines):
        peer.send(b"%d\n" % number)
        if number % 8 == 0:
            peer.drain()


def check_runs(started: Started, senders: int, lines: int, joiners: int) -> None:
    talkers = started.peers(senders)
    last, newest, chance = started.peer(), senders * lines + 1, random.Random(7)
    threads = [threading.Thread(target=talk, args=(peer, lines)) for peer in talkers]
    for thread in threads:
        thread.start()
    joined = list[tuple[Peer, bytes]]()
    for _ in range(joiners):
        joined.append((started.peer(), chance.choice([b"", b"/json\n", b"/json 0\n", b"/json 100\n"])))
        joined[-1][0].send(joined[-1][1])
        started.events.wait_for("message")
    for thread in threads:
        thread.join()
    for peer in talkers:
        sync(peer)
    last.send(b"the end\n")
    for peer, asked in joined:
        check_ids(peer, newest) if asked else check_lines(peer, [talker.name for talker in talkers], lines)


def check_ids(peer: Peer, newest: int) -> None:
    while not peer.line().startswith(b"{"):
        pass
    ids = [message.id or 0 for message in messages_upto(peer, newest)]
    assert ids == list(range(ids[0], newest + 1))


def check_lines(peer: Peer, talkers: list[str], lines: int) -> None:
    said = list[bytes]()
    while b"the end" not in (line := peer.line()):
        said.append(line)
    for name in talkers:
        numbers = [int(line.rpartition(b" ")[2]) for line in said if line.startswith(name.encode())]
        assert numbers == list(range(lines - len(numbers), lines))
