"""The states of a server.

| state    | entered by                           | `start`      | `broadcast`, `tell`, `kick`       |
|----------|--------------------------------------|--------------|-----------------------------------|
| NEW      | -                                    | STARTING     | RuntimeError                      |
| STARTING | `start`; one that fails ends here    | RuntimeError | RuntimeError, ignored from hooks  |
| RUNNING  | `start`, when its threads may run    | RuntimeError | done soon                         |
| STOPPING | `shutdown`, or a thread that dies    | RuntimeError | RuntimeError, ignored from hooks  |
| STOPPED  | `shutdown`                           | RuntimeError | RuntimeError                      |

A state is never entered again: a server starts once.
"""

from __future__ import annotations

import threading
from enum import IntEnum


class ServerState(IntEnum):
    """The states, in order."""

    NEW = 0
    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    STOPPED = 4


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

    def wait_for(self, state: ServerState, timeout: float | None = None) -> bool:
        """Wait until this state, or a later one, is entered. Returns False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.state >= state, timeout)
