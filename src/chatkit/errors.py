"""The errors of chatkit, sorted by whose fault they are.

    ChatError
     +-- ProtocolError       the other side broke the protocol
     +-- ConnectionClosed    the conversation is over
     +-- NotConnected        the connection is lost for now; nothing was sent
     +-- JoinRefused         the room doesn't admit this connection
     +-- NameTaken           another member has the name
     +-- Refused             the room's program, or its history, doesn't let a line, a name or a member pass
     +-- PasswordRefused     the room needs a password, and got none or a wrong one
     +-- HistoryError        the history can't keep or read messages

A mistake of the caller is a `ValueError` or `TypeError`. An `OSError` passes through unchanged. All of these errors can
be pickled.
"""

from __future__ import annotations

from functools import partial


class ChatError(Exception):
    """The base class of chatkit's own errors."""


class ProtocolError(ChatError):
    """Data from the other side that the protocol doesn't allow."""


class ConnectionClosed(ChatError):
    """The end of a conversation.

    Attributes:
        reason: why it ended, in words.
        clean: True if one side ended it in order, False if it broke: by a reset, a timeout or half a line.
    """

    def __init__(self, reason: str, *, clean: bool) -> None:
        super().__init__(reason, clean)
        self.reason = reason
        self.clean = clean

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickle and copy, which by default pass every argument by position."""
        return partial(type(self), clean=self.clean), (self.reason,), self.__dict__


class NotConnected(ChatError):
    """A line that was not sent, because the connection is lost for now and the client's queue is full or absent.

    Attributes:
        reason: why, in words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not sent: {self.reason}"


class JoinRefused(ChatError):
    """A connection that the room doesn't admit.

    Attributes:
        code: a stable word, `full`, `address`, `refused` or `handler`; also the key in `Stats.refused`.
        reason: the same in words, for the refused peer.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class NameTaken(ChatError):
    """A name that another member has, perhaps in other case.

    Attributes:
        name: the name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"the name {self.name} is taken"


class Refused(ChatError):
    """A line, a name or a member that the room doesn't let pass.

    A hook raises it to refuse, and `say(text, confirm=True)` raises it for a line that was refused.

    Attributes:
        reason: why, in words. The member that it concerns is told.
        code: a stable word for programs, such as `refused` (by a hook) or `not_kept`; docs/protocol.md lists them.
    """

    def __init__(self, reason: str, code: str = "refused") -> None:
        super().__init__(reason, code)
        self.reason = reason
        self.code = code

    def __str__(self) -> str:
        return self.reason


class PasswordRefused(ChatError):
    """A missing or wrong password for the room."""


class HistoryError(ChatError):
    """Messages that the history can't keep or read; the text says why."""
