"""`Server`: a chat room on a TCP port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.events import Error, Notice
from chatkit.handler import check_handler
from chatkit.history.base import History
from chatkit.limits import Limits
from chatkit.net.descriptors import fit_to_fd_limit
from chatkit.net.sockets import SIGNAL_SECONDS, Address, two_tuple
from chatkit.protocol.formats import clean_text
from chatkit.protocol.lines import check_password
from chatkit.protocol.replies import REMOVED
from chatkit.room.hooks import hook_of
from chatkit.room.members import Member
from chatkit.room.publisher import Publisher
from chatkit.room.room import Room
from chatkit.server.acceptor import listen
from chatkit.server.lifecycle import Lifecycle, ServerState, finish
from chatkit.server.login import PasswordAuth
from chatkit.server.pool import WorkerPool
from chatkit.server.stats import Stats

if TYPE_CHECKING:
    import ssl


# Threads can't be waited for much longer.
LONGEST_GRACE_SECONDS = threading.TIMEOUT_MAX / 2


class Server:
    """A chat room on a TCP port; use it in a `with` block, or call `start` and `shutdown`, or `serve_forever`.

    Args:
        host: address or name to listen on; if a name has both kinds, its IPv4 address; `::` accepts IPv6 and IPv4.
        port: 0 takes a free port; see `port` and `address`.
        handler: a `Handler`, or any object with some of its hooks.
        limits: the limits of the room and of each connection, see `Limits`.
        threads: the number of worker threads; more than one can pay off on a free-threaded Python.
        announce: whether members that read plain text are told about joins, leaves and new names, too.
        tls: a context of `chatkit.tls.server_context`, to speak TLS.
        password: the password that a peer must send to become a member.
        history: a file (SQLite), or a `chatkit.history.base.History`. Messages are stored before any member sees them.
        history_required: whether messages that can't be stored are refused; if not, they are delivered anyway.
        replay: the number of the last messages that a new member receives.

    Resource handling: `start` opens a listening socket, the history, and `threads` + 1 threads (3 more for a history).
    `shutdown`, and the end of `with` or `async with`, frees all of it. A server starts only once.

    Error handling: wrong arguments raise ValueError or TypeError. Later failures of the history, and exceptions in
    hooks, are logged (logger `chatkit`). If an exception ends a thread of the server, the whole server stops, and
    `serve_forever` and `shutdown` raise RuntimeError from it.

    Threads: call any method from any thread; `broadcast`, `tell`, `kick`, `members` and `stats` also from hooks.
    In a forked child a copy serves nobody and holds no descriptor. Its `shutdown`, also at the end of `with`, leaves
    the parent's server alone; `start`, `broadcast`, `tell` and `kick` raise RuntimeError.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 12345,
        *,
        handler: object = None,
        limits: Limits = Limits(),
        threads: int = 1,
        announce: bool = False,
        tls: ssl.SSLContext | None = None,
        password: str | None = None,
        history: str | PathLike[str] | History | None = None,
        history_required: bool = False,
        replay: int = 0,
    ) -> None:
        if threads < 1 or replay < 0:
            raise ValueError(f"threads must be at least 1 and replay at least 0, not {threads} and {replay}")
        check_handler(handler)
        self._bind_to = host, port
        self._handler = handler
        self._limits = limits
        committer = None
        if history is not None:
            from chatkit.room.committer import committer_of  # a room in memory doesn't load it

            committer = committer_of(history, limits, required=history_required)
        elif history_required:
            raise ValueError("history_required needs a history: pass history as well")
        publisher = Publisher(limits.history_size, committer, replay=replay)
        self._room = Room(handler, limits, publisher, announce=announce)
        auth = None if password is None else PasswordAuth(check_password(password, limits.max_line_bytes))
        self._lifecycle = Lifecycle()
        self._pool = WorkerPool(self._room, limits, threads, self._lifecycle, tls, auth)
        self._address: Address | None = None
        self._life = threading.Lock()  # held by `start` and `shutdown`
        self._changed_by: int | None = None  # the thread that holds `_life`
        self._ending = threading.Lock()
        self._is_interrupted = False  # that thread, by a call of `shutdown`

    def start(self) -> None:
        """Listen, and serve in threads; return as soon as peers can connect.

        Raises:
            OSError: it can't listen there; `socket.gaierror` for an unknown host.
            HistoryError: the history can't be opened.
            RuntimeError: it was started, or shut down, before.
        """
        if self._lifecycle.state is not ServerState.NEW:  # also for a hook, which would wait for itself below
            raise RuntimeError("a server starts once: create a new one")
        with self._changing(), ExitStack() as stack:
            if self._lifecycle.state is not ServerState.NEW:
                raise RuntimeError("a server starts once: create a new one")
            self._lifecycle.advance(ServerState.STARTING)
            listener = stack.enter_context(listen(*self._bind_to))
            self._address = two_tuple(listener.getsockname())
            self._room.roster.max_clients = fit_to_fd_limit(self._pool.fit(self._limits.max_clients))
            self._room.publisher.start(self._pool.fail)
            stack.callback(self._room.publisher.end, 1.0)
            self._call_on_listening()
            stack.callback(self._pool.end, grace=0)
            self._pool.start(listener)
            if self._is_interrupted:  # by a signal handler that has shut the server down
                self._pool.end(grace=0)
            stack.pop_all()

    def serve_forever(self, grace: float = 5.0) -> None:
        """Serve until another thread calls `shutdown`, or until an exception such as KeyboardInterrupt; then shut down.

        It calls `start` if that is still to be done.

        Args:
            grace: seconds, see `shutdown`.

        Raises:
            OSError: see `start`.
            HistoryError: see `start`.
            RuntimeError: see `start` and `shutdown`.
        """
        if self._lifecycle.state < ServerState.RUNNING:
            self.start()
        try:
            while not self._lifecycle.wait_for(ServerState.STOPPING, SIGNAL_SECONDS):
                pass
        finally:
            self.shutdown(grace)

    def shutdown(self, grace: float = 5.0) -> None:
        """Stop accepting, deliver all received messages, end every connection and thread; a second call is harmless.

        Args:
            grace: seconds until it returns at the latest; pending bytes of members that don't read are dropped then.

        Raises:
            KeyboardInterrupt: at the end, if it comes within half a second; later ones at once.
            RuntimeError: an exception had ended a thread of the server; or a hook called this method, which would wait
                for itself.
        """
        if self._lifecycle.state is ServerState.COPIED:  # the parent's server goes on
            return
        if self._pool.is_in_hook:
            raise RuntimeError("a hook can't shut down the server: call shutdown from another thread")
        self._lifecycle.advance(ServerState.STOPPING)
        if self._changed_by == threading.get_ident():
            self._is_interrupted = True
            return  # a signal handler: the call that it interrupts goes on afterwards, and ends the server
        with self._changing():
            finish(partial(self._end, time.monotonic() + min(grace, LONGEST_GRACE_SECONDS)))
        if failure := self._pool.failure:
            raise RuntimeError(f"a thread of the server died: {failure!r}") from failure

    def _end(self, deadline: float) -> None:
        with self._ending:  # an interrupted `shutdown` leaves it running
            self._pool.end(deadline - time.monotonic())
            self._lifecycle.advance(ServerState.STOPPED)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Start and shut down one at a time."""
        with self._life:
            self._changed_by = threading.get_ident()
            try:
                yield
            finally:
                self._changed_by = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        from asyncio import CancelledError, shield, to_thread  # loaded only if it is used

        try:
            await to_thread(self.start)
        except CancelledError:
            await shield(to_thread(self.shutdown))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from asyncio import shield, to_thread

        await shield(to_thread(self.shutdown))

    @property
    def address(self) -> Address:
        """The (host, port) that it listens on.

        Raises:
            RuntimeError: it isn't started.
        """
        if not self._address:
            raise RuntimeError("the server isn't started: call start first")
        return self._address

    @property
    def port(self) -> int:
        """The port of `address`."""
        return self.address[1]

    @property
    def members(self) -> list[Member]:
        """The members of the room at this moment."""
        return self._room.roster.members

    @property
    def stats(self) -> Stats:
        """The counters at this moment."""
        messages, roster, counters = self._room.publisher.messages, self._room.roster, self._pool.counters
        return Stats(
            members=len(roster),
            messages=messages,
            deliveries=max(0, counters.deliveries - messages),  # a sender doesn't receive its own messages
            bytes=counters.sent_bytes,
            slow_consumers=counters.slow_consumers,
            refused=dict(roster.refused),
            unstored=self._room.publisher.unstored,
            dropped=getattr(self._handler, "dropped", 0),
        )

    def set_tls(self, tls: ssl.SSLContext) -> None:
        """Use another TLS context for new connections, such as one with a renewed certificate.

        Args:
            tls: a context of `chatkit.tls.server_context`.

        Raises:
            RuntimeError: the server was created without `tls`.
        """
        if not self._pool.tls:
            raise RuntimeError("the server was created without TLS: pass tls to Server")
        self._pool.tls = tls

    def broadcast(self, text: str) -> None:
        """Send a notice (`*** text`) to every member. Returns at once.

        Args:
            text: the notice; control characters are made visible.

        Raises:
            TypeError: `text` isn't a str.
            ValueError: `text` isn't valid Unicode.
            RuntimeError: the server isn't running.
        """
        self._pool.call_soon(partial(self._room.say, Notice(clean_text(text))))

    def tell(self, name: str, text: str) -> list[Member]:
        """Send a notice (`*** text`) to one member. Returns at once.

        Args:
            name: the name of the member, in upper or lower case.
            text: the notice; control characters are made visible.

        Returns:
            The members that it is for: none if nobody has that name.

        Raises:
            TypeError: `text` isn't a str.
            ValueError: `text` isn't valid Unicode.
            RuntimeError: the server isn't running.
        """
        notice = Notice(clean_text(text))
        return self._for_each(name, lambda member: self._room.tell(member, notice))

    def kick(self, name: str, reason: str) -> list[Member]:
        """End a member's conversation, with a last notice (`*** reason`) to it. Returns at once.

        Args:
            name: the name of the member, in upper or lower case.
            reason: the last notice; `on_leave` receives `removed: reason`.

        Returns:
            The members whose conversation ends: none if nobody has that name.

        Raises:
            TypeError: `reason` isn't a str.
            ValueError: `reason` isn't valid Unicode.
            RuntimeError: the server isn't running.
        """
        last = Error(clean_text(reason), REMOVED)
        return self._for_each(name, lambda member: self._room.remove(member, last, f"removed: {reason}"))

    def _for_each(self, name: str, call: Callable[[Member], None]) -> list[Member]:
        """Have a worker call call(member) for the members of that name. Returns these.

        Raises:
            RuntimeError: the server isn't running.
        """
        member = self._room.roster.find(name)
        members = [member] if member else []

        def call_each() -> None:
            for member in members:
                call(member)

        return members if self._pool.call_soon(call_each) else []

    def _call_on_listening(self) -> None:
        if on_listening := hook_of(self._handler, "on_listening", 1):
            self._pool.starter = threading.current_thread()
            try:
                on_listening(self.address)
            finally:
                self._pool.starter = None
