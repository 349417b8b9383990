"""The errors as values: each survives pickle and copy, as between processes."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import ssl
from collections.abc import Callable

import pytest

import chatkit
from chatkit.client.cancel import Cancelled
from chatkit.client.endpoint import NoAnswer
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
from chatkit.history.sqlite.files import DamagedHistory
from chatkit.history.sqlite.locks import TakenHistory
from chatkit.room.hooks import HookFailed
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
    DamagedHistory("chat.db is damaged"),
    TakenHistory("another server keeps its history in chat.db"),
    HookFailed("a hook of the handler raised an exception"),
    Cancelled("by another thread"),
    NoAnswer("timed out"),
]
COPIES: dict[str, Callable[[Exception], Exception]] = {
    **{f"pickle {n}": lambda error, n=n: pickle.loads(pickle.dumps(error, n)) for n in range(6)},  # type: ignore[misc]
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def errors_of(name: str) -> set[type]:
    """Return the classes of exceptions that a module defines."""
    found = vars(importlib.import_module(name)).values()
    return {
        each for each in found if isinstance(each, type) and issubclass(each, Exception) and each.__module__ == name
    }


def test_every_error_has_an_example() -> None:
    """A new class of the library needs one, wherever it is; those of the commands stay in their process."""
    names = [module.name for module in pkgutil.walk_packages(chatkit.__path__, "chatkit.")]
    classes = set().union(*[errors_of(name) for name in names if name.split(".")[1] not in ("cli", "__main__")])
    assert {kind for kind in classes if not kind.__name__.startswith("_")} == {type(error) for error in EXAMPLES}


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
