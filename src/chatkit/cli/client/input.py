"""The input of `chat-client`: from standard input to the room."""

from __future__ import annotations

import codecs
import math
import selectors
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from chatkit import ChatError, Client, Event, Reconnected, Synced, Unconfirmed
from chatkit.cli.common import CHAT_CLIENT, complain, reason
from chatkit.client.opening import SYNC
from chatkit.errors import NotConnected
from chatkit.net.sockets import SIGNAL_SECONDS, Selector
from chatkit.protocol.lines import BadLine, Line, LineDecoder, is_exit

READ_BYTES = 64 * 1024
# Lines after `exit` are counted as far as they are there, in so many bytes.
COUNTED_BYTES = 1024 * 1024
# UTF-16 begins with a mark, or has a NUL here if its first letter is one of ASCII.
FIRST_BYTES = 2
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class InputSettings:
    """The manners of an input.

    Attributes:
        max_line_bytes: the longest line to send.
        exit_seconds: the time that the server has to end the conversation.
        final_line: sent before the end, unless it is empty. Then each line before it has no more time to be sent.
        waits_for_return: for a client that reconnects: a line that can't be queued during an absence waits, and so
            does the end of input.
        is_wanted: whether to read any input.
    """

    max_line_bytes: int
    exit_seconds: float
    final_line: str = ""
    waits_for_return: bool = False
    is_wanted: bool = True


class InputStopped(Exception):
    """The end of the reading by `stop`, which is no end of input."""


