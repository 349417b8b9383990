"""`Connections` over scripted sockets: limits are judged in the right order, at the right time."""

from __future__ import annotations

import math
import selectors
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit import Limits, Member
from chatkit.protocol.formats import TEXT
from chatkit.protocol.replies import CUT_OFF
from chatkit.server.connection import Connection
from chatkit.server.connections import RETRY_SECONDS, Connections
from tests.helpers.servers import a_share
from tests.helpers.transports import ScriptedSocket


class Selector:
    """A selector that never selects: a socket that a script speaks for has no descriptor."""

    def __init__(self) -> None:
        self.keys: dict[object, object] = {}

    def get_map(self) -> dict[object, object]:
        return self.keys

    def register(self, transport: object, events: int, data: object) -> None:
        self.keys[transport] = SimpleNamespace(events=events, data=data)

    modify = register

    def unregister(self, transport: object) -> None:
        del self.keys[transport]


class Served:
    """The connections of a worker, with a clock by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        for module in ("connections", "connection", "input"):
            monkeypatch.setattr(f"chatkit.server.{module}.time", clock)
        selector: selectors.BaseSelector = Selector()  # type: ignore[assignment]
        self.connections = Connections(limits, selector, a_share(limits))

    def member(self, sock: ScriptedSocket) -> Connection:
        """Return a member that receives text."""
        connection = Connection(sock, self.connections.share)
        connection.member = Member("1", ("127.0.0.1", 1))
        self.connections.subscribers.by_format[TEXT][connection.member] = connection
        self.connections.add(connection)
        return connection

    def write(self, connection: Connection, data: bytes) -> None:
        """Write shared data, as a worker does."""
        if not connection.write(data):
            self.connections.note_write(connection)


def test_append_then_flush_then_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that is over the limit stays if the kernel takes its bytes now: it reads."""
    served = Served(monkeypatch, Limits(max_pending_bytes=100))
    reads, deaf = ScriptedSocket([None]), ScriptedSocket([None, None, None])
    for sock in (reads, deaf):
        served.write(served.member(sock), b"x" * 200)
    served.connections.tick(served.now)
    assert reads.sent == b"x" * 200
    assert [received.end for received in served.connections.received] == ["slow consumer"]
    assert served.connections.counters.slow_consumers == 1
    assert deaf.sent == b""


def test_any_byte_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that reads a byte in `stall_seconds` stays, though the kernel does not call its socket writable."""
    served = Served(monkeypatch, Limits(stall_seconds=30))
    sock = ScriptedSocket([None] + [1, None] * 9 + [None] * 9)
    served.write(served.member(sock), b"x" * 1000)
    for _ in range(9):
        served.now += 30
        served.connections.tick(served.now)
        assert served.connections.received == []
    served.now += 30
    served.connections.tick(served.now)
    assert [received.end for received in served.connections.received] == ["slow consumer"]
    assert sock.sent == b"x" * 9


def test_a_stranger_that_is_reset_in_a_line_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its login ends while its last bytes are received: nothing of it is left for a deadline."""
    served = Served(monkeypatch, Limits())
    sock = ScriptedSocket(receives=[b"abc", ConnectionResetError()])
    connection = Connection(sock, served.connections.share)
    served.connections.add(connection)
    login: Any = SimpleNamespace(due=math.inf)
    login.receive = lambda lines: served.connections.end(connection) if connection.peer_end else lines
    connection.login = login
    for _ in range(2):
        served.connections.receive(connection, connection.receive(100, 100))
    assert len(served.connections) == 0
    served.now += 100
    served.connections.tick(served.now)
    assert sock.calls.count("close") == 1


