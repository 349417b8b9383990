"""Lines on their way to the terminal: printed at once, or above the line that is being edited."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from chatkit.cli.client.output import OutputLost, print_line

# A terminal that shows lines more slowly than they arrive makes `write` wait, and in the end the server.
MAX_WAITING_CHARACTERS = 256 * 1024
# Keys are looked at between two batches.
MAX_BATCH_CHARACTERS = 32 * 1024
# While lines wait anyway, one that was read alone makes its reader pause, so that the next read brings several: to read
# costs more than a line.
READ_ALONE_SECONDS = 0.0002
READ_PAUSE_SECONDS = 0.005


class Scrollback:
    """The lines of the chat, from any thread, in order.

    Operations: `write`; and for an editor, which redraws its line below them: `attach`, `take`, `fail`, `detach`.
    Plan: without an editor a line is printed by its writer. With one it waits, within a bound, until the editor takes
    it together with all the others of the moment: to redraw costs far more than a line.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = deque[str]()
        self._waiting_characters = 0
        self._wake: Callable[[], None] | None = None
        self._failure: OSError | None = None
        self._written_at = 0.0

    def write(self, line: str, *, waits: bool = True) -> None:
        """Show a line.

        Args:
            waits: whether to wait while too much does already. The thread of the editor must not.

        Raises:
            OutputLost: the terminal accepts no more.
        """
        with self._changed:
            if waits:
                self._changed.wait_for(self._has_room)
            if self._failure:
                raise OutputLost(self._failure)
            if not self._wake:
                print_line(line)
                return
            is_first = not self._waiting
            if is_first:
                self._wake()
            self._waiting.append(f"{line}\n")
            self._waiting_characters += len(line) + 1
        if waits and not is_first and time.monotonic() - self._written_at > READ_ALONE_SECONDS:
            time.sleep(READ_PAUSE_SECONDS)
        self._written_at = time.monotonic()

    def flush(self) -> None:
        """Do nothing: no line waits for it."""

    def attach(self, wake: Callable[[], None]) -> None:
        """Have lines wait from now on. `wake` is called, in any thread, when the first of them comes."""
        with self._changed:
            self._wake = wake

    def take(self) -> str:
        """Return lines to show now, or "" if there are none."""
        with self._changed:
            lines, size = list[str](), 0
            while self._waiting and size < MAX_BATCH_CHARACTERS:
                lines.append(self._waiting.popleft())
                size += len(lines[-1])
            self._waiting_characters -= size
            self._changed.notify_all()
            return "".join(lines)

    def fail(self, error: OSError) -> None:
        """Note that the terminal accepts no more."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def detach(self) -> None:
        """Print what still waits, and each later line at once.

        Raises:
            OutputLost: the terminal accepts no more.
        """
        with self._changed:
            self._wake = None
            waiting, self._waiting, self._waiting_characters = self._waiting, deque(), 0
            self._changed.notify_all()
            if waiting and not self._failure:
                print_line("".join(waiting).removesuffix("\n"))

    def _has_room(self) -> bool:
        return not self._wake or self._waiting_characters < MAX_WAITING_CHARACTERS or self._failure is not None
