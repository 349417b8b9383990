"""Workers, a room and connections in random orders: one thread, no kernel, a clock by hand.

Every turn runs by hand, and inside each `send` and `recv` another worker's turn, new bytes or a newcomer may come in
between, as with threads. `CHATKIT_SEED=17 pytest tests/system/test_scheduler.py` runs one seed.
"""

from __future__ import annotations

import errno
import math
import os
import random
import re
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import takewhile
from typing import Any, cast

import pytest

from chatkit import Event, Gap, Joined, Left, Limits, Member, Members, Message, Notice, Welcome
from chatkit.errors import JoinRefused
from chatkit.history.memory import MemoryHistory
from chatkit.protocol.formats import parse_json
from chatkit.protocol.replies import RESUME_EARLY, RESUME_UNKNOWN, RESUMED, TAKEN_OVER
from chatkit.protocol.sanitize import clean
from chatkit.room.batch import Received
from chatkit.room.publisher import Publisher
from chatkit.room.room import Room
from chatkit.server.connection import Connection
from chatkit.server.worker import Worker
from tests.helpers.inside import SteppedCommitter, drive, known_connections, on_disconnect, places, selector_of, turn
from tests.helpers.servers import a_share
from tests.helpers.transports import tcp_info

SEEDS = [int(os.environ["CHATKIT_SEED"])] if "CHATKIT_SEED" in os.environ else list(range(200))
STEPS = 250
PEERS = 9
MAX_LINE_BYTES = 24
ASKS = b"/json 0\n", b"/json 0 echo\n"
READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

# Lines for one member alone; the second are those about a place.
NOTICES = ("*** not sent: ", "*** you were cut off: ", "*** kicked")
ANSWERS = (*map(str, (RESUMED, RESUME_UNKNOWN, RESUME_EARLY, TAKEN_OVER)), "*** a place is resumed before /json")

# With the first nobody who reads may lose anything; with the second many are cut off or refused.
LOOSE = {"max_pending_bytes": 1_000_000, "stall_seconds": 1000, "drain_seconds": 1000, "line_seconds": 1000}
TIGHT = {"max_pending_bytes": 120, "stall_seconds": 3, "drain_seconds": 2, "line_seconds": 4, "max_clients": 5}


