"""What chat-client shows, without a server: lines that come without a pause are one write."""

from __future__ import annotations

from collections import deque
from typing import cast

import pytest

from chatkit import Client, ConnectionClosed, Event, Message
from chatkit.cli.client import output as module
from chatkit.cli.client.output import BATCH_EVENTS, JsonOutput, LineBatch, Output, TextOutput
from chatkit.cli.client.roster import Roster
from chatkit.cli.client.screen import Painter


class Replay:
    """A client that has these events, and then an end."""

    def __init__(self, events: list[Event]) -> None:
        self._events = deque(events)
        self._is_quiet = False

    def receive(self, timeout: float) -> Event:
        if self._events:
            return self._events.popleft()
        if timeout == 0 and not self._is_quiet:
            self._is_quiet = True
            raise TimeoutError
        raise ConnectionClosed("the end", clean=True)


@pytest.mark.parametrize("output", [TextOutput(Painter(Roster("1")), LineBatch(), None), JsonOutput()])
def test_a_batch_is_one_write(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when no event waits, when it is large, and with the conversation; nothing is lost."""
    writes = list[str]()
    monkeypatch.setattr(module, "write_out", writes.append)
    replay = Replay([Message("ann", f"{number}") for number in range(BATCH_EVENTS + 10)])
    shown = 0

    def show_all() -> None:
        nonlocal shown
        while True:
            output.show(output.receive(cast(Client, replay), 1))
            shown += 1

    with pytest.raises(ConnectionClosed):
        show_all()
    assert shown == BATCH_EVENTS + 10
    assert "".join(writes).count("\n") == shown
    assert [write.count("\n") for write in writes] == [BATCH_EVENTS - 1, 11]
