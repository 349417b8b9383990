"""A history in memory: the newest messages. It ends with the process."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice

from chatkit.events import Message
from chatkit.history.base import History, estimated_bytes


class MemoryHistory(History):
    """A history of the newest messages in memory.

    Args:
        size: the number of messages to keep; each append beyond it prunes the oldest.

    Threads: any thread may call any method, but `append`, `skip` and `forget` only one thread at a time.
    """

    def __init__(self, size: int) -> None:
        self.epoch = secrets.token_hex(8)
        self.newest_id = 0
        self.unused = []
        self._messages: deque[Message] = deque(maxlen=size)
        self._lock = threading.Lock()

    @property
    def oldest_id(self) -> int:
        """Return the lowest kept id, above `newest_id` if no message is kept."""
        with self._lock:
            return self._messages[0].id or 0 if self._messages else self.newest_id + 1

    def open(self) -> None:
        """Do nothing."""

    def append(self, messages: Sequence[Message]) -> None:
        """Keep these messages, and drop the oldest beyond `size`."""
        with self._lock:
            self._messages.extend(messages)
            if messages:
                self.newest_id = messages[-1].id or 0
                self.pruned_upto = (self._messages[0].id or 1) - 1

    def skip(self, first: int, last: int) -> None:
        """Mark the ids from `first` to `last` (both inclusive) as unused."""
        self.add_unused(first, last)
        self.newest_id = last

    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        """Return the first kept messages with ids above `after` up to `upto`, about `max_bytes` long."""
        with self._lock:
            start = bisect_right(self._messages, after, key=lambda message: message.id or 0)
            found = list[Message]()
            for message in islice(self._messages, start, None):
                if (message.id or 0) > upto or max_bytes <= 0:
                    break
                found.append(message)
                max_bytes -= estimated_bytes(message)
        return found

    def maintain(self, *, idle: bool) -> float:
        """Return infinity: nothing needs maintenance."""
        return float("inf")

    def close(self) -> None:
        """Do nothing: the messages stay until the object goes."""

    def forget(self, upto: int) -> None:
        """Drop the messages with ids up to this one."""
        with self._lock:
            while self._messages and (self._messages[0].id or 0) <= upto:
                self._messages.popleft()
