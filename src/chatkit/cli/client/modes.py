"""The modes of a terminal, and the manners of a program that shares it with a shell."""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
from contextlib import suppress
from typing import Any

READ_BYTES = 64 * 1024
STOP_SECONDS = 0.2


class TerminalModes:
    """The terminal at standard input. It is read and set only in the foreground.

    Plan: a read of no bytes in the background stops the process, as each read does, until the shell continues it in the
    foreground. So a client that must read is stopped by the kernel, exactly as `cat` is.

    Attributes:
        is_continued: set each time that the process goes on after a stop.
    """

    def __init__(self) -> None:
        self.is_continued = threading.Event()
        self._before: list[Any] | None = None

    def wait_for_foreground(self) -> None:
        """Return once this process may read the terminal.

        Raises:
            OSError: it never will: nobody can bring it to the foreground.
        """
        os.read(0, 0)

    @property
    def in_foreground(self) -> bool:
        """Tell whether this process may set the terminal. One that isn't its controlling terminal may always be set."""
        try:
            return os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            return True

    def begin(self) -> None:
        """Take the terminal over: remember its modes, and show no key that is typed from now on.

        Raises:
            OSError: see `wait_for_foreground`.
        """
        self.wait_for_foreground()
        self._before = termios.tcgetattr(0)
        self.quiet()

    def quiet(self) -> None:
        """Keep typed keys for later and show none. Ctrl-C and Ctrl-Z are signals."""
        self._set(off=termios.ECHO | termios.ICANON)

    def hide(self) -> None:
        """Have the kernel edit lines, but show no key."""
        with suppress(OSError, termios.error):
            self.wait_for_foreground()
            self._before = termios.tcgetattr(0)
            self._set(off=termios.ECHO)

    @property
    def is_begun(self) -> bool:
        """Tell whether the modes are other ones than before."""
        return self._before is not None

    @property
    def is_raw(self) -> bool:
        """Tell whether nobody has changed the modes since `raw`."""
        return not termios.tcgetattr(0)[3] & (termios.ICANON | termios.ISIG)

    def raw(self) -> None:
        """Read each key at once, Ctrl-C and Ctrl-Z too."""
        keys = termios.IXON | termios.ICRNL | termios.INLCR | termios.IGNCR
        self._set(off=termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG, off_input=keys)

    def end(self) -> None:
        """Give the terminal back as it was. A second call does nothing."""
        if self._before and self.in_foreground:
            with suppress(termios.error):  # it is gone
                termios.tcsetattr(0, termios.TCSANOW, self._before)
        self._before = None

    def suspend(self) -> None:
        """Stop this job, as Ctrl-Z does, and return in the foreground.

        Raises:
            OSError: see `wait_for_foreground`.
        """
        self.end()
        self.is_continued.clear()
        os.kill(0, signal.SIGTSTP)
        # The stop reaches this thread a moment later. In a group without a shell nothing stops.
        self.is_continued.wait(STOP_SECONDS)
        self.begin()

    @property
    def has_typed(self) -> bool:
        """Tell whether keys wait to be read, in `quiet` or `raw`."""
        return bool(select.select([0], [], [], 0)[0])

    def drop_typed(self) -> None:
        """Drop the keys that were typed and not read yet, so that no shell takes them for commands."""
        if self.in_foreground:
            with suppress(termios.error):
                termios.tcflush(0, termios.TCIFLUSH)

    def drop_typed_line(self) -> bool:
        """Drop what was typed and not read, in the terminal's own modes. Return whether the cursor is in a line.

        In these modes the kernel keeps a line until it is complete; its echo is on the screen already.
        """
        if not self.in_foreground:
            return False
        with suppress(OSError, termios.error):
            self.begin()
            typed = os.read(0, READ_BYTES) if self.has_typed else b""
            self.drop_typed()
            self.end()
            return bool(typed) and not typed.endswith(b"\n")
        return False

    def _set(self, off: int, off_input: int = 0) -> None:
        """Set modes that differ from those before in these flags."""
        if not self._before or not self.in_foreground:
            return
        modes = list(self._before)
        modes[0] &= ~off_input
        modes[3] &= ~off
        if off & termios.ICANON:
            modes[6] = [*modes[6]]
            modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        with suppress(termios.error):
            termios.tcsetattr(0, termios.TCSANOW, modes)