class InputThread(threading.Thread):
    """The thread that sends the input line by line, while others' lines are shown.

    It is a daemon and reads its descriptor directly. So when the server ends first, the process leaves at once, even
    while this thread waits for input, and lines that are typed after that belong to the shell.

    Attributes:
        has_left: whether the end is ours: the line `exit`, the end of input, or `leave`.
        has_refused_line: whether a line of the input could not be sent.
        has_failed: whether the input could not be read to its end.
        settings: its manners.
    """

    _is_typed = False  # by a person, at a terminal

    def __init__(self, client: Client, settings: InputSettings) -> None:
        super().__init__(daemon=True)
        self.has_left = False
        self.has_refused_line = False
        self.has_failed = False
        self.settings = settings
        self._client = client
        self._decoder = LineDecoder(settings.max_line_bytes)
        self._lines = deque[Line]()
        self._line_number = 0
        self._first = b""  # bytes of the input
        self._is_utf8 = False  # as far as it isn't ASCII
        self._has_sent_exit = False
        self._waiting_since = math.inf
        self._is_confirming = False
        self._is_confirmed = False
        self._wakeup = threading.Event()

    def run(self) -> None:
        """Send the input until its end, or until the conversation is over."""
        try:
            while self.settings.is_wanted and not self.has_left:
                data = self._checked(self._read())
                self._lines += self._decoder.receive_data(data) if data else self._decoder.receive_eof()
                self._send_lines()
                is_end = (not data or self.has_failed) and not self.has_left
                if is_end and self.settings.waits_for_return and self._line_number:
                    self._wait_until_confirmed()
                if is_end:
                    self._begin_leave()
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

    @property
    def gives_up_at(self) -> float:
        """Return when (`time.monotonic`) the server has had its time to end the conversation; `math.inf` before."""
        return self._waiting_since + self.settings.exit_seconds

    def leave(self) -> None:
        """Leave without the rest of the input. It returns at once: the server may read nothing."""
        threading.Thread(target=self._leave, daemon=True).start()

    def describe_unsent(self) -> str:
        """Return words about lines that were read but not sent, or "". Only to be called after the client is closed."""
        self._wakeup.set()
        self.join(0.1)  # it may wait for input for ever
        queued = self.count_queued()
        number = len(self._lines) + queued + self._count_unread()
        after = "after exit " if self._has_sent_exit and not queued else ""
        return f"{number} lines of input {after}were not sent" if number else ""

    def stop(self) -> None:
        """End the reading, as far as a user notices it. The main thread calls it at the end of the conversation."""

    def _count_unread(self) -> int:
        """Return the number of lines that wait to be read behind `exit`, as far as they are there."""
        lines, size = 0, 0 if self._has_sent_exit else COUNTED_BYTES
        with suppress(OSError, ValueError), Selector() as selector:  # some inputs of Windows can't be waited for
            selector.register(0, selectors.EVENT_READ)
            while size < COUNTED_BYTES and selector.select(0) and (data := self._read()):
                lines += len(self._decoder.receive_data(data))
                size += len(data)
        return lines + (self._has_sent_exit and self._decoder.in_line)

    def _read(self) -> bytes:
        if sys.stdin is None:
            return b""
        raw = getattr(
            sys.stdin.buffer, "raw", sys.stdin.buffer
        )  # on Windows it gives UTF-8, and the descriptor doesn't
        try:
            while (data := raw.read(READ_BYTES)) is None:  # another process made it non-blocking
                with Selector() as selector:
                    selector.register(0, selectors.EVENT_READ)
                    selector.select(SIGNAL_SECONDS)
            return bytes(data)
        except OSError as error:
            return self._fail(f"cannot read the input: {reason(error)}")

    def _checked(self, data: bytes) -> bytes:
        """Return what was read, or the end of the input if it begins in UTF-16."""
        if self._is_typed or len(self._first) == FIRST_BYTES:
            return data
        self._first += data[: FIRST_BYTES - len(self._first)]
        if self._first not in UTF_16_MARKS and b"\0" not in self._first:
            return data
        self._decoder = LineDecoder(self.settings.max_line_bytes)  # the other one may have the first byte
        return self._fail("the input is UTF-16, not UTF-8: nothing of it was sent")

    def _fail(self, problem: str) -> bytes:
        """Tell why the input isn't read to its end. Return the end."""
        complain(CHAT_CLIENT, problem)
        self.has_failed = True
        return b""

    def _begin_leave(self) -> None:
        self.has_left = True
        self._expect_end()
        if self.settings.final_line:
            self._client.send(self.settings.final_line)

    def _leave(self) -> None:
        with suppress(ChatError):  # the main thread receives the same error
            if not self.has_left:
                self._begin_leave()
                self._client.leave()

    def _expect_end(self) -> None:
        """Begin the time that the server has to end the conversation, `exit_seconds`."""
        self._waiting_since = time.monotonic()

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
                if not self.settings.waits_for_return:
                    raise
            self._wakeup.wait()

    def _send_in_time(self, line: str) -> None:
        """Send a line, with --once within the time of `gives_up_at`."""
        is_bounded = bool(self.settings.final_line) and not self.has_left
        if is_bounded:
            self._expect_end()
        self._send(line)
        if is_bounded and not self.has_left:
            self._waiting_since = math.inf

    def _send_lines(self) -> None:
        while self._lines and not self.has_left:
            line = self._lines[0]
            self._line_number += 1
            try:
                if isinstance(line, BadLine) and line.code == "not_utf8" and not (self._is_utf8 or self._is_typed):
                    self._fail(f"line {self._line_number} of the input isn't UTF-8: nothing from there on was sent")
                    self._lines.clear()
                    return
                if isinstance(line, BadLine):
                    raise ValueError(f"not sent: {line.reason}")
                assert isinstance(line, str)
                self._is_utf8 |= not line.isascii()
                if is_exit(line):
                    self._begin_leave()
                self._send_in_time(line)
                self._has_sent_exit |= is_exit(line)
            except (ValueError, NotConnected) as error:
                self._refuse(error)
            self._lines.popleft()

    def _refuse(self, error: ChatError | ValueError) -> None:
        self.has_refused_line = True
        complain(CHAT_CLIENT, f"line {self._line_number} of the input was {error}")
