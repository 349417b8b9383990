"""The thread that accepts connections and hands each to a worker."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from chatkit.limits import Limits
from chatkit.net.descriptors import EXHAUSTED, SpareDescriptor
from chatkit.net.forks import close_in_child
from chatkit.net.sockets import NO_SIGNAL, Address, Waker, keep_alive, listen_on, plain_host, two_tuple
from chatkit.net.transport import PlainTransport
from chatkit.protocol.replies import NO_DESCRIPTOR

logger = logging.getLogger("chatkit")

# The length of the kernel's queue of connections that wait for accept; the kernel caps it at net.core.somaxconn. A line
# waits until all of these are accepted, since they must hear it: in a flood of connections, a tenth of a second.
BACKLOG = 1024

# The kernel keeps twice as much at the most for each member that doesn't read, instead of 4 MB; on a link with 100 ms
# of delay that is still 5 MB a second. With half of it, a reader in a flood took 20 MB/s and was cut off.
SEND_BUFFER_BYTES = 256 * 1024

# If accept() fails for lack of descriptors or memory, the listener stays ready: pause instead of spinning.
PAUSE_SECONDS = 0.1
# Failures within this time of each other count as one: one line in the log.
TROUBLE_SECONDS = 10.0


def listen(host: str, port: int) -> socket.socket:
    """Return a listening, non-blocking socket on one address of `host`; IPv4 is preferred.

    Raises:
        OSError: the host is unknown (`socket.gaierror`), or the port can't be used.
    """
    host = plain_host(host)
    candidates = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(candidates, key=lambda info: info[0] != socket.AF_INET)
    dual = host == "::" and socket.has_dualstack_ipv6()
    with ExitStack() as stack:
        listener = stack.enter_context(listen_on(family, address, backlog=BACKLOG, dual=dual))
        close_in_child(listener, socket.socket.close)
        stack.pop_all()
        return listener


def prepare(sock: socket.socket, limits: Limits) -> None:
    """Set the options of an accepted socket: non-blocking, no delay, and keep-alive to notice a dead peer.

    Urgent bytes stay in their place: after Ctrl-C, `telnet` sends the second half of a command as one (RFC 854, Synch).
    """
    sock.setblocking(False)
    with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    keep_alive(sock, limits.silent_seconds, limits.unacknowledged_seconds)


def turn_away(sock: socket.socket, reason: str) -> None:
    """Tell a peer why it is refused, and close its connection at once."""
    with sock, suppress(OSError):
        sock.send(f"*** {reason}\n".encode(), NO_SIGNAL)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65536)  # unread input would turn our end of stream into a reset


class Acceptor(threading.Thread):
    """The thread that accepts connections until `stop`; then it empties the kernel's queue and closes the listener.

    If no descriptor is left, it accepts each waiting peer with a spare one, tells it so, and closes the connection.

    Args:
        listener: the listening socket, which it owns.
        limits: the times after which the kernel gives up a dead peer.
        accepted: called as accepted(sock, address) for each connection, one at a time; it must not block.
        failed: called as failed(error) in this thread when an exception ends it.
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
        self._accepted = accepted
        self._failed = failed
        self._accepting = threading.Lock()
        self._stopping = threading.Event()
        self._has_trouble = False
        self._trouble_until = 0.0
        self._refused = 0
        with ExitStack() as stack:
            self._spare = SpareDescriptor(listener.family)
            stack.callback(self._spare.give)
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._waker = Waker(self._selector)
            stack.callback(self._waker.close)
            self._selector.register(listener, selectors.EVENT_READ)
            self._resources = stack.pop_all()

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
        """Accept all waiting connections, at most one full queue. Returns False after a failure.

        Workers call it before they publish lines, so that a line reaches every peer that connected before it was sent.
        """
        with self._accepting:
            try:
                for _ in range(BACKLOG if self._listener.fileno() >= 0 else 0):
                    self._accept()
            except BlockingIOError:
                pass
            except OSError as error:
                self._note_trouble(error)
                return False
        return True

    def stop(self) -> None:
        """Have the thread end; safe from any thread. Call `join`, then `release` after it."""
        self._stopping.set()
        self._waker.wake()

    def release(self) -> None:
        """Free the selector, the waker and the spare descriptor, after the thread has ended."""
        self._resources.close()

    def close_in_child(self) -> None:
        """Close a forked child's copies of the descriptors; see `listen` for the listener's."""
        self.release()

    def _accept(self) -> None:
        """Accept one connection, or refuse it for lack of a descriptor. Called with `_accepting` held."""
        try:
            accepted, address = self._listener.accept()
        except ConnectionAbortedError:  # the peer gave up while it waited
            return
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            self._refuse_one(error)
            return
        if self._has_trouble and time.monotonic() > self._trouble_until:
            self._has_trouble = False
            logger.warning("accepting connections again; %d were refused", self._refused)
        sock = PlainTransport.of(accepted)
        try:
            prepare(sock, self._limits)
            self._accepted(sock, two_tuple(address))
        except BaseException:
            sock.close()
            raise

    def _refuse_one(self, error: OSError) -> None:
        """Accept with the spare descriptor, say why, close: else the peer waits and the listener stays ready."""
        assert self._accepting.locked()
        self._spare.give()
        try:
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            turn_away(sock, NO_DESCRIPTOR)
        finally:
            self._spare.take()  # only now: the descriptor of the closed socket is free again
        self._note_trouble(error)
        self._refused += 1

    def _note_trouble(self, error: OSError) -> None:
        """Log a failure, once per period of trouble."""
        assert self._accepting.locked()
        self._trouble_until = time.monotonic() + TROUBLE_SECONDS
        if not self._has_trouble:
            self._has_trouble, self._refused = True, 0
            logger.warning("cannot accept connections: %s", os.strerror(error.errno) if error.errno else error)
