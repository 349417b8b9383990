"""The input of `chat-client`: from standard input to the room."""

from __future__ import annotations

import selectors
import sys
import threading
from collections import deque

from chatkit import ChatError, Client, Event, Reconnected, Synced, Unconfirmed
from chatkit.cli.common import CHAT_CLIENT, complain, reason
from chatkit.client.opening import SYNC
from chatkit.errors import NotConnected
from chatkit.protocol.lines import BadLine, Line, LineDecoder

READ_BYTES = 64 * 1024


class InputStopped(Exception):
    """The end of the reading by `stop`, which is no end of input."""


class InputThread(threading.Thread):
    """The thread that sends the input line by line, while others' lines are shown.

    It is a daemon and reads its descriptor directly. So when the server ends first, the process leaves at once, even
    while this thread waits for input, and lines that are typed after that belong to the shell.

    Attributes:
        has_left: whether the end is ours: the line `exit`, or the end of input.
        has_refused_line: whether a line of the input could not be sent.
    """

    def __init__(
        self, client: Client, max_line_bytes: int, final_line: str = "", *, waits_for_return: bool = False
    ) -> None:
        """Prepare the thread.

        Args:
            final_line: sent before the end, unless it is empty.
            waits_for_return: for a client that reconnects: a line that can't be queued during an absence waits, and so
                does the end of input.
        """
        super().__init__(daemon=True)
        self.has_left = False
        self.has_refused_line = False
        self._final_line = final_line
        self._client = client
        self._decoder = LineDecoder(max_line_bytes)
        self._lines = deque[Line]()
        self._line_number = 0
        self._waits_for_return = waits_for_return
        self._is_confirming = False
        self._is_confirmed = False
        self._wakeup = threading.Event()

    def run(self) -> None:
        """Send the input until its end, or until the conversation is over."""
        try:
            while not self.has_left:
                data = self._read()
                self._lines += self._decoder.receive_data(data) if data else self._decoder.receive_eof()
                self._send_lines()
                if not data and not self.has_left and self._waits_for_return and self._line_number:
                    self._wait_until_confirmed()
                if not data and not self.has_left:
                    self._leave()
                    self._client.send_eof()
        except (ChatError, OSError, InputStopped):
            pass  # the main thread receives the same error, or has stopped this one

    def receive(self, event: Event) -> bool:
        """Look for the end of a wait in an event. Return whether the event is for this thread alone."""
        is_ours = self._is_confirming and isinstance(event, Synced)
        self._is_confirmed |= is_ours
        if is_ours or isinstance(event, Reconnected | Unconfirmed):
            self._wakeup.set()
        return is_ours

    def count_queued(self) -> int:
        """Return the number of lines that wait for the return."""
        return sum(line != SYNC for line in self._client.queued)

    def describe_unsent(self) -> str:
        """Return words about lines that were read but not sent, or "". Only to be called after the client is closed."""
        self._wakeup.set()
        self.join(0.1)  # it may wait for input for ever
        number = len(self._lines) + self._count_unread() + self.count_queued()
        return f"; {number} lines of input were not sent" if number else ""

    def stop(self) -> None:
        """End the reading, as far as a user notices it. The main thread calls it at the end of the conversation."""

    def _count_unread(self) -> int:
        """Return the number of lines that wait to be read, if it is known."""
        return 0

    def _read(self) -> bytes:
        if sys.stdin is None:
            return b""
        raw = getattr(
            sys.stdin.buffer, "raw", sys.stdin.buffer
        )  # on Windows it gives UTF-8, and the descriptor doesn't
        try:
            while (data := raw.read(READ_BYTES)) is None:  # another process made it non-blocking
                with selectors.DefaultSelector() as selector:
                    selector.register(0, selectors.EVENT_READ)
                    selector.select()
            return bytes(data)
        except OSError as error:
            complain(CHAT_CLIENT, f"cannot read the input: {reason(error)}")
            return b""

    def _leave(self) -> None:
        self.has_left = True
        if self._final_line:
            self._client.send(self._final_line)

    def _wait_until_confirmed(self) -> None:
        """Wait until the room has received every line, however often the connection is lost meanwhile."""
        self._is_confirming = True
        while not self._is_confirmed:
            self._send(SYNC)
            self._wakeup.wait()

    def _send(self, line: str) -> None:
        while True:
            self._wakeup.clear()
            try:
                return self._client.send(line)
            except NotConnected:
                if not self._waits_for_return:
                    raise
            self._wakeup.wait()

    def _send_lines(self) -> None:
        while self._lines and not self.has_left:
            line = self._lines[0]
            self._line_number += 1
            try:
                if isinstance(line, BadLine):
                    raise ValueError(f"not sent: {line.reason}")
                assert isinstance(line, str)
                if line.strip() == "exit":
                    self._leave()
                self._send(line)
            except (ValueError, NotConnected) as error:
                self._refuse(error)
            self._lines.popleft()

    def _refuse(self, error: ChatError | ValueError) -> None:
        self.has_refused_line = True
        complain(CHAT_CLIENT, f"line {self._line_number} of the input was {error}")
