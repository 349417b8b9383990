"""A server that never stops sending."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

from tests.helpers.peers import DEADLINE

WELCOME = b'{"type":"welcome","name":"bob","newest":9,"epoch":"aaaaaaaaaaaaaaaa"}\n'
NEWS = b'{"type":"news"}\n'  # of a later version of the protocol: a client passes over it
OLD = b'{"type":"message","id":1,"time":"2026-01-01T00:00:00.000Z","from":"bob","text":"x"}\n'
NOTICE = b"*** x\n"


class EndlessServer:
    """A thread that accepts one connection after another. Each gets its greeting, then one line again and again.

    Attributes:
        address, port: where it listens.
        greeting: sent when something has been received; none if it is empty.
        line: None to send nothing more, and read nothing.
        streaming: gets the socket of each connection once its line is being repeated.
    """

    def __init__(self, listener: socket.socket, greeting: bytes, line: bytes | None) -> None:
        self.address: tuple[str, int] = listener.getsockname()
        self.port = self.address[1]
        self.greeting = greeting
        self.line = line
        self.streaming = SimpleQueue[socket.socket]()
        self._listener = listener
        self._sockets = list[socket.socket]()
        self._thread = threading.Thread(target=self._run)
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def end(self) -> None:
        """Close every connection."""
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        threads = list[threading.Thread]()
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._sockets.append(sock)
                threads.append(threading.Thread(target=self._talk, args=(sock, self.greeting, self.line)))
                threads[-1].start()
        for thread in threads:
            thread.join(DEADLINE)
        for sock in self._sockets:
            sock.close()

    def _talk(self, sock: socket.socket, greeting: bytes, line: bytes | None) -> None:
        with suppress(OSError):
            if greeting:
                sock.recv(1000)
                sock.sendall(greeting)
            sock.sendall((line or b"") * 10_000)
            self.streaming.put(sock)
            while line and not self._over.is_set():
                sock.sendall(line * 10_000)


@contextmanager
def endless_server(greeting: bytes = b"", line: bytes | None = NOTICE) -> Iterator[EndlessServer]:
    """Run an `EndlessServer`. Its end ends clients that would never come to an end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = EndlessServer(listener, greeting, line)
        server.start()
        try:
            yield server
        finally:
            server.end()
