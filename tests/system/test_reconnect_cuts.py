"""Clients that come back, cut again and again at random bytes: nothing is missing, nothing comes twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from chatkit import Client, Disconnected, Event, Limits, Message, Reconnected, Unconfirmed
from tests.helpers.peers import DEADLINE
from tests.helpers.proxy import Direction, Link, Proxy
from tests.helpers.servers import Serve

# So many bytes may pass before a cut, less than is said meanwhile: an opening and its answer take some 200 of them.
MOST_BYTES = 400


def cut_at_random_bytes(
    proxy: Proxy, times: int, way: Callable[[Link], Direction], talk: Callable[[], None], cut: Callable[[Link], None]
) -> None:
    """Each connection, one after the other, after some bytes one way; `talk` makes them flow."""
    chance = random.Random(times)
    for _ in range(times):
        link = proxy.next_link()
        direction = way(link)
        direction.stall(chance.randrange(MOST_BYTES))
        talk()
        direction.wait_stalled()
        cut(link)


cuts = pytest.mark.parametrize("cut", [Link.reset, Link.forsake], ids=["reset", "forsake"])


@pytest.mark.usefixtures("at_once")
@cuts
@pytest.mark.parametrize("times", [200, pytest.param(20, marks=pytest.mark.stress)])
def test_a_receiver_misses_nothing(serve: Serve, times: int, cut: Callable[[Link], None]) -> None:
    """Every id once, in order, over so many cuts; each loss is told before its return.

    With `forsake` the old connection hangs each time, and the new one, of another worker perhaps, takes its place.
    """
    started = serve(limits=Limits(history_size=20 * times), threads=2)  # the talk is quicker than who is always cut
    with (
        Proxy(started.port) as proxy,
        Client(port=started.port) as ann,
        Client(port=proxy.port, name="bob", reconnect=True) as bob,
    ):
        events = list[Event]()

        def receive() -> None:
            while not events or events[-1].text != "end":
                events.append(bob.receive(DEADLINE))

        def talk() -> None:
            for number in range(10):
                ann.send(f"{number}")

        receiver = threading.Thread(target=receive)
        receiver.start()
        cut_at_random_bytes(proxy, times, lambda link: link.to_client, talk, cut)
        ann.send("end")
        receiver.join(DEADLINE)
    assert not receiver.is_alive()
    assert [event.id for event in events if isinstance(event, Message)] == list(range(1, times * 10 + 2))
    framing = [type(event) for event in events if isinstance(event, Disconnected | Reconnected)]
    # Fewer than cuts: some come before the return.
    assert framing == [Disconnected, Reconnected] * max(1, len(framing) // 2)
    assert {event.name for event in events if isinstance(event, Reconnected)} == {"bob"}


@pytest.mark.usefixtures("at_once")
@cuts
@pytest.mark.parametrize("times", [100, pytest.param(10, marks=pytest.mark.stress)])
def test_a_sender_knows_which_lines_were_said(serve: Serve, times: int, cut: Callable[[Link], None]) -> None:
    """Each unreported line was said once, in order; nothing is said twice, nor both reported and forgotten."""
    started = serve(threads=2)
    with (
        Proxy(started.port) as proxy,
        Client(port=started.port) as ann,
        Client(port=proxy.port, name="bob", reconnect=True, queue=100_000) as bob,
    ):
        events, heard, sent = list[Event](), list[str](), list[str]()

        def receive() -> None:
            while not events or events[-1].text != "end":
                events.append(bob.receive(DEADLINE))

        def hear() -> None:
            while not heard or heard[-1] != "last":
                heard.append(ann.receive(DEADLINE).text)

        def talk() -> None:
            for _ in range(70):
                sent.append(f"line {len(sent)}")
                bob.send(sent[-1])

        threads = [threading.Thread(target=receive), threading.Thread(target=hear)]
        for thread in threads:
            thread.start()
        cut_at_random_bytes(proxy, times, lambda link: link.to_server, talk, cut)
        bob.send("last")
        threads[1].join(DEADLINE)
        ann.send("end")
        threads[0].join(DEADLINE)
    assert heard.pop() == "last"
    assert len(set(heard)) == len(heard)
    unsure = {event.line for event in events if isinstance(event, Unconfirmed)}
    assert [line for line in heard if line not in unsure] == [line for line in sent if line not in unsure]
    assert [event.text for event in events if isinstance(event, Message) and event.text not in unsure] == ["end"]
