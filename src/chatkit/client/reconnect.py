"""A connection that is taken up again when it is lost: for `Client(reconnect=True)`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from chatkit.client.backoff import Backoff, is_final
from chatkit.client.cancel import Halt, Halted, lock_timeout
from chatkit.client.connection import Link, Place
from chatkit.client.resume import MAX_WAITING_EVENTS, Trail, closed, left
from chatkit.errors import ChatError, ConnectionClosed
from chatkit.events import Event
from chatkit.protocol.lines import encode_line, is_exit

# All that the thread does can be halted, but not the look-up of a host's name.
LOOK_UP_SECONDS = 1.0


class Comeback(threading.Thread):
    """Waits and connects until a link can be handed to `take_up`, or until `halt`.

    fail(error): called after each attempt that failed; calls `halt` if it was the last.
    before: the one of an earlier absence, which may be on its way out.
    """

    def __init__(
        self,
        connect: Callable[[Halt], Link],
        take_up: Callable[[Link], None],
        fail: Callable[[Exception], None],
        backoff: Backoff,
        before: Comeback | None,
    ) -> None:
        super().__init__(name="chatkit-comeback", daemon=True)
        self._connect = connect
        self._take_up = take_up
        self._fail = fail
        self._backoff = backoff
        self._before = before
        self._halt = Halt()

    def run(self) -> None:
        try:
            if self._before:
                self._before.finish(None)
                self._before = None
            while not self._halt.wait(self._backoff.delay()) and not self._succeeds():
                pass
        except Exception as error:  # whatever it is, it is told
            self._fail(error)

    def _succeeds(self) -> bool:
        """One attempt."""
        try:
            with self._halt:
                link = self._connect(self._halt)
        except Halted:
            return False
        except (OSError, ChatError) as error:
            self._fail(error)
            return False
        self._take_up(link)
        return True

    def halt(self) -> None:
        """The end at once."""
        self._halt.set()

    def finish(self, seconds: float | None = LOOK_UP_SECONDS) -> None:
        """Wait for the end, after `halt`; not for a look-up that hangs."""
        if self.is_alive():  # else it may never have begun
            self.join(seconds)


class Chain:
    """One `Link` after the other, with the verbs of one, and the trail that leads from each to the next.

    received, ended, receiving, sending: as of a `Link`. While there is no link a thread waits and connects.
    The locks, in the order in which they are taken: receiving, sending, state. Whoever holds `receiving` reads, and
    it alone finds out that a link is lost.
    """

    def __init__(self, place: Place, trail: Trail, max_line_bytes: int) -> None:
        self.received = deque[Event]()
        self.ended: Exception | None = None
        self.receiving = threading.Lock()
        self.sending = threading.Lock()  # lines are written in the order in which the trail knows them
        self._changed = threading.Event()  # by the thread: who waits looks again
        self._state = threading.RLock()  # around the trail and what follows
        self._place = place
        self._trail = trail
        self._max_line_bytes = max_line_bytes
        self._closing = False
        self._comeback: Comeback | None = None
        self._link: Link | None = Link(place, trail.session())
        self.address = self._link.address
        self._backoff = Backoff()
        self._take_in(self._link)

    @property
    def queued(self) -> list[str]:
        """The lines that are kept for the return."""
        with self._state:
            return list(self._trail.queued)

    def send(self, text: str) -> None:
        """Say one line; while away keep it for the return. NotConnected: that isn't wanted, or it is one too many."""
        encode_line(text, self._max_line_bytes)
        if (link := self._link) and self._trail.is_due:
            self._catch_up(link, MAX_WAITING_EVENTS)
        with self.sending:
            if not self._say(text):
                self._keep(text)
        self._pay()

    def read(self, deadline: float | None) -> None:
        """Wait until something has changed. TimeoutError: nothing has."""
        with self._state:  # the thread may have taken up a link since the caller looked
            link = None if self._changed.is_set() else self._link
        if link:
            link.read(deadline)
            self._take_in(link)
        elif self._changed.wait(None if deadline is None else lock_timeout(deadline)):
            self._changed.clear()
        else:
            raise TimeoutError("nothing arrived in time")

    def send_eof(self) -> None:
        with self.sending:  # after what was kept
            with self._state:
                data = self._trail.leave()
                if not (link := self._link):
                    self._finish(left())
                    return
            with suppress(ConnectionClosed):  # whoever reads finds out
                link.write(data)
            link.send_eof()

    def begin_close(self, deadline: float | None) -> None:
        with self._state:
            self._closing = True
            if not (link := self._link):
                self._finish(closed())
        if link:
            link.begin_close(deadline)

    def shutdown(self) -> None:
        with self._state:
            if self._link:
                self._link.shutdown()

    def close(self) -> None:
        """After `begin_close` and `shutdown`, for who holds `receiving`."""
        with self._state:
            link, self._link = self._link, None
            self._finish(closed())
            self.ended = closed()
            self.received.clear()
        if link:
            link.close()
        if self._comeback:
            self._comeback.finish()

    # What is said

    def _say(self, text: str) -> bool:
        """Write a line; False when there is no link, or it is lost before it took anything of the line."""
        link = None
        try:
            with self._state:
                self._raise_if_over()
                if not (link := self._link):
                    return False
                data = self._trail.send(text)
            link.write(data)
        except ConnectionClosed:
            if self._closing or not link:
                raise
            with self._state:
                if not link.in_line:
                    self._trail.unsend(text)
                if link is self._link:
                    link.shutdown()
            self._catch_up(link, float("inf"))  # what had arrived before counts; then comes the end
            return link.in_line
        except BaseException:  # Ctrl-C: the trail thinks that all of it was sent
            if link:
                link.break_off()
            raise
        return True

    def _raise_if_over(self) -> None:
        if self.ended:
            raise self.ended.with_traceback(None)
        if self._closing or self._trail.is_leaving:
            raise left()

    def _keep(self, text: str) -> None:
        with self._state:
            if not is_exit(text):
                self._raise_if_over()
                self._trail.keep(text)
            elif not self._link:  # else whoever reads finds the end
                self._finish(left())
            self._trail.is_leaving |= is_exit(text)

    def _say_queued(self) -> None:
        """For who holds `sending`."""
        with suppress(ChatError):  # over meanwhile
            while (queued := self._trail.queued) and self._say(queued[0]):
                queued.popleft()

    def _pay(self) -> None:
        """Ask the room what there is to ask it, unless somebody is sending, who asks then; nobody waits for it here."""
        while (link := self._link) and self._trail.owes and self.sending.acquire(blocking=False):
            try:
                with self._state:
                    owed = self._trail.owed() if link is self._link else b""
                if owed:
                    link.push(owed)
            except BaseException:  # Ctrl-C, as above
                link.break_off()
                raise
            finally:
                self.sending.release()

    # What is heard

    def _take_in(self, link: Link) -> None:
        """For who holds `receiving`."""
        try:
            with self._state:
                self._hear(link)
        except BaseException:  # Ctrl-C: what was heard in part is told again
            link.break_off()
            raise
        if link.ended:
            self._lose(link, link.ended)
        else:
            self._pay()

    def _hear(self, link: Link) -> None:
        while link.received:
            self.received.extend(self._trail.hear(link.received.popleft()))

    def _catch_up(self, link: Link, most: float) -> None:
        """Take in what has arrived, unless somebody receives, until so many events wait; never wait for more."""
        if self.receiving.acquire(blocking=False):
            try:
                while self._link is link and len(self.received) < most and link.take():
                    self._take_in(link)
            finally:
                self.receiving.release()

    # Away and back (`_fail` and `_take_up` in the thread)

    def _lose(self, link: Link, reason: ChatError) -> None:
        """For who holds `receiving`."""
        with self._state:
            if link is not self._link:  # closed meanwhile
                return
            try:
                self._link = None
                self._backoff.lost()
                self.received.extend([] if self._closing else self._trail.lose(reason))
                if self._closing or self._trail.is_over(reason):
                    self._finish(reason)
                else:
                    before, connect = self._comeback, lambda halt: Link(self._place, self._trail.session(), halt)
                    self._comeback = Comeback(connect, self._take_up, self._fail, self._backoff, before)
                    self._comeback.start()
            except BaseException as error:  # no thread to be had, or Ctrl-C: else who receives would wait for ever
                self._finish(error if isinstance(error, Exception) else reason)
                raise
            finally:
                link.abandon()

    def _finish(self, reason: Exception) -> None:
        """There is no return any more; the first reason counts."""
        self.received.extend(self._trail.give_up())
        self.ended = self.ended or reason
        if self._comeback:
            self._comeback.halt()
        self._changed.set()

    def _fail(self, error: Exception) -> None:
        with self._state:
            if is_final(error):
                self._finish(error)
            self.received.extend(self._trail.fail(error))
            self._changed.set()

    def _take_up(self, link: Link) -> None:
        """Go on with a new link. If it is lost already, whoever reads or sends next finds out."""
        with self.sending:
            with self._state:
                if self.ended:
                    link.abandon()
                    return
                self._link, self.address = link, link.address
                self._backoff.connected()
                self._hear(link)
                self._changed.set()
            self._say_queued()
        self._pay()
