"""The public API as a user's type checker sees it. Checked by mypy, never run."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from chatkit import (
    Action,
    AsyncClient,
    Client,
    ConnectionClosed,
    Disconnected,
    Error,
    Event,
    Gap,
    Joined,
    Left,
    Limits,
    Member,
    MemberInfo,
    Members,
    Message,
    NotConnected,
    Private,
    Reconnected,
    Refused,
    Renamed,
    Server,
    Stats,
    Unconfirmed,
    Welcome,
)
from chatkit.history.sqlite.store import SqliteHistory
from chatkit.testing import ChatRoom


class Handler:
    def on_join(self, member: Member) -> None:
        assert_type(member.name, str)
        assert_type(member.address, tuple[str, int])

    def on_rename(self, member: Member, old_name: str) -> None:
        assert_type(member.json, bool)

    def on_private(self, message: Private, recipient: Member, member: Member) -> Private | None:
        assert_type(recipient.id, int)
        raise Refused("not here")

    def on_message(self, message: Message) -> Message | None:
        assert_type(message.id, int | None)
        assert_type(message.own, bool)
        assert_type(message.time, float | None)
        return None if message.text == "x" else message


def use_the_server() -> None:
    with Server("::1", 0, handler=Handler(), limits=Limits(max_clients=5), threads=2) as server:
        assert_type(server, Server)
        assert_type(server.address, tuple[str, int])
        assert_type(server.members, list[Member])
        assert_type(server.stats, Stats)
        server.broadcast("text")
        assert_type(server.kick("name", "reason"), list[Member])
        assert_type(server.tell("name", "text"), list[Member])
        assert_type(server.stats.refused, dict[str, int])
        assert_type(server.stats.unstored, int)
        server.shutdown(grace=1)
    Server(history="chat.db", history_required=True, replay=20)
    Server(history=SqliteHistory(Path("chat.db"), keep=1000, days=7.5, sync="full"))


def use_the_client() -> None:
    with Client("localhost", 1, timeout=None) as client:
        assert_type(client, Client)
        client.send("text")
        client.say("text")
        client.act("text")
        client.tell("name", "text")
        client.rename("name")
        assert_type(client.say("text", confirm=True), Message)
        assert_type(client.members(), list[MemberInfo])
        client.leave()
        for event in client:
            assert_type(event, Event)
            assert_type(event.text, str)
            if isinstance(event, Members):
                assert_type(event.members[0].id, int)
                assert_type(event.more, bool)
        try:
            event = client.receive(timeout=1)
        except ConnectionClosed as closed:
            assert_type(closed.clean, bool)
        assert_type(event, Event)


def come_back() -> None:
    with Client(reconnect=True, queue=10) as client:
        assert_type(client.queued, list[str])
        try:
            client.send("text")
        except NotConnected as error:
            assert_type(error, NotConnected)
        for event in client:
            match event:
                case Reconnected(name=name, new_epoch=anew):
                    assert_type(name, str)
                    assert_type(anew, bool)
                case Unconfirmed(line=line) | Disconnected(text=line):
                    assert_type(line, str)


async def use_asyncio() -> None:
    async with Server(port=0, announce=True) as server:
        assert_type(server, Server)
        async with AsyncClient(port=server.port, name="ada", events=True, echo=True, after=0) as client:
            assert_type(client, AsyncClient)
            await client.send("text")
            await client.say("text")
            assert_type(await client.say("text", confirm=True), Message)
            assert_type(await client.members(), list[MemberInfo])
            assert_type(await client.receive(timeout=1), Event)
            async for event in client:
                match event:
                    case Action(id=number) | Message(id=number):
                        assert_type(number, int | None)
                    case Error(code=code):
                        assert_type(code, str)
                    case Gap(missing=missing) | Welcome(newest=missing):
                        assert_type(missing, int)
                    case Joined(name=name) | Left(name=name) | Renamed(old=name) | Private(sender=name):
                        assert_type(name, str)


def test_with_fixtures(chat_room: ChatRoom, chat_server: Server) -> None:
    ann, bob = chat_room.join(2)
    assert_type(bob.expect("text", sender=ann), Event)
    bob.expect_nothing()
