"""Run with nothing installed but the wheel: a room, two members, one message."""

from chatkit import Client, Server

with Server(port=0) as server, Client(port=server.port) as ann, Client(port=server.port) as bob:
    ann.send("Hi!")
    assert str(bob.receive(timeout=10)) == f"{ann.address[1]}: Hi!"
print("fine")
