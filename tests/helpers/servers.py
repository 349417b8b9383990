"""A server in the test's process, a handler that tells what happens, and peers that are closed with the test."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from chatkit import Limits, Member, Message, Server
from chatkit.protocol.lines import Line
from chatkit.server.budget import Budget, Share
from chatkit.server.connection import Connection
from tests.helpers.peers import DEADLINE, Peer


def a_share(limits: Limits = Limits()) -> Share:
    """Return a share of a budget with these limits."""
    return Budget(limits).share()


class EventLog:
    """A handler that puts what happens into a queue, so that tests wait for it instead of sleeping."""

    def __init__(self) -> None:
        self.happened: queue.Queue[tuple[str, str]] = queue.Queue()

    def on_join(self, member: Member) -> None:
        self.happened.put(("join", member.name))

    def on_message(self, message: Message) -> Message:
        self.happened.put(("message", str(message)))
        return message

    def on_leave(self, member: Member, reason: str) -> None:
        self.happened.put(("leave", reason))

    def wait_for(self, kind: str) -> str:
        """The next happening of this kind; others before it are passed over."""
        while True:
            happened, what = self.happened.get(timeout=DEADLINE)
            if happened == kind:
                return what


class Reads:
    """The reads of servers in this process: so a test can send bytes that arrive in as many reads as it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._readers: queue.Queue[str] = queue.Queue()
        receive = Connection.receive

        def receive_and_tell(connection: Connection, max_bytes: int, max_lines: int) -> list[Line]:
            lines = receive(connection, max_bytes, max_lines)
            self._readers.put(connection.member.name if connection.member else "")
            return lines

        monkeypatch.setattr(Connection, "receive", receive_and_tell)

    def send(self, peer: Peer, *pieces: bytes, as_member: bool = True) -> None:
        """Send each piece when the server has read the one before; return when it has read the last one."""
        for piece in pieces:
            peer.send(piece)
            self.wait_for(peer.name if as_member else "")

    def wait_for(self, name: str) -> None:
        """Return when the server has read from a member of this name once more; "" stands for a login."""
        while self._readers.get(timeout=DEADLINE) != name:
            pass


class Started:
    """A server of a test, with a log of its events, and peers that are closed when the test ends."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self._stack = stack
        self.tls = options.get("tls") is not None
        self.events = EventLog()
        self.server = stack.enter_context(Server(**{"port": 0, "handler": self.events, **options}))
        self.port = self.server.port

    def peer(self, **options: Any) -> Peer:
        peer = Peer(self.port, tls=self.tls, **options)
        self._stack.callback(peer.close)
        until = time.monotonic() + DEADLINE
        while self.tls and peer.name not in [member.name for member in self.server.members]:
            assert time.monotonic() < until  # the server's side of the handshake ends a moment after ours
        return peer

    def peers(self, number: int) -> list[Peer]:
        return [self.peer() for _ in range(number)]


Serve = Callable[..., Started]
