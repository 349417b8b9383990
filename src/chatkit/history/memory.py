"""What was said, in order, to be told again."""

from __future__ import annotations

from collections import deque
from itertools import islice

from chatkit.encoding import encode_json
from chatkit.events import Message


class History:
    """The newest messages, in memory.

    size: how many are kept. max_replay_bytes: a replay is at most so long, the newest of what there is.
    """

    def __init__(self, size: int, max_replay_bytes: int) -> None:
        self._messages: deque[Message] = deque(maxlen=size)
        self._lines: dict[int, bytes] = {}  # those that were told again, by id: however many ask, they are kept once
        self._max_replay_bytes = max_replay_bytes

    def append(self, messages: list[Message]) -> None:
        """Keep `messages`, whose ids follow those before."""
        self._messages.extend(messages)

    def after(self, after: int, newest_id: int) -> tuple[int, list[bytes]]:
        """How many messages with ids above `after` are missing, then the JSON lines of those that follow."""
        wanted = max(0, newest_id - after)
        lines, size = list[bytes](), 0
        for message in islice(reversed(self._messages), wanted):
            line = self._line(message)
            size += len(line)
            if size > self._max_replay_bytes:
                break
            lines.append(line)
        return wanted - len(lines), lines[::-1]

    def _line(self, message: Message) -> bytes:
        assert message.id
        line = self._lines.get(message.id)
        if line is None:
            self._lines[message.id] = line = encode_json(message)
            if len(self._lines) > 2 * len(self._messages):
                oldest = self._messages[0].id or 0
                self._lines = {number: kept for number, kept in self._lines.items() if number >= oldest}
        return line
