"""Chat servers of other kinds, as beginners write them. Each talks to one client until its end of stream."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.helpers.peers import DEADLINE

Talk = Callable[[socket.socket], None]


def no_line_ends(sock: socket.socket) -> None:
    """It sends text as it is, and takes each read for a message."""
    sock.sendall(b"Welcome")
    while data := sock.recv(1024):
        sock.sendall(b"Server got: " + data.strip())
    sock.sendall(b"Bye")


def ignores_exit(sock: socket.socket) -> None:
    """`exit` is a line as any other; only the end of stream ends it."""
    with sock.makefile("rb") as lines:
        for line in lines:
            sock.sendall(b"[someone] " + line)


def echoes(sock: socket.socket) -> None:
    """Everyone receives everything, its sender, too, under the sender's address."""
    address = ":".join(map(str, sock.getpeername())).encode()
    with sock.makefile("rb") as lines:
        for line in lines:
            sock.sendall(address + b"> " + line)


def handshake(sock: socket.socket) -> None:
    """It asks for a name first, behind which the cursor stays."""
    with sock.makefile("rb") as lines:
        sock.sendall(b"\n*** MyChat v1 ***\n\nEnter your name: ")
        name = lines.readline().strip()
        sock.sendall(b"Hello, " + name + b"!\n")
        for line in lines:
            sock.sendall(b"<" + name + b"> " + line)


def frames(sock: socket.socket) -> None:
    """Each message is its length, in four bytes, and its text."""
    while data := sock.recv(1024):
        sock.sendall(len(data.strip()).to_bytes(4, "big") + data.strip())


def json_lines(sock: socket.socket) -> None:
    """Each message is an object of its own design."""
    with sock.makefile("rb") as lines:
        sock.sendall(b'{"type":"notice","from":"server"}\n')
        for line in lines:
            sock.sendall(b'{"msg": "' + line.strip() + b'"}\n')


def latin_1(sock: socket.socket) -> None:
    """It speaks French, in an encoding of the last century, with escape sequences."""
    with sock.makefile("rb") as lines:
        for line in lines:
            sock.sendall("\x1b[1mreçu\x1b[0m : ".encode("latin-1") + line)


@contextmanager
def serving(talk: Talk) -> Iterator[int]:
    """Serve one client, in a thread; yields the port."""

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(DEADLINE)
            talk(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()
