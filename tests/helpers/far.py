"""Programs for one of two hosts, whose cable is pulled: a room, a member of it, a client of another server.

python -m tests.helpers.far room: a room with a member of its own, which says as many lines as each line of input says.
python -m tests.helpers.far member PORT HABIT: a member that `reads`, or `reads nothing`.
python -m tests.helpers.far client PORT CALL: makes a call when a line of input comes; prints the kind of its result,
the seconds that it took, and the result. CALL is one of CALLS or `asyncio`, then perhaps `, reconnect`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from chatkit import AsyncClient, Client, Event, Handler, Limits, Member, Server, Synced, Welcome
from tests.helpers.inside import is_receiving
from tests.helpers.networks import ADDRESS
from tests.helpers.peers import DEADLINE

UNACKNOWLEDGED_SECONDS = 0.6


def tell(*words: object) -> None:
    print(*words, flush=True)


class Leaves(Handler):
    """Tells who joins, and who leaves, how many seconds after the last lines."""

    def __init__(self) -> None:
        self.said_at = 0.0

    def on_listening(self, address: tuple[str, int]) -> None:
        tell(address[1])

    def on_join(self, member: Member) -> None:
        tell("join", member.address[0])

    def on_leave(self, member: Member, reason: str) -> None:
        tell("leave", member.address[0], reason, time.monotonic() - self.said_at)


def room() -> None:
    handler, limits = Leaves(), Limits(unacknowledged_seconds=UNACKNOWLEDGED_SECONDS, stall_seconds=1000)
    with Server(ADDRESS, 0, handler=handler, limits=limits) as server, Client(*server.address, events=True) as talker:
        for number in sys.stdin:
            handler.said_at = time.monotonic()
            for _ in range(int(number)):
                talker.send("x" * 1000)
            talker.send("/sync")
            while not isinstance(talker.receive(DEADLINE), Synced):
                pass
            tell("said")


def member(port: str, habit: str) -> None:
    with socket.socket() as sock:
        if habit == "reads nothing":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((ADDRESS, int(port)))
        while habit == "reads" and sock.recv(1 << 20):
            pass
        sys.stdin.read()


def tell_end(begun: float, error: Exception | None, event: Event | None = None) -> None:
    result = error or event
    tell(type(result).__name__, time.monotonic() - begun, result)


def answer(client: Client) -> Event:
    client.send("x")
    return client.receive()


def send_now_and_then(client: Client) -> Event:
    while True:
        client.send("x")
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            pass


def send_much(client: Client) -> Event:
    while True:
        client.send("x" * 8000)


def send_while_another_thread_receives(client: Client) -> Event:
    def send() -> None:
        while not is_receiving(client):
            pass
        client.send("x")

    threading.Thread(target=send).start()
    return client.receive()


CALLS: dict[str, Callable[[Client], Event | None]] = {
    "answer": answer,
    "send now and then": send_now_and_then,
    "send much": send_much,
    "send while another thread receives": send_while_another_thread_receives,
}


def client(port: str, call: str, reconnect: bool) -> None:
    """The cable is pulled between the first two lines: `connected`, and one of input."""
    with Client(ADDRESS, int(port), reconnect=reconnect, unacknowledged_seconds=UNACKNOWLEDGED_SECONDS) as client:
        while reconnect and not isinstance(client.receive(DEADLINE), Welcome):
            pass
        tell("connected")
        sys.stdin.readline()
        begun = time.monotonic()
        try:
            tell_end(begun, None, CALLS[call](client))
        except Exception as error:
            tell_end(begun, error)


async def async_client(port: str, reconnect: bool) -> None:
    options: dict[str, Any] = {"reconnect": reconnect, "unacknowledged_seconds": UNACKNOWLEDGED_SECONDS}
    async with AsyncClient(ADDRESS, int(port), **options) as client:
        while reconnect and not isinstance(await client.receive(DEADLINE), Welcome):
            pass
        tell("connected")
        await asyncio.to_thread(sys.stdin.readline)
        begun = time.monotonic()
        try:
            await client.send("x")
            tell_end(begun, None, await client.receive())
        except Exception as error:
            tell_end(begun, error)


def main(program: str, *arguments: str) -> None:
    if program == "room":
        room()
    elif program == "member":
        member(*arguments)
    elif arguments[1].startswith("asyncio"):
        asyncio.run(async_client(arguments[0], "reconnect" in arguments[1]))
    else:
        client(arguments[0], arguments[1].partition(", ")[0], "reconnect" in arguments[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
