"""The thread that accepts connections and hands each to a worker."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from chatkit.limits import Limits
from chatkit.net.descriptors import EXHAUSTED, SpareDescriptor
from chatkit.net.sockets import Address, Waker, keep_alive, two_tuple
from chatkit.net.transport import PlainTransport
from chatkit.protocol.replies import NO_DESCRIPTOR

logger = logging.getLogger("chatkit")

# The kernel's own queue of connections that wait for accept; it caps this at net.core.somaxconn.
BACKLOG = 4096

# accept() can fail for lack of descriptors or memory, and the socket stays ready: pause instead of spinning.
PAUSE_SECONDS = 0.1
# Trouble that comes back within this time is the same trouble: one line in the log.
TROUBLE_SECONDS = 10.0


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


def prepare(sock: socket.socket, limits: Limits) -> None:
    """Set what an accepted socket needs: no waiting, no delay, and a kernel that notices a dead peer."""
    sock.setblocking(False)
    with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_alive(sock, limits.silent_seconds, limits.unacknowledged_seconds)


class Acceptor(threading.Thread):
    """Accepts until `stop`, then takes what still waits in the kernel's queue and closes the listener.

    accepted(sock, address): called for each connection, never twice at a time; must not block.
    failed(error): called in the thread when it dies of an error.

    Out of descriptors, it tells those who wait so and closes them, with the help of a spare one.
    """

    def __init__(
        self,
        listener: socket.socket,
        limits: Limits,
        accepted: Callable[[PlainTransport, Address], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="chatkit-acceptor", daemon=True)
        self._listener = listener
        self._limits = limits
        self._spare = SpareDescriptor()
        self._accepted = accepted
        self._failed = failed
        self._accepting = threading.Lock()
        self._stopping = threading.Event()
        self._trouble = False
        self._trouble_until = 0.0
        self._refused = 0
        self._selector = selectors.DefaultSelector()
        self._waker = Waker(self._selector)
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._selector.select()
                if not self.accept_waiting():
                    self._stopping.wait(PAUSE_SECONDS)
            self.accept_waiting()
        except BaseException as error:
            logger.critical("%s died", self.name, exc_info=True)
            self._failed(error)
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
                pass
            except OSError as error:
                self._troubled(error)
                return False
        return True

    def stop(self) -> None:
        """From any thread; to be followed by `join`, then `release`."""
        self._stopping.set()
        self._waker.wake()

    def release(self) -> None:
        """Free the selector, the waker and the spare descriptor, after the thread has ended."""
        self._waker.close()
        self._selector.close()
        self._spare.give()

    def _accept(self) -> None:
        try:
            accepted, address = self._listener.accept()
        except ConnectionAbortedError:  # that peer gave up while it waited
            return
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            self._refuse_one(error)
            return
        if self._trouble and time.monotonic() > self._trouble_until:
            self._trouble = False
            logger.warning("accepting connections again; %d were refused", self._refused)
        sock = PlainTransport.of(accepted)
        try:
            prepare(sock, self._limits)
            self._accepted(sock, two_tuple(address))
        except BaseException:
            sock.close()
            raise

    def _refuse_one(self, error: OSError) -> None:
        """Accept with the spare descriptor, tell why, close: else the peer would wait, and the listener never rest."""
        self._spare.give()
        try:
            sock, _ = self._listener.accept()
            with sock, suppress(OSError):
                sock.setblocking(False)
                sock.send(f"*** {NO_DESCRIPTOR}\n".encode())
                sock.shutdown(socket.SHUT_WR)
                sock.recv(65536)  # what it said already: unread, it would turn our end into a reset
        finally:
            self._spare.take()  # not before that socket has given back its own
        self._troubled(error)
        self._refused += 1

    def _troubled(self, error: OSError) -> None:
        """One log line for a time of trouble, however often it shows."""
        self._trouble_until = time.monotonic() + TROUBLE_SECONDS
        if not self._trouble:
            self._trouble, self._refused = True, 0
            logger.warning("cannot accept connections: %s", os.strerror(error.errno) if error.errno else error)
