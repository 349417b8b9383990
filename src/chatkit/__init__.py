"""A chat room that anyone can `pip install`: a server, a client, and a line protocol that `nc` speaks.

from chatkit import Server, Client

with Server(port=0) as server, Client(port=server.port) as ann, Client(port=server.port) as bob:
    ann.send("Hi!")
    print(bob.receive(timeout=1))
"""

from chatkit.batch import Member
from chatkit.client import Client
from chatkit.errors import ChatError, ConnectionClosed, ProtocolError
from chatkit.events import Event, Message, Notice
from chatkit.limits import Limits
from chatkit.server import Server
from chatkit.stats import Stats

__all__ = [
    "ChatError",
    "Client",
    "ConnectionClosed",
    "Event",
    "Limits",
    "Member",
    "Message",
    "Notice",
    "ProtocolError",
    "Server",
    "Stats",
    "__version__",
]

__version__ = "0.1.0"
