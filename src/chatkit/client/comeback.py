"""The thread of a `Client` that is away."""

from __future__ import annotations

import threading
from collections.abc import Callable

from chatkit.client.backoff import Backoff
from chatkit.client.cancel import Halt, Halted
from chatkit.client.connection import Link
from chatkit.errors import ChatError

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
