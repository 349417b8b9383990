"""Pages of earlier messages."""

from __future__ import annotations

from chatkit import Message
from chatkit.protocol.formats import JSON
from chatkit.room.pages import PageRequest, Pages


def test_a_page_with_own_messages_is_for_one_reader() -> None:
    """It has no message that is left out, marks the reader's own, and isn't kept for others; theirs is as before."""
    pages, said = Pages(10), [Message("ann", str(number), number, 0.0) for number in range(1, 5)]
    pages.append(said)
    shared, own = PageRequest(0, 4, 1000, JSON), PageRequest(0, 4, 1000, JSON, exclude=[(1, 2)], own=[(3, 3)])
    got = list[bytes]()
    for request in (shared, own, own, shared):
        pages.read(request, lambda lines, upto: got.append(lines))
    marked = Message("ann", "3", 3, 0.0, own=True)
    assert got == [JSON.encode(*said), *[JSON.encode(marked, said[3])] * 2, JSON.encode(*said)]
    pages.append([Message("ann", "5", 5, 0.0)])
    for request in (own, shared):
        pages.read(request, lambda lines, upto: got.append(lines))
    assert got[4:] == got[2:4]
