"""The newest messages, in memory. Gone with the process."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice

from chatkit.events import Message
from chatkit.history.base import History, bytes_of


class MemoryHistory(History):
    """size: how many messages are kept. Every method may be called from any thread."""

    def __init__(self, size: int) -> None:
        self.epoch = secrets.token_hex(8)
        self.newest_id = 0
        self.unused = []
        self._messages: deque[Message] = deque(maxlen=size)
        self._lock = threading.Lock()

    @property
    def oldest_id(self) -> int:
        """Of the messages that are kept; above all ids while none is."""
        with self._lock:
            return self._messages[0].id or 0 if self._messages else self.newest_id + 1

    def open(self) -> None:
        pass

    def append(self, messages: Sequence[Message]) -> None:
        with self._lock:
            self._messages.extend(messages)
            if messages:
                self.newest_id = messages[-1].id or 0
                self.pruned_upto = (self._messages[0].id or 1) - 1

    def skip(self, first: int, last: int) -> None:
        self.add_unused(first, last)
        self.newest_id = last

    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        with self._lock:
            place = bisect_right(self._messages, after, key=lambda message: message.id or 0)
            found = list[Message]()
            for message in islice(self._messages, place, None):
                if (message.id or 0) > upto or max_bytes <= 0:
                    break
                found.append(message)
                max_bytes -= bytes_of(message)
        return found

    def maintain(self, *, idle: bool) -> float:
        return float("inf")

    def close(self) -> None:
        pass

    def forget(self, upto: int) -> None:
        """Messages with ids up to this one are not kept any more."""
        with self._lock:
            while self._messages and (self._messages[0].id or 0) <= upto:
                self._messages.popleft()
