"""A committer without a server: kept first, then handed out."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit import Limits, Message
from chatkit.protocol.formats import TEXT, encode_text
from chatkit.room import committer
from chatkit.room.batch import Batch, Encoded, Item, Subscribe
from chatkit.room.committer import Committer
from chatkit.room.pages import Pages
from tests.helpers.histories import Scripted
from tests.helpers.inside import next_retry, recover
from tests.helpers.peers import DEADLINE


def batch(*messages: Message) -> Batch:
    return Batch({TEXT: Encoded(encode_text(*messages))}, messages=list(messages))


def test_kept_then_handed_out(store: Scripted) -> None:
    """In that order, for every group; a switch stays where it was between the messages."""
    committing, order = Committer(store, Limits(), required=False), list[Any]()
    done = threading.Event()

    def subscriber(item: Item) -> None:
        assert isinstance(item, Batch | Subscribe)
        assert store.newest_id >= len([entry for entry in order if entry != "switch"]) + isinstance(item, Batch)
        order.append("switch" if isinstance(item, Subscribe) else item.lines(TEXT).data)
        if len(order) == 4:
            done.set()

    committing.attach(Pages(10, store), subscriber)
    committing.start(print)
    member: Any = None
    for number in (1, 2, 3):
        message = Message("ada", str(number), number, 0.0)
        committing.put(batch(message))
        if number == 2:
            committing.put(Subscribe(member, TEXT))
    assert done.wait(DEADLINE)
    committing.end(DEADLINE)
    assert order == [b"ada: 1\n", b"ada: 2\n", "switch", b"ada: 3\n"]


def test_trouble_that_comes_back_is_tried_less_often(store: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full mustn't fill the log: a second, then 2, 4 ... 30; a minute of calm begins anew."""
    monkeypatch.setattr(committer, "RETRY_SECONDS", 1.0)
    now = 1000.0
    monkeypatch.setattr(committer, "time", SimpleNamespace(monotonic=lambda: now))
    committing = Committer(store, Limits(), required=False)
    waits = [next_retry(committing)]
    for _ in range(6):
        recover(committing, now)
        waits.append(next_retry(committing))
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    now += 60
    assert next_retry(committing) == 1