class Peer:
    """A scripted peer, and the server's socket to it. `end` is how it leaves; `deaf` is that it never reads."""

    is_ready, has_unsent, has_unread, at_eof, taken_bytes = True, False, False, False, 0

    def __init__(self, world: World, port: int) -> None:
        self.world, self.port, self.connected_at = world, port, world.tick
        self.end = world.random.choice(["half-close", "half-close", "close", "reset", "exit", "stay silent"])
        self.deaf = world.random.random() < 0.15
        self.prompt = world.random.random() < 0.5
        self.asks_at = world.random.choice([None, None, 0, 1, 3])  # before which of its lines it asks for JSON
        self.echo = world.random.random() < 0.5  # whether it wants its own lines then
        self.script = self.write_script()
        self.said = 0  # so much of the script has arrived
        self.heard = 0  # so much of the script has been read by the server
        self.sent = b""
        self.unread = 0
        self.capacity = world.random.choice([7, 40, 400])
        self.peer_ended = self.broken = self.error_told = self.shut = self.reset_by_us = False
        self.closed = 0

    def write_script(self) -> bytes:
        lines = []
        for number in range(self.world.random.randrange(8)):
            lines += [ASKS[self.echo]] if number == self.asks_at else []
            good = f"{self.port}.{number}".encode()
            bad = b"\xff", b"y" * self.world.random.randint(MAX_LINE_BYTES + 1, 60)
            kinds = [good, good, good, b"", b"/who", *bad]
            lines.append(self.world.random.choice(kinds) + self.world.random.choice([b"\n", b"\r\n"]))
        if self.end in ("exit", "stay silent"):
            lines.append(b" exit \n" + b"dropped\n" * self.world.random.randrange(2))
        script = b"".join(lines)
        if self.end == "reset":
            return script[: self.world.random.randint(0, len(script))]
        return script.removesuffix(b"\n") if self.world.random.random() < 0.5 and self.end != "stay silent" else script

    def expected(self) -> tuple[list[str], int, int]:
        """Return the meaning of the script: lines for the room, the number of bad lines, how many need a clean end."""
        good, bad = list[str](), 0
        *ended, rest = self.script.split(b"\n")
        for line in [*(line.removesuffix(b"\r") for line in ended), rest]:
            if line.startswith(b"/"):
                continue
            if line.strip() == b"exit":
                return good, bad, 0
            if len(line) > MAX_LINE_BYTES or b"\xff" in line:
                bad += 1
            elif line:
                good.append(f"{self.port}: {clean(line.decode())}")
        return good, bad, int(bool(good) and good[-1] == f"{self.port}: {clean(rest.decode(errors='replace'))}")

    def talk(self) -> None:
        """The next few bytes arrive, or the end."""
        if self.said < len(self.script):
            self.said += self.world.random.randint(1, 30)
            for line in self.expected()[0]:
                if line.partition(" ")[2].encode() in self.script[: self.said]:
                    self.world.said_at.setdefault(line.partition(": ")[2], self.world.tick)
        elif self.end != "stay silent":
            self.peer_ended = True
            self.broken = self.broken or self.end == "reset"

    def read(self) -> None:
        self.unread = self.unread if self.deaf else 0

    def ready(self) -> int:
        readable = self.heard < min(self.said, len(self.script)) or self.peer_ended or self.broken
        writable = self.broken or self.capacity - self.unread >= self.capacity / 3
        return (READ if readable else 0) | (WRITE if writable else 0)

    # What the server calls

    def recv(self, max_bytes: int) -> bytes:
        self.world.interrupt()
        assert not self.closed, "reads a closed socket"
        data = self.script[self.heard : self.said][: min(max_bytes, self.world.random.randint(1, 40))]
        if self.world.random.random() < 0.05 or not (data or self.peer_ended or self.broken):
            raise BlockingIOError
        if not data and self.broken and not self.error_told:
            self.error_told = True
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        self.heard += len(data)
        return data

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        self.world.interrupt()
        assert not self.closed, "writes to a closed socket"
        if self.broken:
            code = errno.EPIPE if self.error_told else errno.ECONNRESET
            self.error_told = True  # the kernel tells it once, then reads see an end of stream
            raise OSError(code, "gone")
        assert not self.shut, "writes after its end of stream"
        taken = min(len(data), self.capacity - self.unread, self.world.random.choice([0, 1, 3, 20, 1000]))
        if not taken:
            raise BlockingIOError
        self.sent += bytes(data[:taken])
        self.unread = 0 if self.prompt and not self.deaf else self.unread + taken
        self.broken = self.peer_ended and self.end == "close"  # who has closed answers with a reset
        return taken

    def send_pieces(self, pieces: list[bytes | memoryview]) -> int:
        return self.send(b"".join(pieces))

    def shutdown(self, how: int) -> None:
        assert not self.closed, "ends a closed socket"
        if self.broken:
            raise OSError(errno.ENOTCONN, "gone")
        self.shut = True

    def getsockopt(self, *arguments: Any) -> bytes:
        return tcp_info(unacked=self.unread)

    def setsockopt(self, *arguments: Any) -> None:
        self.reset_by_us = True

    def close(self) -> None:
        self.closed += 1
        self.reset_by_us |= self.heard < min(self.said, len(self.script))  # the kernel's answer to unread input
        worker_maps: list[Mapping[Any, Any]] = [selector_of(worker).get_map() for worker in self.world.workers]
        assert all(self not in registered for registered in worker_maps), "closed, but registered"


class SameEveryTime(Connection):
    """A connection with a fixed hash. Workers keep connections in sets, so without it a seed wouldn't be one order."""

    def __hash__(self) -> int:
        return cast(Peer, self.transport).port


class Selector(selectors.BaseSelector):
    """Over `Peer`s; the only one that tells when its worker was woken."""

    def __init__(self, world: World, worker: Worker) -> None:
        self.world, self.worker, self.awake = world, worker, False
        self.keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        assert fileobj not in self.keys, "registered twice"
        assert not fileobj.closed, "registered, but closed"
        assert events, "registered for nothing"
        return self.keys.setdefault(fileobj, selectors.SelectorKey(fileobj, 0, events, data))

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self.keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = [(key, key.fileobj.ready() & key.events) for key in self.keys.values()]  # type: ignore[union-attr]
        found = [(key, events) for key, events in ready if events]
        if self.awake:
            found.append((selectors.SelectorKey(0, 0, READ, None), READ))
        self.world.random.shuffle(found)
        return found

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self.keys

    # As a waker

    def wait(self, seconds: float) -> None:
        self.world.interrupt()

    def wake(self) -> None:
        """As in `post`, a worker doesn't wake itself."""
        self.awake = self.awake or self.world.running[-1:] != [self.worker]

    def clear(self) -> None:
        self.awake = False


