"""The hooks of a room, for a program to override."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from chatkit.events import Message, Private
from chatkit.net.sockets import Address
from chatkit.room.hooks import arguments_taken
from chatkit.room.members import Member


class Handler:
    """A base class with one no-op method per hook: override some.

    An object of another class with some of these methods works as well. There a method may leave out its last
    arguments, as in `def on_message(self, message)`.

    Attributes:
        dropped: the number of lines that the handler lost, such as lines of a transcript; `Server.stats` includes it.

    Error handling: `raise chatkit.Refused(reason)` refuses that join, message, private message or name, and tells the
    member so. Any other exception in a hook, SystemExit included, is logged (logger `chatkit`) and ends the
    conversation of that member, nothing else; one in `on_join` refuses the connection. A leave can't be refused. An
    exception in `on_listening` is raised by `Server.start`.

    Threads: hooks are called in the server's threads, one at a time, in the room's order, while the room waits: keep
    them quick. (`on_listening` is called in the thread that calls `start`.) They may call `broadcast`, `tell`, `kick`,
    `members` and `stats` of the server, but not `start` or `shutdown`.
    """

    dropped: int = 0

    def on_listening(self, address: Address) -> None:
        """Handle the start of the server; called once, before the first connection.

        Args:
            address: the (host, port) that the server listens on.
        """

    def on_join(self, member: Member) -> None:
        """Handle a new member, before it receives anything.

        Args:
            member: the member; its name is its port until it takes another one. Its `id` stays.

        Raises:
            Refused: the connection ends, with the reason as its last line.
        """

    def on_message(self, message: Message, member: Member) -> Message | None:
        """Check or change a message before any member receives it.

        Args:
            message: a `Message`, or an `Action` (`/me`). Its `id` is None: it is given when the message is published.
            member: the member that sent it.

        Returns:
            The message, one with another text, or None to drop it without a word.

        Raises:
            Refused: the message is dropped, and its sender told the reason.
        """
        return message

    def on_private(self, message: Private, recipient: Member, member: Member) -> Private | None:
        """Check or change a private message (`/msg`) before its recipient receives it.

        Args:
            message: the message.
            recipient: the member that it is for.
            member: the member that sent it.

        Returns:
            The message, one with another text, or None to drop it without a word.

        Raises:
            Refused: the message is dropped, and its sender told the reason.
        """
        return message

    def on_rename(self, member: Member, old_name: str) -> None:
        """Handle the new name of a member, before any other member knows it.

        Args:
            member: the member, with its new name.
            old_name: its name before.

        Raises:
            Refused: the member keeps its old name, and is told the reason.
        """

    def on_leave(self, member: Member, reason: str) -> None:
        """Handle the end of a member's conversation.

        Args:
            member: the member, which is no longer in the room.
            reason: `exit`, `end of stream`, `connection reset`, `slow consumer`, `shutdown` ...
        """


HOOKS = tuple(name for name in vars(Handler) if name.startswith("on_"))


def check_handler(handler: object) -> None:
    """Check that the server can call the hooks of a handler.

    Raises:
        TypeError: the handler is a class, or one of its hooks is misspelled, takes other arguments, or is a coroutine
            function.
    """
    if isinstance(handler, type):
        raise TypeError(f"the handler is the class {handler.__name__}, not an instance: pass {handler.__name__}()")
    for name in dir(handler):
        if not name.startswith("on_") or not callable(hook := getattr(handler, name)):
            continue
        if name not in HOOKS:
            raise TypeError(f"the handler has a method {name}, which is not a hook; {_nearest(name)}")
        if inspect.iscoroutinefunction(hook):
            raise TypeError(
                f"the handler's {name} is a coroutine function; hooks run in threads: write `def`, not `async def`"
            )
        _check_arguments(name, hook)


def _check_arguments(name: str, hook: Callable[..., object]) -> None:
    """Check that a hook takes its arguments, or the first of them."""
    arguments = list(inspect.signature(getattr(Handler, name)).parameters)[1:]
    try:
        inspect.signature(hook).bind(*arguments[: arguments_taken(hook)])
    except TypeError:
        raise TypeError(f"the handler's {name} doesn't take the arguments ({', '.join(arguments)})") from None
    except ValueError:
        pass  # a built-in function without a signature


def _nearest(name: str) -> str:
    """Return a hint for a misspelled hook."""
    from difflib import get_close_matches  # only for an error

    if near := get_close_matches(name, HOOKS, 1, 0.75):
        return f"did you mean {near[0]}?"
    return f"the hooks are {', '.join(HOOKS)}"
