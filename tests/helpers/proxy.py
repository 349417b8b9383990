"""A TCP proxy between real clients and a server, with faults on demand. It adds no delay; one thread owns all of it."""

from __future__ import annotations

import math
import queue
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from chatkit import Client
from tests.helpers.peers import DEADLINE

READ_BYTES = 64 * 1024

RunInThread = Callable[[Callable[[], None]], None]


class Direction:
    """One direction of a link. `stall`, `resume`, `split`, `half_close` have taken effect when they return."""

    def __init__(self, run: RunInThread, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self._bytes = self._pieces = 0
        self._run = run
        self._held = b""
        self._piece_bytes = READ_BYTES
        self._allowance: float = math.inf
        self._ended = False
        self._stalled = threading.Event()

    def stall(self, after: int = 0) -> None:
        """Pass on `after` more bytes, then nothing, not even an end, until `resume`."""

        def stall() -> None:
            self._allowance = after
            self._stalled.clear() if after and not self._ended else self._stalled.set()

        self._run(stall)

    def wait_stalled(self) -> None:
        """Until all the bytes that `stall(after)` grants were passed on, or the link has ended."""
        assert self._stalled.wait(DEADLINE), "too little came to stall"

    def resume(self) -> None:
        """Pass everything on again, first what was held back."""
        self._run(lambda: setattr(self, "_allowance", math.inf))

    def split(self, piece_bytes: int) -> None:
        """Pass on pieces of at most so many bytes, each in a write of its own."""
        self._run(lambda: setattr(self, "_piece_bytes", piece_bytes))

    def half_close(self) -> None:
        """End this direction for the receiver, even if its sender has not ended it; the other direction goes on."""
        self._run(self._end)

    def passed(self) -> tuple[int, int]:
        """(bytes, pieces) that were passed on so far."""
        self._run(lambda: None)  # the receiver can be quicker than the counting
        return self._bytes, self._pieces

    # In the proxy's thread

    def interest_in(self, sock: socket.socket) -> int:
        """Return the events to wait for on one of the two sockets."""
        if self._ended or not self._allowance:
            return 0
        if self._held:
            return selectors.EVENT_WRITE if sock is self.sink else 0
        return selectors.EVENT_READ if sock is self.source else 0

    def step(self) -> None:
        """Read once, or pass one piece on."""
        if self._held:
            piece = self._held[: int(min(self._piece_bytes, self._allowance))]
            sent = self.sink.send(piece)
            self._held = self._held[sent:]
            self._allowance -= sent
            self._bytes += sent
            self._pieces += 1
            if not self._allowance:
                self._stalled.set()
        else:
            self._held = self.source.recv(READ_BYTES)
            if not self._held:
                self._end()

    def stop(self) -> None:
        """Pass on nothing more, and no end."""
        self._ended = True
        self._stalled.set()

    def _end(self) -> None:
        self.stop()
        self._held = b""
        self.sink.shutdown(socket.SHUT_WR)


class Link:
    """One client's connection through the proxy. name: how the server calls it."""

    def __init__(self, run: RunInThread, selector: selectors.BaseSelector, client: socket.socket, port: int) -> None:
        server = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.name = str(server.getsockname()[1])
        self.client_port: int = client.getpeername()[1]
        self.to_server = Direction(run, client, server)
        self.to_client = Direction(run, server, client)
        self._run = run
        self._selector = selector
        self._sockets = client, server
        for sock in self._sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        """Reset both sides, also with data under way."""
        self._run(self.abort)

    def forsake(self) -> None:
        """Reset the client's side alone: for the server the connection hangs."""
        self._run(self._forsake)

    # In the proxy's thread

    def _forsake(self) -> None:
        client = self.to_server.source
        self._stop()
        if client in self._selector.get_map():
            self._selector.unregister(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def watch(self) -> None:
        """Wait for what is needed next."""
        for sock in self._sockets:
            if sock.fileno() < 0:
                continue
            wanted = self.to_server.interest_in(sock) | self.to_client.interest_in(sock)
            watched = self._selector.get_map().get(sock)
            if watched and watched.events != wanted:
                self._selector.unregister(sock)
            if wanted and (not watched or watched.events != wanted):
                self._selector.register(sock, wanted, partial(self._ready, sock))

    def abort(self) -> None:
        self._stop()
        for sock in self._sockets:
            if sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        for sock in self._sockets:
            if sock.fileno() >= 0 and sock in self._selector.get_map():
                self._selector.unregister(sock)
            sock.close()

    def _stop(self) -> None:
        for direction in (self.to_server, self.to_client):
            direction.stop()

    def _ready(self, sock: socket.socket, events: int) -> None:
        for direction in (self.to_server, self.to_client):
            if sock.fileno() >= 0 and events & direction.interest_in(sock):
                try:
                    direction.step()
                except BlockingIOError:
                    pass
                except OSError:  # a real reset of one side is one for both
                    self.abort()


class Proxy:
    """Listens on a free port of the loopback and connects each client to the server at `server_port`.

    with Proxy(server.port) as proxy, Client(port=proxy.port) as client:
        link = proxy.link_of(client)
        link.to_client.stall()
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._over = False
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._new_links: queue.SimpleQueue[Link] = queue.SimpleQueue()
        self._links = list[Link]()
        self._known: dict[int, Link] = {}

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def link_of(self, client: Client) -> Link:
        """The client's connection. When this returns it is connected to the server, too."""
        while client.address[1] not in self._known:
            link = self.next_link()
            self._known[link.client_port] = link
        return self._known[client.address[1]]

    def next_link(self) -> Link:
        """The next connection that nobody has asked for. When this returns it is connected to the server, too."""
        return self._new_links.get(timeout=DEADLINE)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._woken, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._do_job)
        self._thread = threading.Thread(target=self._forward, name="proxy", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(lambda: setattr(self, "_over", True))
        self._thread.join(DEADLINE)
        self._selector.close()
        for sock in (self._listener, self._woken, self._wake):
            sock.close()

    def _run(self, job: Callable[[], None]) -> None:
        """Have the thread do `job`, and wait until it has."""
        done = threading.Event()

        def do() -> None:
            job()
            done.set()

        self._jobs.put(do)
        self._wake.send(b"x")
        assert done.wait(DEADLINE), "the proxy's thread is dead"

    # In the thread

    def _forward(self) -> None:
        while not self._over:
            for key, events in self._selector.select():
                key.data(events)
            for link in self._links:
                link.watch()
        for link in self._links:
            link.close()

    def _do_job(self, events: int) -> None:
        self._woken.recv(1)
        self._jobs.get_nowait()()

    def _accept(self, events: int) -> None:
        sock, _ = self._listener.accept()
        link = Link(self._run, self._selector, sock, self._server_port)
        self._links.append(link)
        self._new_links.put(link)
