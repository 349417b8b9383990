"""The thread of a `Client` that is away."""

from __future__ import annotations

import threading
from collections.abc import Callable

from chatkit.backoff import Backoff
from chatkit.errors import ChatError
from chatkit.halt import Halt, Halted
from chatkit.link import Link
from chatkit.trail import is_final

# All that the thread does can be halted, but not the look-up of a host's name.
LOOK_UP_SECONDS = 1.0


class Comeback(threading.Thread):
    """Waits and connects until a link can be handed to `take_up`, or until `halt`, which `fail(error)` may call.

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
        if self._before:
            self._before.join()
            self._before = None
        while not self._halt.wait(self._backoff.delay()):
            try:
                link = self._connect(self._halt)
            except Halted:
                break
            except (OSError, ChatError) as error:
                if is_final(error):
                    self._fail(error)
            else:
                self._take_up(link)
                break
        self._halt.close()

    def halt(self) -> None:
        """The end at once."""
        self._halt.set()

    def finish(self) -> None:
        """Wait for the end, after `halt`; not for a look-up that hangs."""
        self.join(LOOK_UP_SECONDS)
