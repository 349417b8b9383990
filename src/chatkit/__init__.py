"""A chat room that anyone can `pip install`: a server, a client, and a line protocol that `nc` speaks.

from chatkit import Server, Client

with Server(port=0) as server, Client(port=server.port) as ann, Client(port=server.port) as bob:
    ann.send("Hi!")
    print(bob.receive(timeout=1))
"""

from typing import TYPE_CHECKING

from chatkit.errors import (
    ChatError,
    ConnectionClosed,
    HistoryError,
    NameTaken,
    NotConnected,
    PasswordRefused,
    ProtocolError,
)
from chatkit.events import (
    Action,
    Disconnected,
    Error,
    Event,
    Gap,
    Joined,
    Left,
    Message,
    Notice,
    Private,
    Reconnected,
    Renamed,
    Synced,
    Unconfirmed,
    Welcome,
)
from chatkit.limits import Limits
from chatkit.room.batch import Member
from chatkit.server.server import Server
from chatkit.server.stats import Stats

if TYPE_CHECKING:
    from chatkit.client.aio import AsyncClient
    from chatkit.client.client import Client

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
    "HistoryError",
    "Joined",
    "Left",
    "Limits",
    "Member",
    "Message",
    "NameTaken",
    "NotConnected",
    "Notice",
    "PasswordRefused",
    "Private",
    "ProtocolError",
    "Reconnected",
    "Renamed",
    "Server",
    "Stats",
    "Synced",
    "Unconfirmed",
    "Welcome",
    "__version__",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The clients, when somebody asks for one: a server needs none, and asyncio takes longer to load than all of this."""
    if name == "AsyncClient":
        from chatkit.client.aio import AsyncClient

        return AsyncClient
    if name == "Client":
        from chatkit.client.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
