"""The hooks of a handler, as the room calls them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from chatkit.events import Message
from chatkit.protocol.sanitize import clean
from chatkit.room.members import Member

logger = logging.getLogger("chatkit")


# What a hook raises ends one conversation, whatever it is: SystemExit or asyncio's CancelledError would end the thread,
# and with it the server. No Ctrl-C is lost: it goes to the main thread, and hooks run in threads of the server.
# `on_listening` runs in the caller's thread, and so isn't called here.


class HookFailed(Exception):
    """An exception in a hook; its traceback is in the log."""


class Hooks:
    """The hooks of `handler`. A missing one lets everything pass.

    Each method raises `HookFailed` if the hook raises an exception, SystemExit and its like included.
    """

    def __init__(self, handler: object) -> None:
        self._on_join = getattr(handler, "on_join", None)
        self._on_message = getattr(handler, "on_message", None)
        self._on_rename = getattr(handler, "on_rename", None)
        self._on_leave = getattr(handler, "on_leave", None)

    def on_join(self, member: Member) -> None:
        self._call(self._on_join, member)

    def on_message(self, message: Message) -> Message | None:
        """Return the message to publish, perhaps with another text, or None if the handler refuses it."""
        if not self._on_message:
            return message
        try:
            result = self._on_message(message)
            if result is message or result is None:
                return message if result else None
            if not isinstance(result, Message):
                raise TypeError(f"on_message returned {result!r}, not a Message or None")
            text = clean(result.text)
            text.encode()  # a lone surrogate can't be sent: it is an error of the handler
        except BaseException:
            raise _failed() from None
        return replace(message, text=text) if text else None

    def on_rename(self, member: Member, old_name: str) -> None:
        self._call(self._on_rename, member, old_name)

    def on_leave(self, member: Member, reason: str) -> None:
        self._call(self._on_leave, member, reason)

    @staticmethod
    def _call(hook: Callable[..., Any] | None, *arguments: object) -> None:
        try:
            if hook:
                hook(*arguments)
        except BaseException:
            raise _failed() from None


def _failed() -> HookFailed:
    logger.exception("a hook of the handler raised an exception")
    return HookFailed()
