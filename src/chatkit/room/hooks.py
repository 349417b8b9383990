"""The hooks of a handler, as the room calls them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any, TypeVar

from chatkit.errors import Refused
from chatkit.events import Message, Private
from chatkit.protocol.formats import clean_text
from chatkit.protocol.sanitize import clean
from chatkit.room.members import Member

logger = logging.getLogger("chatkit")

Text = TypeVar("Text", Message, Private)
Hook = Callable[..., Any]


# What a hook raises ends one conversation, whatever it is: SystemExit or asyncio's CancelledError would end the thread,
# and with it the server. No Ctrl-C is lost: it goes to the main thread, and hooks run in threads of the server.
# `on_listening` runs in the caller's thread, and so isn't called here.


class HookFailed(Exception):
    """An exception in a hook; its traceback is in the log."""


class Hooks:
    """The hooks of `handler`. A missing one lets everything pass.

    Each method raises `Refused` if the hook does, with a text that can be sent; and `HookFailed` if the hook raises any
    other exception, SystemExit and its like included. A leave can't be refused.
    """

    def __init__(self, handler: object) -> None:
        self._on_join = hook_of(handler, "on_join", 1)
        self._on_message = hook_of(handler, "on_message", 2)
        self._on_private = hook_of(handler, "on_private", 3)
        self._on_rename = hook_of(handler, "on_rename", 2)
        self._on_leave = hook_of(handler, "on_leave", 2)

    def on_join(self, member: Member) -> None:
        if self._on_join:
            try:
                self._on_join(member)
            except BaseException as error:
                raise _failure(error, "on_join", member) from None

    def on_message(self, message: Message, member: Member) -> Message | None:
        """Return the message to publish, perhaps with another text, or None if the handler drops it."""
        if not self._on_message:
            return message
        try:
            result = self._on_message(message, member)
            return message if result is message else _checked(result, message, Message)
        except BaseException as error:
            raise _failure(error, "on_message", member) from None

    def on_private(self, message: Private, recipient: Member, member: Member) -> Private | None:
        """Return the private message to deliver, as `on_message`."""
        if not self._on_private:
            return message
        try:
            result = self._on_private(message, recipient, member)
            return message if result is message else _checked(result, message, Private)
        except BaseException as error:
            raise _failure(error, "on_private", member) from None

    def on_rename(self, member: Member, old_name: str) -> None:
        if self._on_rename:
            try:
                self._on_rename(member, old_name)
            except BaseException as error:
                raise _failure(error, "on_rename", member) from None

    def on_leave(self, member: Member, reason: str) -> None:
        if self._on_leave:
            try:
                self._on_leave(member, reason)
            except BaseException as error:
                raise _failure(error, "on_leave", member, may_refuse=False) from None


def hook_of(handler: object, name: str, number: int) -> Hook | None:
    """Return a hook, or None. Call it with `number` arguments: it gets as many of them as it takes."""
    hook: Hook | None = getattr(handler, name, None)
    taken = number if hook is None else arguments_taken(hook)
    if hook is None or taken >= number:
        return hook
    return lambda *arguments: hook(*arguments[:taken])


def arguments_taken(hook: Hook) -> int:
    """Return how many arguments a hook takes by position; `sys.maxsize` if there is no end, or it isn't known."""
    try:
        kinds = [parameter.kind for parameter in signature(hook).parameters.values()]
    except ValueError:  # some built-in functions have no signature
        return sys.maxsize
    if Parameter.VAR_POSITIONAL in kinds:
        return sys.maxsize
    return sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def _checked(result: object, given: Text, kind: type[Text]) -> Text | None:
    """Return the result of a hook as it can be sent: only its text counts."""
    if result is None:
        return None
    if not isinstance(result, kind):
        raise TypeError(f"the hook returned {result!r}, not a {kind.__name__} or None")
    text = clean(result.text)
    text.encode()  # a lone surrogate can't be sent: it is an error of the handler
    return replace(given, text=text) if text else None


def _failure(error: BaseException, hook: str, member: Member, *, may_refuse: bool = True) -> Refused | HookFailed:
    """Return the exception to raise for one that a hook raised, which is logged unless it is a refusal."""
    if isinstance(error, Refused) and may_refuse:
        try:
            return Refused(clean_text(error.reason))
        except (TypeError, ValueError):
            pass  # a reason that can't be sent: the traceback says where it comes from
    logger.error("the hook %s failed for %s", hook, member.name, exc_info=error)
    return HookFailed()
