"""`Client` and `Server` over a network that splits, stalls, half-closes and resets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from chatkit import Client, ConnectionClosed, Limits, Message, Notice
from tests.helpers.peers import DEADLINE
from tests.helpers.proxy import Link, Proxy
from tests.helpers.servers import Serve, Started

Join = Callable[[Started], tuple[Client, Link]]


@pytest.fixture
def join() -> Iterator[Join]:
    """join(started) gives a client that is connected through a proxy, and its link."""
    with ExitStack() as stack:

        def connect(started: Started) -> tuple[Client, Link]:
            proxy = stack.enter_context(Proxy(started.port))
            client = stack.enter_context(Client(port=proxy.port))
            return client, proxy.link_of(client)

        yield connect


def receive(client: Client, number: int) -> list[object]:
    return [client.receive(DEADLINE) for _ in range(number)]


def test_single_bytes_make_the_same_lines(serve: Serve, join: Join) -> None:
    """One byte at a time, in both directions, text of one to four bytes a character: the same lines in order."""
    started = serve()
    (ann, ann_link), (bob, bob_link) = join(started), join(started)
    for link in (ann_link, bob_link):
        link.to_server.split(1)
        link.to_client.split(1)
    texts = [f"{number} é € 𝄞 e\u0301 \ufeff 日本語" for number in range(40)]
    for text in texts:
        ann.send(text)
        bob.send(text[::-1])
    assert receive(bob, len(texts)) == [Message(ann_link.name, text) for text in texts]
    assert receive(ann, len(texts)) == [Message(bob_link.name, text[::-1]) for text in texts]
    sent = sum(len(f"{text}\n".encode()) for text in texts)
    for direction in (ann_link.to_server, bob_link.to_server):
        assert direction.passed() == (sent, sent)
    received = sum(len(f"{ann_link.name}: {text}\n".encode()) for text in texts)
    assert bob_link.to_client.passed() == (received, received)


@pytest.mark.parametrize("piece_bytes", [2, 3, 7])
def test_any_pieces_make_the_same_lines(serve: Serve, join: Join, piece_bytes: int) -> None:
    """Pieces that end inside of characters and hold parts of two lines change nothing either."""
    started = serve()
    (ann, ann_link), (bob, bob_link) = join(started), join(started)
    ann_link.to_server.split(piece_bytes)
    bob_link.to_client.split(piece_bytes)
    texts = [text for number in range(20) for text in (f"{number}", "𝄞" * number, "é") if text]
    for text in texts:
        ann.send(text)
    assert receive(bob, len(texts)) == [Message(ann_link.name, text) for text in texts]


def test_a_stalled_member_delays_nobody(serve: Serve, join: Join) -> None:
    """While nothing reaches one member the others get every line; after that, it gets every line too."""
    started = serve()
    (ann, ann_link), (bob, _), (carol, carol_link) = join(started), join(started), join(started)
    ann.send("before")
    assert receive(carol, 1) == receive(bob, 1) == [Message(ann_link.name, "before")]
    carol_link.to_client.stall()
    said = [Message(ann_link.name, f"{number} {'x' * 990}") for number in range(3000)]
    for begin in range(0, len(said), 100):
        block = said[begin : begin + 100]
        for message in block:
            ann.send(message.text)
        assert receive(bob, len(block)) == block
    carol.send("I hear nothing")
    assert receive(bob, 1) == receive(ann, 1) == [Message(carol_link.name, "I hear nothing")]
    with pytest.raises(TimeoutError):
        carol.receive(0)
    carol_link.to_client.resume()
    assert receive(carol, len(said)) == said
    assert started.server.stats.slow_consumers == 0


def test_a_stalled_sender_delays_nobody(serve: Serve, join: Join) -> None:
    """Half a line that doesn't come on holds up its sender alone, and arrives whole in the end."""
    started = serve()
    (ann, ann_link), (bob, bob_link), (carol, _) = join(started), join(started), join(started)
    ann_link.to_server.stall(after=3)
    ann.send("one line")
    ann_link.to_server.wait_stalled()
    bob.send("meanwhile")
    assert receive(carol, 1) == receive(ann, 1) == [Message(bob_link.name, "meanwhile")]
    ann_link.to_server.resume()
    assert receive(carol, 1) == receive(bob, 1) == [Message(ann_link.name, "one line")]


@pytest.mark.parametrize("who", ["client", "network"])
def test_a_half_closed_client_hears_the_answer(serve: Serve, join: Join, who: str) -> None:
    """After the end of what it sends, it still gets what was said before and the answer, then a clean end."""
    started = serve(limits=Limits(max_line_bytes=8))
    (ann, ann_link), (bob, bob_link) = join(started), join(started)
    ann_link.to_client.stall()
    bob.send("hello")
    assert started.events.wait_for("message") == f"{bob_link.name}: hello"
    ann.send("more than eight")
    if who == "client":
        ann.send_eof()
    else:
        ann.send("ok")
        assert receive(bob, 1) == [Message(ann_link.name, "ok")]
        ann_link.to_server.half_close()
    assert started.events.wait_for("leave") == "end of stream"
    ann_link.to_client.resume()
    assert list(ann) == [Message(bob_link.name, "hello"), Notice("not sent: longer than 8 bytes")]


def test_a_reset_in_a_received_line(serve: Serve, join: Join) -> None:
    """The receiver gets the whole lines, then ConnectionClosed that isn't clean, and no half line, ever."""
    started = serve()
    (ann, ann_link), (bob, bob_link), (carol, _) = join(started), join(started), join(started)
    whole = Message(ann_link.name, "whole")
    bob_link.to_client.stall(after=len(f"{whole}\n{ann_link.name}: ha"))
    ann.send("whole")
    ann.send("half")
    bob_link.to_client.wait_stalled()
    assert receive(bob, 1) == [whole]
    with pytest.raises(TimeoutError):  # it has read the half line, and keeps it to itself
        bob.receive(0)
    bob_link.reset()
    for _ in range(2):
        with pytest.raises(ConnectionClosed, match="reset") as caught:
            bob.receive(DEADLINE)
        assert not caught.value.clean
    assert started.events.wait_for("leave") == "connection reset"
    ann.send("on")
    assert receive(carol, 3) == [Message(ann_link.name, text) for text in ("whole", "half", "on")]


def test_a_reset_in_a_sent_line(serve: Serve, join: Join) -> None:
    """The room gets the whole lines before, never the half; its sender hears that it broke; others go on."""
    started = serve()
    (ann, ann_link), (bob, bob_link), (carol, carol_link) = join(started), join(started), join(started)
    ann_link.to_server.stall()
    ann.send("whole")
    ann.send("half")
    ann_link.to_server.stall(after=len("whole\nha"))  # in one piece: who has heard `whole` has read `ha`
    ann_link.to_server.wait_stalled()
    assert receive(carol, 1) == receive(bob, 1) == [Message(ann_link.name, "whole")]
    ann_link.reset()
    assert started.events.wait_for("leave") == "connection reset"
    with pytest.raises(ConnectionClosed, match="reset") as caught:
        ann.receive(DEADLINE)
    assert not caught.value.clean
    bob.send("on")
    assert receive(carol, 1) == [Message(bob_link.name, "on")]
    carol.send("and on")
    assert receive(bob, 1) == [Message(carol_link.name, "and on")]
    assert started.server.stats.messages == 3
