"""The input of `chat-client` at a terminal that edits the lines itself."""

from __future__ import annotations

import os
import select
import signal
import sys
from abc import abstractmethod
from contextlib import suppress

from chatkit import Event, Notice
from chatkit.cli.client.input import READ_BYTES, InputStopped, InputThread
from chatkit.cli.client.modes import TerminalModes
from chatkit.protocol.replies import ASKS_PASSWORD, PASSWORD_COMMAND, WRONG_PASSWORD

# The kernel keeps no more of a line that it edits, without its line end.
MAX_KERNEL_LINE_BYTES = 4095
STOP_SECONDS = 0.1


class TerminalInput(InputThread):
    """The input of a person at a terminal. A room's question for its password is answered without showing it."""

    _is_typed = True
    _is_joining = True

    def receive(self, event: Event) -> bool:
        """Look for the question for the password. Return whether the event is for this thread alone."""
        if self._is_joining and isinstance(event, Notice) and event.text in (ASKS_PASSWORD, WRONG_PASSWORD):
            self.ask_password("" if event.text == ASKS_PASSWORD else str(event))
            return True
        self._is_joining = False
        return super().receive(event)

    @abstractmethod
    def ask_password(self, problem: str) -> None:
        """Take the next line as the password, and don't show it.

        Args:
            problem: a line that says why it is asked once more, or "".
        """


class LineInput(TerminalInput):
    """Lines as the kernel edits them: for screen readers, for dumb terminals, and where prompt_toolkit is missing."""

    _hidden: TerminalModes | None = None
    _is_over = False

    def start(self) -> None:
        """Start to read. In the background that stops the process, as it stops `cat`."""
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        signal.signal(signal.SIGCONT, self._continued)
        super().start()

    def ask_password(self, problem: str) -> None:
        """Hide what is typed until the end of the line."""
        self._hidden = self._hidden or TerminalModes()
        self._hidden.hide()
        sys.stdout.write(f"{problem}\nPassword: " if problem else "Password: ")
        sys.stdout.flush()

    def stop(self) -> None:
        """Drop what was typed and not read. The next line of the screen is a new one."""
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        self._is_over = True
        if self.is_alive():  # it may not have been started
            self._wake()
            self.join(STOP_SECONDS)
        is_complaining = isinstance(sys.exception(), KeyboardInterrupt) and self.count_queued() > 0
        drop_typed(self._end_hiding() or is_complaining)  # the kernel has shown ^C

    def run(self) -> None:
        """Send the input until its end, or until `stop`."""
        try:
            super().run()
        finally:
            os.close(self._woken)

    def _read(self) -> bytes:
        """Wait for a line without reading, which would keep every other thread from the terminal."""
        while True:
            with suppress(OSError):  # to be found by the read below
                os.read(0, 0)
            ready, _, _ = select.select([0, self._woken], [], [])
            if self._is_over:
                raise InputStopped
            if self._woken in ready:
                os.read(self._woken, READ_BYTES)
            elif (data := self._read_line()) is not None:
                return data

    def _read_line(self) -> bytes | None:
        """Return a line, or None if it is refused."""
        data = super()._read()
        if data and self._end_hiding():
            _end_line()
            return PASSWORD_COMMAND.encode() + data
        if len(data) <= MAX_KERNEL_LINE_BYTES:
            return data
        self._line_number += 1
        self._refuse(ValueError(f"not sent: the terminal cut it at {MAX_KERNEL_LINE_BYTES} bytes"))
        return None

    def _continued(self, number: int, frame: object) -> None:
        self._wake()  # this may be the background, where it must not go on

    def _wake(self) -> None:
        with suppress(OSError):
            os.write(self._wakes, b"x")

    def _count_unread(self) -> int:
        return 0  # they are dropped

    def _end_hiding(self) -> bool:
        """Show again what is typed. Return whether it was hidden."""
        hidden, self._hidden = self._hidden, None
        if hidden:
            hidden.end()
        return hidden is not None


def drop_typed(is_in_line: bool = False) -> None:
    """Drop what was typed and not read. The next line of the screen is a new one.

    Args:
        is_in_line: whether the cursor is known to be in a line.
    """
    if TerminalModes().drop_typed_line() or is_in_line:
        _end_line()


def _end_line() -> None:
    with suppress(OSError):
        sys.stdout.write("\n")
        sys.stdout.flush()
