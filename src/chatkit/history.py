"""What was said, in order, to be told again."""

from __future__ import annotations

from collections import deque
from itertools import islice

from chatkit.events import Message

# What surrounds the name and the text in a JSON line: 75 bytes and the digits of the id.
FRAME_BYTES = 100


class History:
    """The newest messages, in memory.

    size: how many are kept. max_replay_bytes: as JSON a replay is at most so long, the newest of what there is.
    """

    def __init__(self, size: int, max_replay_bytes: int) -> None:
        self._messages: deque[Message] = deque(maxlen=size)
        self._max_replay_bytes = max_replay_bytes

    def append(self, messages: list[Message]) -> None:
        """Keep `messages`, whose ids follow those before."""
        self._messages.extend(messages)

    def after(self, after: int, newest_id: int) -> tuple[int, list[Message]]:
        """How many messages with ids above `after` are missing, then those that follow the missing ones."""
        wanted = max(0, newest_id - after)
        found, size = list[Message](), 0
        for message in islice(reversed(self._messages), wanted):
            size += 2 * len(f"{message}".encode()) + FRAME_BYTES  # quotation marks take two bytes
            if size > self._max_replay_bytes:
                break
            found.append(message)
        return wanted - len(found), found[::-1]
