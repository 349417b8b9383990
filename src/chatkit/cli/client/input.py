"""What `chat-client` sends."""

from __future__ import annotations

import os
import selectors
import threading
from collections import deque

from chatkit import ChatError, Client, Event, Reconnected, Synced, Unconfirmed
from chatkit.cli.common import CHAT_CLIENT, complain, reason
from chatkit.client.resume import SYNC
from chatkit.errors import NotConnected
from chatkit.protocol.lines import BadLine, Line, LineDecoder

READ_BYTES = 64 * 1024


class InputThread(threading.Thread):
    """Sends what is typed, line by line, from a thread of its own, so that others' lines show at any time.

    left: whether the end is ours: the line `exit`, or the end of input.
    refused: whether a line could not be sent as it is.
    last: what to say before that, if anything.
    patient: for a client that comes back: while it is away, what can't be sent or kept waits, the end of input too.

    Daemonic, and reads its descriptor directly: when the server ends first, the process leaves at once,
    even while this thread waits for input, and what is typed after that belongs to the shell.
    """

    def __init__(self, client: Client, max_line_bytes: int, last: str = "", *, patient: bool = False) -> None:
        super().__init__(daemon=True)
        self.left = False
        self.refused = False
        self._last = last
        self._client = client
        self._decoder = LineDecoder(max_line_bytes)
        self._lines = deque[Line]()
        self._number = 0
        self._patient = patient
        self._confirming = False
        self._confirmed = False
        self._woken = threading.Event()

    def run(self) -> None:
        try:
            while not self.left:
                data = self._read()
                self._lines += self._decoder.receive_data(data) if data else self._decoder.receive_eof()
                self._send_lines()
                if not data and not self.left and self._patient and self._number:
                    self._confirm()
                if not data and not self.left:
                    self._leave()
                    self._client.send_eof()
        except (ChatError, OSError):
            pass  # whoever receives hears it too

    def receive(self, event: Event) -> bool:
        """What was received may end a wait; whether it is for this thread alone."""
        is_ours = self._confirming and isinstance(event, Synced)
        self._confirmed |= is_ours
        if is_ours or isinstance(event, Reconnected | Unconfirmed):
            self._woken.set()
        return is_ours

    def kept(self) -> int:
        """How many lines wait for the return."""
        return sum(line != SYNC for line in self._client.queued)

    def unsent(self) -> str:
        """What to say about lines that were read but can't be sent any more. Only after the client is closed."""
        self._woken.set()
        self.join(0.1)  # it may wait for input for ever
        number = len(self._lines) + self.kept()
        return f"; {number} lines of input were not sent" if number else ""

    def _read(self) -> bytes:
        try:
            while True:
                try:
                    return os.read(0, READ_BYTES)
                except BlockingIOError:  # somebody made it non-blocking
                    with selectors.DefaultSelector() as selector:
                        selector.register(0, selectors.EVENT_READ)
                        selector.select()
        except OSError as error:
            complain(CHAT_CLIENT, f"cannot read the input: {reason(error)}")
            return b""

    def _leave(self) -> None:
        self.left = True
        if self._last:
            self._client.send(self._last)

    def _confirm(self) -> None:
        """Until the room has heard every line, however often the connection is lost meanwhile."""
        self._confirming = True
        while not self._confirmed:
            self._say(SYNC)
            self._woken.wait()

    def _say(self, line: str) -> None:
        while True:
            self._woken.clear()
            try:
                return self._client.send(line)
            except NotConnected:
                if not self._patient:
                    raise
            self._woken.wait()

    def _send_lines(self) -> None:
        while self._lines and not self.left:
            line = self._lines[0]
            self._number += 1
            try:
                if isinstance(line, BadLine):
                    raise ValueError(f"not sent: {line.reason}")
                assert isinstance(line, str)
                if line.strip() == "exit":
                    self._leave()
                self._say(line)
            except (ValueError, NotConnected) as error:
                self.refused = True
                complain(CHAT_CLIENT, f"line {self._number} of the input was {error}")
            self._lines.popleft()
