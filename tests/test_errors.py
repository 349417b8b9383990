"""The errors as values: each survives pickle and copy, as between processes."""

from __future__ import annotations

import copy
import pickle
import ssl
from collections.abc import Callable

import pytest

from chatkit import errors
from chatkit.errors import (
    ChatError,
    ConnectionClosed,
    HistoryError,
    JoinRefused,
    NameTaken,
    NotConnected,
    PasswordRefused,
    ProtocolError,
    Refused,
)
from chatkit.tls import WrongCertificate

EXAMPLES: list[Exception] = [
    ChatError("anything"),
    ProtocolError("the server sent a line that isn't an event"),
    ConnectionClosed("the server ended the conversation", clean=True),
    ConnectionClosed("Connection reset by peer", clean=False),
    NotConnected("the connection is lost"),
    JoinRefused("full", "the room is full"),
    NameTaken("ada"),
    Refused("no links"),
    Refused("longer than 8192 bytes", "too_long"),
    PasswordRefused("wrong password"),
    HistoryError("chat.db can't be read"),
    WrongCertificate("0f" * 32),
]
COPIES: dict[str, Callable[[Exception], Exception]] = {
    **{f"pickle {n}": lambda error, n=n: pickle.loads(pickle.dumps(error, n)) for n in range(6)},  # type: ignore[misc]
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def test_every_error_has_an_example() -> None:
    """A new class in chatkit.errors needs one."""
    classes = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ChatError)}
    assert classes == {type(error) for error in EXAMPLES} - {WrongCertificate}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_a_copy(error: Exception, how: str) -> None:
    """Its type, words, arguments, attributes and notes are the same."""
    error.__notes__ = ["seen by a worker process"]
    found = COPIES[how](error)
    assert type(found) is type(error)
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))


def test_a_wrong_certificate_is_still_what_ssl_raises() -> None:
    """After a copy, too."""
    assert isinstance(pickle.loads(pickle.dumps(WrongCertificate("0f" * 32))), ssl.SSLCertVerificationError)
