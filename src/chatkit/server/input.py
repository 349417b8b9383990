"""The input side of a connection: bytes to lines, with a rate and a deadline for the unfinished line. No socket."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from chatkit.limits import Limits
from chatkit.protocol.lines import Foreign, Line
from chatkit.protocol.sniff import SniffingDecoder
from chatkit.protocol.telnet import IAC, TelnetFilter
from chatkit.server.throttle import Throttle
from chatkit.server.unframed import Unframed


class Input:
    """The bytes that a peer sent, as lines. Times are those of `time.monotonic`.

    Attributes:
        undecoded: bytes that were read and aren't decoded: a read brings so many lines, the rest waits.
        line_due: the time when the unfinished line must have ended: `math.inf` between lines, `-math.inf` if more than
            `max_overlong_bytes` of it are skipped.
        answers: bytes to send at once, in answer to telnet's commands.
        takes_after: the seconds of quiet after which text without a line end counts as a line; `math.inf` if it never
            does.
    """

    __slots__ = (
        "_decoder", "_has_ended_line", "_limits", "_telnet", "_throttle", "_unframed",
        "answers", "line_due", "takes_after", "undecoded",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.undecoded = self.answers = b""
        self.line_due = math.inf
        self.takes_after = limits.unframed_seconds or math.inf
        self._has_ended_line = False
        self._unframed: Unframed | None = None  # created by the first text without a line end
        self._telnet: TelnetFilter | None = None  # created by the first IAC: nearly no peer sends any
        self._limits = limits
        self._decoder = SniffingDecoder(limits.max_line_bytes)
        rate = limits.messages_per_second
        self._throttle = Throttle(rate) if rate and math.isfinite(rate) else None

    @property
    def is_throttled(self) -> bool:
        """Whether a rate may hold lines back."""
        return self._throttle is not None

    def take_undecoded(self) -> bytes:
        """Return the undecoded bytes, which count as not read."""
        data, self.undecoded = self.undecoded, b""
        return data

    def receive(self, data: bytes, max_lines: int) -> list[Line]:
        """Return the lines that `data` completes, at most `max_lines`. No bytes mean the peer's end of stream."""
        if data.count(b"\n") > max_lines:
            self.undecoded = data.split(b"\n", max_lines)[max_lines]
            data = data[: len(data) - len(self.undecoded)]
        skipped_before = self._decoder.skipped_bytes
        is_plain = data and self._has_ended_line and not self._telnet and IAC not in data
        lines = self._decoder.receive_data(data) if is_plain else self._decode(data)
        if self._decoder.in_line or self.line_due != math.inf:
            self._watch_line(bool(lines) or self._decoder.skipped_bytes < skipped_before)
        return self.resume(lines) if self._throttle else lines

    def resume(self, lines: Sequence[Line] = ()) -> list[Line]:
        """Return the lines that were held back, then these, as far as the rate lets them pass.

        While lines are held back, the unfinished line has no deadline.
        """
        if not self._throttle:
            return list(lines)
        passed = self._throttle.receive(lines, time.monotonic())
        if self.resume_at is not None:
            self.line_due = math.inf
        elif self._decoder.in_line and self.line_due == math.inf:
            self._watch_line(new_line=True)
        return passed

    def release(self) -> list[Line]:
        """Return every line that was held back, and hold back no more."""
        throttle, self._throttle = self._throttle, None
        return throttle.release() if throttle else []

    @property
    def resume_at(self) -> float | None:
        """The time when the next held line may pass, or None if no line is held back."""
        return self._throttle.resume_at if self._throttle else None

    @property
    def quiet_due(self) -> float:
        """The time when `end_quiet` must be called."""
        return self._unframed.due if self._unframed else math.inf

    def end_quiet(self, now: float) -> tuple[list[Line], bool]:
        """Handle the end of a quiet time, after `quiet_due`.

        Returns:
            The text so far, if it counts as a line; and whether the peer must be told how to end a line.
        """
        unframed, lines = self._unframed, list[Line]()
        assert unframed
        takes = unframed.begin_take(now) and not (self._telnet and self._telnet.in_command)
        if takes and (lines := self._decoder.end_line()):
            unframed.note_taken()
            self._watch_line(new_line=False)
        hints = unframed.begin_hint(now, at_once=takes and self._decoder.begins_command)
        return self.resume(lines), hints

    @property
    def line_fault(self) -> str:
        """The reason for a disconnect at `line_due`."""
        if not self._decoder.skipped_bytes:
            return f"a line took longer than {self._limits.line_seconds:g} seconds"
        if self._decoder.skipped_bytes > self._limits.max_overlong_bytes:
            return f"more than {self._limits.max_overlong_bytes} bytes without a line end"
        return f"a line that is too long took longer than {self._limits.overlong_seconds:g} seconds"

    def _decode(self, data: bytes) -> list[Line]:
        """Return the lines of a peer that sends telnet's commands, or has ended no line yet, or ends its stream."""
        text = self._without_commands(data)
        lines = self._watch_framing(text) if text and not self._has_ended_line else []
        lines += self._decoder.receive_data(text)
        if not data:
            lines += self._decoder.receive_eof()
        if lines and isinstance(lines[-1], Foreign):
            self.answers = b""  # IAC was in the first bytes of TLS, for example
        return lines

    def _without_commands(self, data: bytes) -> bytes:
        """Return text without telnet's commands."""
        if not self._telnet:
            if IAC not in data:
                return data
            self._telnet = TelnetFilter(at_start=not self._has_ended_line and not self._unframed)
        text = self._telnet.receive_data(data) if data else self._telnet.receive_eof()
        self.answers += self._telnet.take_answers()
        return text

    def _watch_framing(self, text: bytes) -> list[Line]:
        """Note text of a peer that has ended no line yet. Returns the line before it, if a quiet time parts them."""
        if b"\n" in text:
            self._has_ended_line, self._unframed = True, None
            return []
        self._unframed = self._unframed or Unframed()
        lines = self._decoder.end_line() if self._unframed.is_parted else []
        self._unframed.note_text(time.monotonic(), self.takes_after)
        return lines

    def _watch_line(self, new_line: bool) -> None:
        """Set `line_due` for the unfinished line, if there is one.

        Args:
            new_line: whether the line began, or became too long, with this read.
        """
        now = time.monotonic()
        if not self._decoder.in_line:
            self.line_due = math.inf
        elif self._decoder.skipped_bytes > self._limits.max_overlong_bytes:
            self.line_due = -math.inf
        elif new_line:
            skipping = self._decoder.skipped_bytes > 0
            self.line_due = now + (self._limits.overlong_seconds if skipping else self._limits.line_seconds)
        elif self.line_due == math.inf:
            self.line_due = now + self._limits.line_seconds
