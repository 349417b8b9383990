"""The connections of a worker whose peers may have something to acknowledge."""

from __future__ import annotations

import math
from collections import OrderedDict

from chatkit.net.acknowledgements import LOOKS, unanswered_since
from chatkit.server.connection import Connection

# In one turn: less than a millisecond.
MAX_LOOKS = 256


class Acknowledgements:
    """Finds peers whose kernels don't answer.

    Operations: `add` a connection after a send, `look` at those whose time has come, `forget` one. Goal: a send to a
    connection that it has already costs nothing but that question, an idle connection nothing at all. Plan: a queue in
    the order of time, since each is looked at the same time after it was added or looked at before. A connection with
    everything acknowledged leaves the queue until the next send.

    Args:
        seconds: the time after which a peer that answers nothing is gone.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._interval = seconds / LOOKS
        self._queue = OrderedDict[Connection, tuple[float, float]]()  # when to look, and since when it is silent

    @property
    def next(self) -> float:
        """The time when `look` must be called."""
        return next(iter(self._queue.values()))[0] if self._queue else math.inf

    def add(self, connection: Connection, now: float) -> None:
        """Add a connection, after the first send since everything was acknowledged."""
        connection.awaits_ack = True
        self._queue[connection] = now + self._interval, now

    def look(self, now: float) -> list[Connection]:
        """Look at connections whose time has come, not at too many at once. Returns those whose peers are gone."""
        gone = []
        for _ in range(MAX_LOOKS):
            if self.next > now:
                break
            connection, (_, since) = self._queue.popitem(last=False)
            still_since = unanswered_since(connection.transport, since, now)
            if still_since is None:
                connection.awaits_ack = False
            elif now - still_since >= self._seconds:
                gone.append(connection)
            else:
                self._queue[connection] = now + self._interval, still_since
        return gone

    def forget(self, connection: Connection) -> None:
        """Drop a connection."""
        self._queue.pop(connection, None)
