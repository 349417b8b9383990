"""The thread that accepts connections and hands each to a worker."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from chatkit.addresses import Address, two_tuple
from chatkit.waker import Waker

logger = logging.getLogger("chatkit")

# The kernel's own queue of connections that wait for accept; it caps this at net.core.somaxconn.
BACKLOG = 4096

# accept() can fail for lack of descriptors or memory, and the socket stays ready: pause instead of spinning.
PAUSE_SECONDS = 0.1


def listen(host: str, port: int) -> socket.socket:
    """A listening, non-blocking socket on one address that `host` stands for, IPv4 before IPv6.

    OSError: the host is unknown (`socket.gaierror`), or the port can't be had.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    dual = host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    listener.setblocking(False)
    return listener


class Acceptor(threading.Thread):
    """Accepts until `stop`, then takes what still waits in the kernel's queue and closes the listener.

    accepted(sock, address): called for each connection, never twice at a time; must not block.
    """

    def __init__(self, listener: socket.socket, accepted: Callable[[socket.socket, Address], None]) -> None:
        super().__init__(name="chatkit-acceptor", daemon=True)
        self._listener = listener
        self._accepted = accepted
        self._accepting = threading.Lock()
        self._stopping = threading.Event()
        self._failing = False
        self._selector = selectors.DefaultSelector()
        self._waker = Waker(self._selector)
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        while not self._stopping.is_set():
            self._selector.select()
            if not self.accept_waiting():
                self._stopping.wait(PAUSE_SECONDS)
        self.accept_waiting()
        with self._accepting:
            self._listener.close()

    def accept_waiting(self) -> bool:
        """Accept what waits, at most one full queue; whether that went well.

        Workers call it too, before they publish what they read: who was connected before a line was sent hears it.
        """
        with self._accepting:
            try:
                for _ in range(BACKLOG if self._listener.fileno() >= 0 else 0):
                    self._accept()
            except BlockingIOError:
                self._failing = False
            except OSError as error:
                if not self._failing:
                    logger.warning("cannot accept connections: %s; trying again", error.strerror)
                self._failing = True
        return not self._failing

    def stop(self) -> None:
        """From any thread; to be followed by `join`, then `release`."""
        self._stopping.set()
        self._waker.wake()

    def release(self) -> None:
        """Free the selector and the waker, after the thread has ended."""
        self._waker.close()
        self._selector.close()

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except ConnectionAbortedError:  # that peer gave up while it waited
            return
        sock.setblocking(False)
        with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepted(sock, two_tuple(address))
