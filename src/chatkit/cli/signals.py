"""Signals at a command: an orderly end, the end at once, a reload."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from chatkit.limits import SECOND_SIGNAL_SECONDS

Handler = Callable[[int, Any], None]


def end_on_signals(*names: str, at_first: Callable[[], None] = lambda: None) -> Handler:
    """Have the first of these signals raise KeyboardInterrupt(number), and a second one kill the process at once.

    Signals within SECOND_SIGNAL_SECONDS after the first are ignored.

    Args:
        names: of the signals, such as SIGINT.
        at_first: called before KeyboardInterrupt is raised.

    Returns:
        The handler, for other signals that mean the same.
    """
    first_at: float | None = None

    def end(number: int, frame: object) -> None:
        nonlocal first_at
        now = time.monotonic()
        if first_at is None:
            first_at = now
            at_first()
            raise KeyboardInterrupt(number)
        if now - first_at >= SECOND_SIGNAL_SECONDS:
            _kill(number)

    for name in names:
        _handle(name, end)
    return end


def leave_on_signals(leave: Callable[[], None]) -> None:
    """Have the first SIGTERM or SIGHUP call `leave`, and the next one what it has meant so far."""
    for name in ("SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            _handle(name, partial(_leave, leave, signal.getsignal(number)))


def _leave(leave: Callable[[], None], before: Any, number: int, frame: object) -> None:
    signal.signal(number, before)
    leave()


def end_by(interrupt: KeyboardInterrupt) -> NoReturn:
    """End the process by the signal that has raised an interrupt, so that a shell, and its loop or script, see it."""
    _kill(next(iter(interrupt.args), signal.SIGINT))


def _kill(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # the first process of a container survives the default action


def reload_on_hangup(reload: Callable[[], None], end: Handler) -> None:
    """Have SIGHUP call `reload`, but `end` if the terminal that the process was started on has gone.

    A process without a terminal, such as a service, never ends by it.
    """
    if not hasattr(signal, "SIGHUP"):
        return
    had_terminal = _has_terminal()

    def hang_up(number: int, frame: object) -> None:
        if had_terminal and not _has_terminal():
            end(number, frame)
        else:
            reload()

    _handle("SIGHUP", hang_up)


def _handle(name: str, handler: Handler) -> None:
    """Install a handler, if the system has the signal.

    A signal that was ignored at the start stays ignored: nohup, or a script's `&`, meant that.
    """
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, handler)


def _has_terminal() -> bool:
    """Tell whether the process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return False
    return True