class Script:
    """A thread that works when the world says so; now, if nothing can go on before."""

    def __init__(self, *, now: bool) -> None:
        self.now = now
        self.jobs: list[Callable[[], Any]] = []

    def do(self, call: Callable[[], Any]) -> Future[Any]:
        future = Future[Any]()
        self.jobs.append(lambda: future.set_result(call()))
        if self.now:
            self.work()
        return future

    def work(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


class Kept(SteppedCommitter):
    """A history that takes its time, and keeps more than the memory does."""

    def __init__(self, world: World) -> None:
        self.world, self.reads = world, Script(now=False)
        required = world.random.random() < 0.5
        super().__init__(MemoryHistory(10**6), world.limits, Script(now=True), self.reads, required=required)

    @property
    def is_backlogged(self) -> bool:
        return self.waiting_bytes > 60

    @property
    def waits(self) -> bool:
        """Whether there is something for its threads."""
        return self.has_queued or bool(self.reads.jobs)

    def work(self) -> None:
        """Do the work of its threads."""
        self.world.interrupt()
        self.step()
        self.world.interrupt()
        self.reads.work()


class World:
    """The parts of one run: the room, its workers, peers, a clock. `log` has the room's decisions in order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = self.tick = 0.0
        self.loose = self.random.random() < 0.5
        rate = self.random.choice([None, 1, 3])
        limits: dict[str, Any] = LOOSE if self.loose else TIGHT
        size = self.random.choice([1, 3, 1000])
        self.limits = Limits(max_line_bytes=MAX_LINE_BYTES, messages_per_second=rate, history_size=size, **limits)
        self.log: list[tuple[str, str, str]] = []
        self.committer = Kept(self) if self.random.random() < 0.5 else None
        self.room = Room(self, self.limits, Publisher(size, self.committer))
        self.workers: list[Worker] = []
        self.cut: list[Connection] = []  # disconnected by the server
        self.running: list[Worker | None] = []  # None is the committer
        self.wakes_at: dict[Worker, float] = {}
        for number in range(self.random.randint(1, 3)):
            worker = Worker(f"worker-{number}", self.room, self.limits, self.accept, print)
            drive(worker, Selector(self, worker))
            on_disconnect(worker, self.cut.append)
            self.workers.append(worker)
            self.wakes_at[worker] = 0.0
        self.keeping = False
        self.speaks: dict[str, str] = {}  # by name, the port of its connection
        self.tokens = 0
        self.said_at: dict[str, float] = {}  # when each line had arrived
        self.joined_at: dict[str, float] = {}
        self.left_at: dict[str, float] = {}
        self.resumed = set[str]()  # the names that another connection has taken over; they are announced then
        self.peers: list[Peer] = []
        self.waiting: list[Peer] = []
        self.connections: dict[Peer, Connection] = {}

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    # The room's handler

    def on_join(self, member: Member) -> None:
        self.joined_at[member.name] = self.now
        self.speaks[member.name] = member.name
        self.log.append(("join", member.name, ""))

    def on_message(self, message: Message) -> Message:
        self.log.append(("line", self.speaks[message.sender], str(message)))
        return message

    def on_leave(self, member: Member, reason: str) -> None:
        self.left_at[member.name] = self.now
        port = str(member.address[1])
        if reason == "resumed":
            (name,) = [name for name, speaker in self.speaks.items() if speaker == port]
            self.speaks[name] = self.speaks.pop(member.name)
            self.resumed.add(name)
        else:
            del self.speaks[member.name]
        self.log.append(("leave", port, reason))

    # What can happen

    def connect(self) -> None:
        if len(self.peers) < PEERS:
            self.peers.append(Peer(self, 1000 + len(self.peers)))
            self.waiting.append(self.peers[-1])

    def accept(self) -> None:
        while self.waiting:
            peer = self.waiting.pop(0)
            self.connections[peer] = connection = SameEveryTime(peer, a_share(self.limits))  # type: ignore[arg-type]
            worker = self.random.choice(self.workers)
            try:
                self.room.reserve(("127.0.0.1", peer.port))
                self.room.join(("127.0.0.1", peer.port), partial(worker.admit, connection))
            except JoinRefused as refusal:
                worker.refuse(connection, refusal.reason)
        self.interrupt()

    def say(self) -> None:
        def say(line: str) -> None:
            self.log.append(("line", "", line))
            self.room.say(Notice(line.removeprefix("*** ")))

        self.workers[0].post(partial(say, f"*** said {self.tick:g}"))

    def token_hex(self, number: int) -> str:
        """In place of `secrets`, so that a seed has the same tokens each time."""
        self.tokens += 1
        return f"{self.tokens:032x}"

    def resume(self) -> None:
        """A member takes a place, of any other one: its token is right, used, void, or not given yet."""
        if members := [member for member in self.room.roster.members if not member.json]:
            token = f"{self.random.randint(1, self.tokens + 1):032x}"
            received = [Received(self.random.choice(members), [f"/resume {token}"])]
            self.random.choice(self.workers).post(partial(self.room.receive, received))

    def kick(self) -> None:
        if members := self.room.roster.members:
            member = self.random.choice(members)
            self.workers[0].post(partial(self.room.remove, member, Notice("kicked"), "removed"))

    def keep(self) -> None:
        if self.committer and not self.keeping:
            self.keeping = True
            self.running.append(None)
            self.committer.work()
            self.running.pop()
            self.keeping = False

    def turn(self, worker: Worker) -> None:
        self.running.append(worker)
        patience = turn(worker)
        self.running.pop()
        self.wakes_at[worker] = self.now + (math.inf if patience is None else patience)

    def happen(self) -> None:
        """Anything, once."""
        self.tick += 1
        what = self.random.choices(
            "connect accept turn talk read clock say kick keep resume".split(), [6, 2, 30, 35, 20, 5, 1, 0.5, 10, 3]
        )
        if what == ["clock"]:
            self.now += self.random.random()
        elif what == ["turn"]:
            if idle := [worker for worker in self.workers if worker not in self.running]:
                self.turn(self.random.choice(idle))
        elif what[0] in ("talk", "read"):
            if self.peers:
                getattr(self.random.choice(self.peers), what[0])()
        else:
            getattr(self, what[0])()

    def interrupt(self) -> None:
        """Where threads would let others run."""
        if self.random.random() < 0.1:
            self.happen()

    def drain(self) -> None:
        """Everyone says the rest and ends. A worker has a turn only when something would wake its thread."""
        for _ in range(5000):
            self.keep()
            self.accept()
            for peer in self.peers:
                peer.read()
                stalled = peer.deaf and peer in self.connections and self.connections[peer].pending_bytes
                if not stalled or self.connections[peer].is_closing:  # the stalled don't leave: they must be cut off
                    peer.talk()
            woken = [w for w in self.workers if selector_of(w).select() or self.wakes_at[w] <= self.now]
            for worker in woken:
                self.turn(worker)
            if self.committer and self.committer.waits:
                continue
            if not woken and not self.waiting and not any(worker.load for worker in self.workers):
                return
            if not woken and not self.waiting:
                readers = [peer for peer in self.connections if not peer.deaf and not peer.closed]
                asked = [peer for peer in readers if self.connections[peer].write_at == math.inf]  # the others: later
                late = [peer.port for peer in asked if self.connections[peer].pending_bytes]
                assert not late, f"{late} read, but wait for a clock"
                self.now = min(self.wakes_at.values())
                assert self.now < math.inf, "every worker sleeps, and nothing will wake one"
        pytest.fail("never ends")


def as_text(name: str, lines: list[str], world: World, whole: bool, *, echo: bool) -> list[str]:
    """Return a member's lines as if it had never asked for JSON. Its replay is checked and left out, and its echo."""
    texts = list(takewhile(lambda line: not line.startswith("{"), lines))
    if len(texts) == len(lines):
        return texts
    events = [parse_json(line) for line in lines[len(texts) :]]
    welcome, *rest = events
    assert isinstance(welcome, Welcome)
    rest = without_lists(name, rest, world, whole)
    if echo:
        rest = without_echo(name, rest, welcome.newest, world)
    if not world.loose:
        return told_later(name, texts, rest, welcome.newest, world, whole)
    told = [
        event
        for event in rest
        if isinstance(event, Gap) or (isinstance(event, Message) and (event.id or 0) <= welcome.newest)
    ]
    said, last = [line for kind, who, line in world.log if kind == "line" and who], 0
    for event in told:
        last += event.missing if isinstance(event, Gap) else 1
        assert isinstance(event, Gap) or (event.id, str(event)) == (last, said[last - 1])
    assert rest[: len(told)] == told, "what is live comes later"
    assert last == welcome.newest or not whole, "the replay isn't all"
    live = rest[len(told) :]
    check_announcements(live, world)
    return texts + [str(event) for event in live if not isinstance(event, Joined | Left)]


def without_lists(name: str, events: list[Event | None], world: World, whole: bool) -> list[Event | None]:
    """Check that each answer to `/who` is one piece, with its asker and each member once; return the other events."""
    others, names, is_open = list[Event | None](), list[str](), False
    for event in events:
        assert not is_open or isinstance(event, Members), "an answer in pieces"
        if isinstance(event, Members):
            names += [member.name for member in event.members]
            is_open = event.more
            assert is_open or len(set(names)) == len(names)
            assert is_open or name in names or world.resumed
            names = names if is_open else []
        else:
            others.append(event)
    assert not is_open or not whole, "half an answer"
    return others


def without_echo(name: str, events: list[Event | None], newest: int, world: World) -> list[Event | None]:
    """Check that a member's own messages are in their place, and are marked; return the other events."""
    speaker = {line: who for kind, who, line in world.log if kind == "line"}
    last, others = 0, list[Event | None]()
    for event in events:
        if isinstance(event, Gap):
            last += event.missing
        elif isinstance(event, Message):
            assert event.id == last + 1, "one is missing, its own perhaps"
            last = event.id
            assert event.own == (speaker[str(event)] == name and event.id > newest)
        if not (isinstance(event, Message) and event.own):
            others.append(event)
    return others


def check_announcements(events: list[Event | None], world: World) -> None:
    """Check the live events of a program: a join before the first word, once; a leave only of a member that came."""
    known = set[str]()
    for event in events:
        if isinstance(event, Joined):
            assert event.name not in known, "came twice, or after its first word"
            known.add(event.name)
        elif isinstance(event, Message):
            known.add(event.sender)
        elif isinstance(event, Left) and event.name not in known:
            (peer,) = [peer for peer in world.peers if str(peer.port) == event.name]
            seconds = world.left_at[event.name] - world.joined_at[event.name]
            heard = peer.script[: peer.heard]
            has_come = b"\n" in heard or len(heard) > MAX_LINE_BYTES or seconds >= 1 or event.name in world.resumed
            assert has_come, "went, but never came"


def told_later(
    name: str, texts: list[str], events: list[Event | None], newest: int, world: World, whole: bool
) -> list[str]:
    """Return the lines of a member as without a replay, if more was said during its replay than may wait.

    Messages and gaps come first, the other events after them; each kind is in order.
    """
    said, last, lines = [line for kind, who, line in world.log if kind == "line" and who], 0, list[str]()
    speaker = {line: who for kind, who, line in world.log if kind == "line"}
    for event in events:
        if isinstance(event, Gap):
            lines += said[max(last, newest) : last + event.missing]
            last += event.missing
        elif isinstance(event, Message):
            assert (event.id or 0) > last
            last = event.id or 0
            assert str(event) == said[last - 1]
            assert speaker[str(event)] != name or last <= newest, "its own line"
            lines += [str(event)] if last > newest else []
    assert last >= newest or not whole, "the replay isn't all"
    lines = [line for line in lines if speaker[line] != name]
    others = [str(event) for event in events if not isinstance(event, Message | Gap | Joined | Left)]
    others = [line for line in others if not line.startswith(ANSWERS)]
    texts = [line for line in texts if not line.startswith(ANSWERS)]
    place = {line: number for number, (kind, _, line) in enumerate(world.log) if kind == "line"}
    public = [line for line in others if line in place]
    assert public == sorted(public, key=lambda line: place[line])
    if not whole and lines:  # it was cut off before it was told what else happened
        joined, until = world.log.index(("join", name, "")), place[lines[-1]]
        announced = [line for kind, who, line in world.log[joined:until] if (kind, who) == ("line", "")]
        others += [line for line in announced if line not in (*texts, *others)]
    return sorted(texts + lines + others, key=lambda line: place.get(line, -1))


def heard_by(peer: Peer, world: World, whole: bool) -> None:
    """Check a member's lines: a gapless piece of the one order, from its join on; if `whole`, to its end."""
    name, log = str(peer.port), world.log
    *lines, rest = peer.sent.decode(errors="replace").split("\n")
    assert not whole or (peer.shut and not rest), "half a line, or no end of stream"
    lines = as_text(name, lines, world, whole, echo=peer.echo)
    if ("join", name, "") not in log:
        assert lines == ["*** the room is full"] or not whole
        return
    joined = log.index(("join", name, ""))
    left = next(number for number, (kind, who, _) in enumerate(log) if (kind, who) == ("leave", name))
    for_it = [line for kind, who, line in log[joined:] if kind == "line" and who != name]
    owed = sum(kind == "line" and who != name for kind, who, _ in log[joined:left])
    lines = [line for line in lines if not re.match(r"\*\*\* ([0-9]+ here: |unknown command /who)", line)]
    notices = [line for line in lines if line.startswith((*NOTICES, *ANSWERS))]
    got = [line for line in lines if line not in notices]
    assert got == for_it[: len(got)], "not the room's order"
    assert len(got) >= owed or not whole, "a line is missing"
    assert not [line for line in notices[:-1] if "cut off" in line]
    if log[left][2] in ("exit", "end of stream") and whole:
        assert len([line for line in notices if "not sent" in line]) == peer.expected()[1]
    for line in [line for kind, _, line in log[:joined] if kind == "line"]:
        assert world.said_at.get(line.partition(": ")[2], 0) <= peer.connected_at, "was connected, didn't hear it"


def said_by(peer: Peer, world: World) -> None:
    """Check that a member's words are in the order once, all of them if nothing cut it short."""
    good, _, unended = peer.expected()
    said = [line for kind, who, line in world.log if (kind, who) == ("line", str(peer.port))]
    good, said = ([line.partition(": ")[2] for line in lines] for lines in (good, said))
    assert said == good[: len(said)], "said otherwise"
    for kind, who, reason in world.log:
        if (kind, who) == ("leave", str(peer.port)) and reason in ("exit", "end of stream"):
            assert said == good, "what was said is lost"
        elif (kind, who) == ("leave", str(peer.port)) and reason == "connection reset":
            assert said == good[: len(good) - unended], "what was said before a reset is lost"


def check(world: World) -> None:
    for peer in world.peers:
        connection = world.connections[peer]
        assert peer.closed == 1, "closed so many times"
        whole = not (peer.broken or peer.reset_by_us or connection in world.cut)
        if world.loose and not peer.deaf and peer.end not in ("close", "reset"):
            assert whole, "not served whole, for no reason"
        heard_by(peer, world, whole)
        said_by(peer, world)
    assert world.room.roster.members == []
    assert places(world.room.roster) == (0, {})
    for worker in world.workers:
        assert not any(known_connections(worker)), "an ended connection is still known"


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_of_happenings_keeps_the_promises(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order of steps: one order of lines, none lost, doubled or echoed, every socket closed once."""
    world = World(seed)
    for module in ("worker", "connections", "input", "pace"):
        monkeypatch.setattr(f"chatkit.server.{module}.time", world)
    for module in ("server.connection", "room.turn"):
        monkeypatch.setattr(f"chatkit.{module}.time", world)
    for name in ("resumes.time", "resumes.secrets", "guesses.time"):
        monkeypatch.setattr(f"chatkit.room.{name}", world)
    monkeypatch.setattr("chatkit.room.listing.MEMBERS_PER_LINE", 2)
    try:
        for _ in range(STEPS):
            world.happen()
        world.drain()
        check(world)
    except BaseException as error:
        error.add_note(f"again: CHATKIT_SEED={seed} pytest {__file__}")
        raise