def test_a_kernel_that_takes_nothing_is_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memory for TCP it calls sockets writable and takes nothing: no worker may spin over that."""
    served = Served(monkeypatch, Limits(stall_seconds=30))
    sock = ScriptedSocket([None, None, None, 5])
    connection = served.member(sock)
    served.write(connection, b"x" * 10)
    assert connection.interest & selectors.EVENT_WRITE
    served.connections.flush(connection)
    assert not connection.interest & selectors.EVENT_WRITE
    assert served.connections.next_due == served.now + RETRY_SECONDS
    served.now += RETRY_SECONDS
    served.connections.tick(served.now)
    assert connection.interest & selectors.EVENT_WRITE
    served.connections.flush(connection)
    assert (sock.sent, bool(connection.interest & selectors.EVENT_WRITE)) == (b"x" * 10, False)


def test_members_that_wait_cost_a_turn_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands may be behind: a turn looks at those alone that it wrote to, or whose kernel took something."""
    served = Served(monkeypatch, Limits())
    members = [served.member(ScriptedSocket([None] * 9)) for _ in range(100)]
    for connection in members:
        served.write(connection, b"x" * 10)
    served.connections.tick(served.now)
    watched = list[Connection]()
    monkeypatch.setattr(served.connections, "watch", watched.append)
    served.connections.tick(served.now)
    assert watched == []
    served.write(members[7], b"x")
    served.connections.tick(served.now)
    assert watched == [members[7]]


@pytest.mark.parametrize(("takes", "closed_after"), [(None, 2), (1, 30)], ids=["nothing", "a byte a second"])
def test_a_member_that_leaves_while_it_is_behind_is_given_up(
    monkeypatch: pytest.MonkeyPatch, takes: int | None, closed_after: int
) -> None:
    """It has `drain_seconds` from each progress on, and `stall_seconds` in all."""
    served = Served(monkeypatch, Limits(drain_seconds=2, stall_seconds=30))
    sock = ScriptedSocket([None] + [takes, None] * 100)
    connection = served.member(sock)
    served.write(connection, b"x" * 1000)
    served.connections.end(connection)
    seconds = 0
    while "close" not in sock.calls:
        assert len(served.connections) == 1
        seconds += 1
        served.now += 1
        connection.flush()
        served.connections.tick(served.now)
        assert seconds < 100
    assert seconds == closed_after
    assert "linger" in sock.calls
    assert len(served.connections) == 0


def test_answers_of_all_members_have_a_bound(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond it those that hold the most are told and disconnected, as few as suffice; they keep the line begun."""
    served = Served(monkeypatch, Limits(max_private_bytes=300_000))
    line = b"x" * 999 + b"\n"
    holders = {lines: ScriptedSocket([100] + [None] * 8) for lines in (40, 41, 42, 43, 44, 45, 46)}
    members = [served.member(sock) for sock in holders.values()]
    for connection, lines in zip(members, holders, strict=True):
        served.connections.write(connection, line * lines)
    served.connections.tick(served.now)
    assert [received.member for received in served.connections.received] == [members[-1].member]
    assert served.connections.counters.slow_consumers == 1
    assert served.connections.share.private_bytes < 300_000
    holders[46].sends.clear()
    members[-1].flush()
    reason = "all members together held more than 300000 private bytes, and you the most"
    assert holders[46].sent == line + f"*** {CUT_OFF}: {reason}\n".encode()
    served.connections.close_all()
    told = [record.getMessage() for record in caplog.records if reason in record.getMessage()]
    assert [message.split(": ")[1] for message in told] == ["46 lines undelivered"]


def test_many_that_hold_the_same_are_not_all_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that is disconnected gives back what it holds, at once."""
    served = Served(monkeypatch, Limits(max_private_bytes=1_000_000))
    for _ in range(30):
        served.connections.write(served.member(ScriptedSocket([None] * 9)), (b"x" * 999 + b"\n") * 40)
    served.connections.tick(served.now)
    assert len(served.connections.received) == 6


def test_answers_to_telnet_are_private_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count in the budget while their peer doesn't read."""
    served = Served(monkeypatch, Limits())
    connection = served.member(ScriptedSocket([None], [b"\xff\xfd\x06hi\n"]))
    served.connections.receive(connection, connection.receive(100, 100))
    assert served.connections.received[0].lines == ["hi"]
    assert connection.private_bytes == served.connections.share.private_bytes == 3
