"""`Server`: a chat room on a TCP port."""

from __future__ import annotations

import threading
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatkit.events import Error, Notice
from chatkit.handler import check_handler
from chatkit.history.base import History
from chatkit.limits import Limits
from chatkit.net.descriptors import fit_to_fd_limit
from chatkit.net.sockets import Address, two_tuple
from chatkit.protocol.formats import clean_text
from chatkit.protocol.lines import check_password
from chatkit.protocol.replies import REMOVED
from chatkit.room.members import Member
from chatkit.room.publisher import Publisher
from chatkit.room.room import Room
from chatkit.server.acceptor import listen
from chatkit.server.lifecycle import Lifecycle, State
from chatkit.server.login import PasswordAuth
from chatkit.server.pool import WorkerPool
from chatkit.server.stats import Stats

if TYPE_CHECKING:
    import ssl


class Server:
    """A chat room on a TCP port.

        with Server(port=0) as server:
            print(server.address)

    host: address or host name to listen on; a name that has both gives its IPv4 address, `::` takes both families.
    port: 0 takes a free one; `port` and `address` tell which.
    handler: a `Handler`, or any object with some of its hooks. TypeError: a hook that can't be called.
    limits: every bound, see `Limits`.
    threads: workers; more than one can pay on a free-threaded Python.
    tls: speak TLS, as `chatkit.tls.server_context` makes it. password: what a connection must say to become a member.
    announce: tell members with plain text, too, who joins, leaves or changes its name.
    history: a file (SQLite), or a `chatkit.history.base.History`; nobody is shown a message before it is kept there.
    history_required: refuse messages while they can't be kept. replay: how many of the last ones a newcomer is told.

    Resource handling: `start` opens the listening socket, the history, and `threads` + 1 threads (3 more for a history);
    `shutdown`, also at the end of `with`, ends and frees all of it. A server starts once. `async with` does the same
    without holding up the event loop; the threads stay threads.

    Error handling: OSError from `start` when it can't listen (`socket.gaierror` for an unknown host), HistoryError when
    there can't be such a history. Later trouble with that, and its end, is logged to the logger `chatkit`, as is what a
    hook raises, which ends that member's conversation. If a thread of the server dies, it stops; `serve_forever` and
    `shutdown` raise RuntimeError from that error: a server is never half alive.

    Threads: everything may be called from any thread; `broadcast`, `tell`, `kick`, `members` and `stats` also from
    hooks, and without waiting for one.
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
            raise ValueError(f"threads must be at least 1, replay at least 0, not {threads} and {replay}")
        check_handler(handler)
        self._bind_to = host, port
        self._handler = handler
        self._limits = limits
        committer = None
        if history is not None:
            from chatkit.room.committer import committer_of  # a room in memory doesn't pay for it

            committer = committer_of(history, limits, required=history_required)
        elif history_required:
            raise ValueError("history_required needs a history")
        publisher = Publisher(limits.history_size, committer, replay=replay)
        self._room = Room(handler, limits, publisher, announce=announce)
        auth = None if password is None else PasswordAuth(check_password(password, limits.max_line_bytes))
        self._lifecycle = Lifecycle()
        self._pool = WorkerPool(self._room, limits, threads, self._lifecycle, tls, auth)
        self._address: Address | None = None
        self._life = threading.Lock()  # held by `start` and `shutdown`

    def start(self) -> None:
        """Listen and serve in threads; returns when the port is known.

        OSError: it can't listen there. RuntimeError: it was started, or shut down, before.
        """
        with self._life:
            if self._lifecycle.state is not State.NEW:
                raise RuntimeError("a server starts once; make a new one")
            self._lifecycle.advance(State.STARTING)
            listener = listen(*self._bind_to)
            try:
                self._address = two_tuple(listener.getsockname())
                self._room.roster.max_clients = fit_to_fd_limit(self._limits.max_clients)
                self._room.publisher.start(self._pool.fail)
                self._call_on_listening()
                self._pool.start(listener)
            except BaseException:
                self._pool.end(grace=0)
                self._room.publisher.end(1.0)
                listener.close()
                raise

    def serve_forever(self, grace: float = 5.0) -> None:
        """Serve until `shutdown` is called, or an exception (KeyboardInterrupt) arrives; then `shutdown(grace)`.

        Errors as `start` and `shutdown`.
        """
        if self._lifecycle.state < State.RUNNING:
            self.start()
        try:
            self._lifecycle.wait_for(State.STOPPING)
        finally:
            self.shutdown(grace)

    def shutdown(self, grace: float = 5.0) -> None:
        """Stop accepting, deliver what has arrived, end every connection and thread. Twice is as good as once.

        grace: seconds until it returns at the latest, even if members don't read; their rest is dropped then.
        RuntimeError: a thread of the server had died of an error; or this was called from a hook, which can't wait
            for its own end.
        """
        if self._pool.is_in_hook:
            raise RuntimeError("a hook can't shut the server down; have another thread do it")
        self._lifecycle.advance(State.STOPPING)
        with self._life:
            self._pool.end(grace)
            self._lifecycle.advance(State.STOPPED)
        if failure := self._pool.failure:
            raise RuntimeError(f"a thread of the server died: {failure!r}") from failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        from asyncio import CancelledError, shield, to_thread  # only who uses asyncio pays for it

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
        """(host, port) it listens on. RuntimeError: not started."""
        if not self._address:
            raise RuntimeError("the server isn't started")
        return self._address

    @property
    def port(self) -> int:
        """The port of `address`."""
        return self.address[1]

    @property
    def members(self) -> list[Member]:
        """Who is in the room at this moment."""
        return self._room.roster.members

    @property
    def stats(self) -> Stats:
        """Counters of this moment."""
        messages, roster, counters = self._room.publisher.messages, self._room.roster, self._pool.counters
        return Stats(
            members=len(roster),
            messages=messages,
            deliveries=max(0, counters.deliveries - messages),  # not to the sender
            bytes=counters.sent_bytes,
            slow_consumers=counters.slow_consumers,
            refused=dict(roster.refused),
            unstored=self._room.publisher.unstored,
            dropped=getattr(self._handler, "dropped", 0),
        )

    def set_tls(self, tls: ssl.SSLContext) -> None:
        """For new connections from now on: a renewed certificate. RuntimeError: it began without TLS."""
        if not self._pool.tls:
            raise RuntimeError("the server speaks no TLS")
        self._pool.tls = tls

    def broadcast(self, text: str) -> None:
        """Say something to every member, as a notice: `*** text`. Returns at once.

        ValueError: `text` isn't valid Unicode. RuntimeError: the server isn't running.
        """
        self._pool.call_soon(partial(self._room.say, Notice(clean_text(text))))

    def tell(self, name: str, text: str) -> None:
        """Say something to one member, as a notice. Returns at once.

        ValueError: nobody has that name, or `text` isn't valid Unicode. RuntimeError: the server isn't running.
        """
        self._pool.call_soon(partial(self._room.tell, self._member(name), Notice(clean_text(text))))

    def kick(self, name: str, reason: str) -> None:
        """End a member's conversation; it is told `*** reason`. Returns at once.

        ValueError: nobody has that name, or `reason` isn't valid Unicode. RuntimeError: the server isn't running.
        """
        last = Error(clean_text(reason), REMOVED)
        self._pool.call_soon(partial(self._room.remove, self._member(name), last, f"removed: {reason}"))

    def _member(self, name: str) -> Member:
        if member := self._room.roster.find(name):
            return member
        raise ValueError(f"no member is named {name!r}")

    def _call_on_listening(self) -> None:
        if on_listening := getattr(self._handler, "on_listening", None):
            self._pool.starter = threading.current_thread()
            try:
                on_listening(self.address)
            finally:
                self._pool.starter = None
