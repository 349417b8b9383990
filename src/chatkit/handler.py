"""The hooks of a room, as a program writes them."""

from __future__ import annotations

import inspect

from chatkit.events import Message
from chatkit.net.sockets import Address
from chatkit.room.members import Member


class Handler:
    """A base class whose hooks let everything pass: override some. An object with some of these methods does as well.

    Hooks are called one at a time, in the room's order, while the room waits: keep them quick. They may use the
    server, but not start it or shut it down.

    Error handling: a hook that raises is logged (logger `chatkit`) and ends the conversation of that member, nothing else.

    Attributes:
        dropped: lines that the handler could not keep, such as those of a transcript; `Server.stats` tells it.
    """

    dropped: int = 0

    def on_listening(self, address: Address) -> None:
        """Called once, before the first connection, with (host, port)."""

    def on_join(self, member: Member) -> None:
        """Called when a connection becomes a member."""

    def on_message(self, message: Message) -> Message | None:
        """Called for each message, or `Action` (`/me`), before anyone gets it. Its `id` is given when it is published.

        Returns:
            The message, one with another text, or None to refuse it.
        """
        return message

    def on_rename(self, member: Member, old_name: str) -> None:
        """Called after a member has taken another name."""

    def on_leave(self, member: Member, reason: str) -> None:
        """Called when a member is gone: `exit`, `end of stream`, `connection reset`, `slow consumer`, `shutdown` ..."""


HOOKS = tuple(name for name in vars(Handler) if name.startswith("on_"))


def check_handler(handler: object) -> None:
    """Check that the room can call the hooks of a handler.

    Raises:
        TypeError: the handler is a class, or has a hook that is misspelled or a coroutine.
    """
    if isinstance(handler, type):
        raise TypeError(f"the handler is the class {handler.__name__}, not an object of it: write {handler.__name__}()")
    for name in dir(handler):
        if not name.startswith("on_") or not callable(hook := getattr(handler, name)):
            continue
        if name not in HOOKS:
            raise TypeError(f"the handler has {name}, which is no hook; {_nearest(name)}")
        if inspect.iscoroutinefunction(hook):
            raise TypeError(
                f"the handler's {name} is a coroutine; the room calls hooks in its threads, without asyncio"
            )


def _nearest(name: str) -> str:
    from difflib import get_close_matches  # only for an error

    if near := get_close_matches(name, HOOKS, 1, 0.75):
        return f"is it {near[0]}?"
    return f"the hooks are {', '.join(HOOKS)}"
