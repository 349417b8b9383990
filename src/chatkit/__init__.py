"""A chat room that anyone can `pip install`: a server, a client, and a line protocol that `nc` speaks.

from chatkit import Server, Client

with Server(port=0) as server, Client(port=server.port) as ann, Client(port=server.port) as bob:
    ann.say("Hi!")
    print(bob.receive(timeout=1))
"""

from importlib import import_module
from typing import TYPE_CHECKING

from chatkit.errors import (
    ChatError,
    ConnectionClosed,
    HistoryError,
    NameTaken,
    NotConnected,
    PasswordRefused,
    ProtocolError,
    Refused,
)
from chatkit.events import (
    Action,
    Disconnected,
    Error,
    Event,
    Gap,
    Joined,
    Left,
    MemberInfo,
    Members,
    Message,
    Notice,
    Private,
    Reconnected,
    Renamed,
    Synced,
    Unconfirmed,
    Welcome,
)
from chatkit.limits import (
    Limits,
)

if TYPE_CHECKING:
    from chatkit.client.aio import AsyncClient
    from chatkit.client.client import Client
    from chatkit.handler import Handler
    from chatkit.history.base import History
    from chatkit.history.memory import MemoryHistory
    from chatkit.history.sqlite.store import SqliteHistory
    from chatkit.room.members import Member
    from chatkit.server.server import Server
    from chatkit.server.stats import Stats

__all__ = [
    "Action",
    "AsyncClient",
    "ChatError",
    "Client",
    "ConnectionClosed",
    "Disconnected",
    "Error",
    "Event",
    "Gap",
    "Handler",
    "History",
    "HistoryError",
    "Joined",
    "Left",
    "Limits",
    "Member",
    "MemberInfo",
    "Members",
    "MemoryHistory",
    "Message",
    "NameTaken",
    "NotConnected",
    "Notice",
    "PasswordRefused",
    "Private",
    "ProtocolError",
    "Reconnected",
    "Refused",
    "Renamed",
    "Server",
    "SqliteHistory",
    "Stats",
    "Synced",
    "Unconfirmed",
    "Welcome",
    "__version__",
]

__version__ = "0.1.0"

# Loaded when asked for: a client needs no server, and asyncio takes longer to load than all of chatkit.
_PLACES = {
    "AsyncClient": "chatkit.client.aio",
    "Client": "chatkit.client.client",
    "Handler": "chatkit.handler",
    "History": "chatkit.history.base",
    "MemoryHistory": "chatkit.history.memory",
    "SqliteHistory": "chatkit.history.sqlite.store",
    "Member": "chatkit.room.members",
    "Server": "chatkit.server.server",
    "Stats": "chatkit.server.stats",
}


def __getattr__(name: str) -> object:
    """Load a public class from its place."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, also those that aren't loaded yet: Tab in a shell completes them."""
    return sorted({*globals(), *__all__})
