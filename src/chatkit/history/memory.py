"""A history in memory: the newest messages. It ends with the process."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_right
from collections.abc import Sequence

from chatkit.events import Message
from chatkit.history.base import History, estimated_bytes

# The messages of a full block. Deleting some at its start moves 8 KiB at most.
BLOCK = 1024


class MemoryHistory(History):
    """A history of the newest messages in memory.

    Args:
        size: the number of messages to keep; each append beyond it prunes the oldest.

    Raises:
        ValueError: `size` is below zero.

    Threads: any thread may call any method, but `append`, `skip` and `forget` only one thread at a time.
    """

    # Operations: append at the end, drop at the start, read from any id on. Goal: none takes longer with a million
    # messages than with a thousand (a deque takes n / 64 steps to its middle), and none needs more memory than a deque.
    # Plan: a list of blocks. A search for the block and one inside of it find an id. A list that has grown has room for
    # an eighth more, so a full block is copied once.

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"size must not be below zero, but is {size}")
        self.epoch = secrets.token_hex(8)
        self.newest_id = 0
        self.unused = []
        self._size = size
        self._blocks: list[list[Message]] = []  # by ascending id; none is empty, all but the first and last are full
        self._number = 0  # of messages, in all blocks
        self._lock = threading.Lock()

    @property
    def oldest_id(self) -> int:
        """Return the lowest kept id, above `newest_id` if no message is kept."""
        with self._lock:
            return self._oldest_id()

    def _oldest_id(self) -> int:
        return _id(self._blocks[0][0]) if self._blocks else self.newest_id + 1

    def open(self) -> None:
        """Do nothing."""

    def append(self, messages: Sequence[Message]) -> None:
        """Keep these messages, and drop the oldest beyond `size`."""
        if not messages:
            return
        with self._lock:
            begin = 0
            while begin < len(messages):
                if not self._blocks or len(self._blocks[-1]) >= BLOCK:
                    self._blocks.append([])
                end = begin + BLOCK - len(self._blocks[-1])
                self._blocks[-1] += messages[begin:end]
                begin = end
                if len(self._blocks[-1]) == BLOCK:
                    self._blocks[-1] = self._blocks[-1].copy()
            self._number += len(messages)
            while self._number > self._size:
                self._drop(min(self._number - self._size, len(self._blocks[0])))
            self.newest_id = _id(messages[-1])
            self.pruned_upto = self._oldest_id() - 1

    def _drop(self, number: int) -> None:
        """Drop the first messages of the first block."""
        assert self._lock.locked()
        if number == len(self._blocks[0]):
            del self._blocks[0]
        else:
            del self._blocks[0][:number]
        self._number -= number

    def skip(self, first: int, last: int) -> None:
        """Mark the ids from `first` to `last` (both inclusive) as unused."""
        self.add_unused(first, last)
        self.newest_id = last

    def read(self, after: int, upto: int, max_bytes: int) -> list[Message]:
        """Return the first kept messages with ids above `after` up to `upto`, about `max_bytes` long."""
        found = list[Message]()
        with self._lock:
            place = max(0, bisect_right(self._blocks, after, key=_first_id) - 1)
            start = bisect_right(self._blocks[place], after, key=_id) if self._blocks else 0
            for number in range(place, len(self._blocks)):
                for message in self._blocks[number][start:]:
                    if _id(message) > upto or max_bytes <= 0:
                        return found
                    found.append(message)
                    max_bytes -= estimated_bytes(message)
                start = 0
        return found

    def maintain(self, *, idle: bool) -> float:
        """Return infinity: nothing needs maintenance."""
        return float("inf")

    def close(self) -> None:
        """Do nothing: the messages stay until the object goes."""

    def forget(self, upto: int) -> None:
        """Drop the messages with ids up to this one."""
        with self._lock:
            while self._blocks and (number := bisect_right(self._blocks[0], upto, key=_id)):
                self._drop(number)


def _id(message: Message) -> int:
    return message.id or 0


def _first_id(block: list[Message]) -> int:
    return _id(block[0])
