"""Handlers that a server takes, and refuses."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit import Handler, Member, Message, Server
from tests.helpers.servers import Serve


class Misspelled(Handler):
    def on_mesage(self, message: Message) -> Message:
        return message


class Coroutine(Handler):
    async def on_join(self, member: Member) -> None:  # type: ignore[override]
        pass


class Greedy(Handler):
    def on_message(self, message: Message, member: Member, mood: str) -> Message:  # type: ignore[override]
        return message


class Named(Handler):
    def on_leave(self, member: Member, *, reason: str) -> None:  # type: ignore[override]
        pass


class Other:
    def on_weather(self) -> None:
        pass


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (Misspelled(), "has a method on_mesage, which is not a hook; did you mean on_message?"),
        (Coroutine(), "on_join is a coroutine function"),
        (Greedy(), "on_message doesn't take the arguments (message, member)"),
        (Named(), "on_leave doesn't take the arguments (member, reason)"),
        (Other, "the class Other, not an instance: pass Other()"),
        (Other(), "has a method on_weather, which is not a hook; the hooks are on_listening, on_join, on_message"),
    ],
)
def test_a_handler_that_cannot_be_called_is_refused(handler: object, words: str) -> None:
    """When the server is made, with one clear TypeError."""
    with pytest.raises(TypeError, match=re.escape(words)):
        Server(port=0, handler=handler)


def test_any_object_with_hooks_is_a_handler(serve: Serve) -> None:
    """A namespace with one hook, and a `Handler` without any of its own."""
    seen = list[str]()
    for handler in (SimpleNamespace(on_join=lambda member: seen.append(member.name)), Handler()):
        started = serve(handler=handler)
        ann, bob = started.peers(2)
        ann.send(b"hi\n")
        assert bob.line() == f"{ann.name}: hi".encode()
        if not isinstance(handler, Handler):
            assert sorted(seen) == sorted([ann.name, bob.name])


def test_a_hook_gets_as_many_arguments_as_it_takes(serve: Serve) -> None:
    """The first of them, or all; a built-in function does, too."""
    seen = list[tuple[Any, ...]]()

    class Handler:
        on_join = staticmethod(lambda: seen.append(("join",)))
        on_private = staticmethod(lambda *arguments: seen.append(arguments))
        on_message = staticmethod(lambda message: seen.append((message.text,)))
        on_leave = staticmethod(max)

    ann, bob = serve(handler=Handler()).peers(2)
    ann.send(b"hi\n/msg " + bob.name.encode() + b" psst\n/sync\n")
    ann.line()
    assert seen[:3] == [("join",), ("join",), ("hi",)]
    message, recipient, member = seen[3]
    assert (message.text, recipient.name, member.name) == ("psst", bob.name, ann.name)
