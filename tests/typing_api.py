"""The public API as a user's type checker sees it. Checked by mypy, never run."""

from __future__ import annotations

from typing import assert_type

from chatkit import Client, ConnectionClosed, Event, Limits, Member, Message, Notice, Server, Stats


class Handler:
    def on_join(self, member: Member) -> None:
        assert_type(member.name, str)
        assert_type(member.address, tuple[str, int])

    def on_message(self, message: Message) -> Message | None:
        assert_type(message.id, int | None)
        assert_type(message.time, float | None)
        return None if message.text == "x" else message


def use_the_server() -> None:
    with Server("::1", 0, handler=Handler(), limits=Limits(max_clients=5), threads=2) as server:
        assert_type(server, Server)
        assert_type(server.address, tuple[str, int])
        assert_type(server.members, list[Member])
        assert_type(server.stats, Stats)
        server.broadcast("text")
        server.kick("name", "reason")
        server.shutdown(grace=1)


def use_the_client() -> None:
    with Client("localhost", 1, timeout=None) as client:
        assert_type(client, Client)
        client.send("text")
        for event in client:
            assert_type(event, Message | Notice)
        try:
            event = client.receive(timeout=1)
        except ConnectionClosed as closed:
            assert_type(closed.clean, bool)
        assert_type(event, Event)
