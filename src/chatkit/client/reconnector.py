"""The thread of an absence: it brings the next connection of a client that comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable

from chatkit.client.backoff import Backoff
from chatkit.client.cancel import Cancelled, CancelToken
from chatkit.client.connection import ClientConnection
from chatkit.errors import ChatError

# The only step of the thread that can't be cancelled is the look-up of a host's name.
LOOK_UP_SECONDS = 1.0


class Reconnector(threading.Thread):
    """The thread of one absence: attempts to connect, with a back-off between them, until one succeeds or `cancel`."""

    def __init__(
        self,
        connect: Callable[[CancelToken], ClientConnection],
        resume: Callable[[ClientConnection], None],
        fail: Callable[[Exception], None],
        backoff: Backoff,
        previous: Reconnector | None,
    ) -> None:
        """Prepare the thread.

        Args:
            connect: makes one attempt.
            resume: takes the new connection.
            fail: takes the error of each failed attempt, and calls `cancel` if it was the last one.
            previous: the thread of the absence before, which may be about to end.
        """
        super().__init__(name="chatkit-reconnector", daemon=True)
        self._connect = connect
        self._resume = resume
        self._fail = fail
        self._backoff = backoff
        self._previous = previous
        self._cancel = CancelToken()

    def run(self) -> None:
        """Try until an attempt succeeds, or `cancel`."""
        try:
            if self._previous:
                self._previous.wait(None)
                self._previous = None
            while not self._cancel.wait(self._backoff.delay()) and not self._attempt():
                pass
        except Exception as error:  # an unexpected one must not leave the caller waiting
            self._fail(error)

    def _attempt(self) -> bool:
        """Try once. Return whether it succeeded."""
        try:
            with self._cancel:
                connection = self._connect(self._cancel)
        except Cancelled:
            return False
        except (OSError, ChatError) as error:
            self._fail(error)
            return False
        self._resume(connection)
        return True

    def cancel(self) -> None:
        """End the thread at once. Don't wait for it."""
        self._cancel.set()

    def wait(self, seconds: float | None = LOOK_UP_SECONDS) -> None:
        """Wait for the thread's end, after `cancel` no longer than for a look-up that hangs."""
        if self.is_alive():  # else it may not have been started
            self.join(seconds)
