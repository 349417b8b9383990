"""The states of a server.

| state    | entered by                           | `start`      | `broadcast`, `tell`, `kick`       |
|----------|--------------------------------------|--------------|-----------------------------------|
| NEW      | -                                    | STARTING     | RuntimeError                      |
| STARTING | `start`; one that fails ends here    | RuntimeError | RuntimeError, ignored from hooks  |
| RUNNING  | `start`, when its threads may run    | RuntimeError | done soon                         |
| STOPPING | `shutdown`, or a thread that dies    | RuntimeError | RuntimeError, ignored from hooks  |
| STOPPED  | `shutdown`                           | RuntimeError | RuntimeError                      |
| COPIED   | a fork, in the child                 | RuntimeError | RuntimeError                      |

A state is never entered again: a server starts once. In COPIED, `shutdown` has nothing to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntEnum

from chatkit.limits import SECOND_SIGNAL_SECONDS
from chatkit.net.sockets import SIGNAL_SECONDS


class ServerState(IntEnum):
    """The states, in order."""

    NEW = 0
    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    STOPPED = 4
    COPIED = 5


class Lifecycle:
    """The state of one server, shared by its threads."""

    def __init__(self) -> None:
        self.state = ServerState.NEW
        self._changed = threading.Condition()  # its lock is reentrant: a signal handler may take it again

    def advance(self, state: ServerState) -> None:
        """Enter a state, unless a later one has been entered."""
        with self._changed:
            if state > self.state:
                self.state = state
                self._changed.notify_all()

    def enter_copied(self) -> None:
        """Enter COPIED, in a forked child: the lock may be that of a thread of the parent."""
        self.state, self._changed = ServerState.COPIED, threading.Condition()

    def wait_for(self, state: ServerState, timeout: float | None = None) -> bool:
        """Wait until this state, or a later one, is entered. Returns False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.state >= state, timeout)


def finish(end: Callable[[], None]) -> None:
    """Call `end` in a thread of its own, and wait for it.

    A KeyboardInterrupt within SECOND_SIGNAL_SECONDS is raised when all is done, a later one at once. Neither cuts `end`
    short: an interrupted `Thread.join` would take a thread that runs for a dead one (Python 3.11 and 3.12).
    """
    done, until = threading.Event(), time.monotonic() + SECOND_SIGNAL_SECONDS
    raised = list[BaseException]()

    def end_and_tell() -> None:
        try:
            end()
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=end_and_tell, name="chatkit-end", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no thread left
        end()
        return
    while not done.is_set():
        try:
            done.wait(SIGNAL_SECONDS)
        except KeyboardInterrupt as error:
            if time.monotonic() > until:
                raise
            raised.append(error)
    thread.join()
    if raised:
        raise raised[0]
