"""What can go wrong, and whose fault it was.

    ChatError
     +-- ProtocolError       the other side sent what the protocol doesn't allow
     +-- ConnectionClosed    the conversation is over
     +-- NotConnected        the connection is lost for now; nothing was sent
     +-- JoinRefused         the room doesn't take this connection
     +-- NameTaken           another member has that name
     +-- PasswordRefused     the room asks for a password, and this isn't it
     +-- HistoryError        what was said can't be kept, or told again

A mistake of the caller is a `ValueError` or `TypeError`; an `OSError` passes through untouched.
"""

from __future__ import annotations


class ChatError(Exception):
    """The root of chatkit's own errors."""


class ProtocolError(ChatError):
    """The other side sent what the protocol doesn't allow."""


class ConnectionClosed(ChatError):
    """The conversation is over.

    reason: what ended it, in words.
    clean: True when one side ended it in order, False when it broke (reset, timeout, half a line).
    """

    def __init__(self, reason: str, *, clean: bool) -> None:
        super().__init__(reason, clean)
        self.reason = reason
        self.clean = clean

    def __str__(self) -> str:
        return self.reason


class NotConnected(ChatError):
    """A line wasn't sent: a client that reconnects is away, and has no place left to keep it.

    reason: why, in words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not sent: {self.reason}"


class JoinRefused(ChatError):
    """The room doesn't take this connection.

    code: a stable word (`full`, `address`, `handler`), also the key in `Stats.refused`.
    reason: what the refused peer is told.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class NameTaken(ChatError):
    """Another member has that name, or one that differs only in case."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"the name {self.name} is taken"


class PasswordRefused(ChatError):
    """The room asks for a password, and got none or a wrong one."""


class HistoryError(ChatError):
    """What was said can't be kept, or told again; the text says why."""
