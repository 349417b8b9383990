"""Events to lines of text with colors and times. No I/O: the same for a terminal, a pipe and a test."""

from __future__ import annotations

import re
import time
from functools import lru_cache

from chatkit.cli.client.roster import Roster
from chatkit.events import Action, Event, Message, Private, Unmarked
from chatkit.protocol.names import name_key
from chatkit.protocol.replies import REPLAY_BEGINS, REPLAY_ENDS
from chatkit.protocol.sanitize import visible

BELL = "\a"
_RESET, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
# Colours of the terminal's own palette that are readable on light and on dark backgrounds.
_NAME_COLORS = (31, 32, 33, 34, 35, 36, 91, 94, 95)


class Painter:
    """The text of each line of the chat, with everything in it visible: strangers write most of it.

    Without colors, times and bell it is the line as members with plain text see it.

    Args:
        roster: knows this member's own name.
        color: whether to color names, and to set off mentions and notices.
        time_format: the format of the times (`strftime`), or "" for none.
        bell: whether a mention and a private line ring the terminal's bell.
    """

    def __init__(self, roster: Roster, *, color: bool = False, time_format: str = "", bell: bool = False) -> None:
        self._roster = roster
        self.has_color = color
        self._time_format = time_format
        self._bell = bell
        self._is_plain = not (color or time_format or bell)
        self._is_replaying = False

    def paint(self, event: Event) -> str:
        """Return an event as one line, without its line end."""
        line = visible(str(event))
        if self._is_plain:
            return line
        bell = BELL if self._bell and self._rings(event) else ""
        painted = self._paint_event(event, line) if self.has_color else line
        return f"{self._time(getattr(event, 'time', None))}{painted}{bell}"

    def paint_typed(self, line: str) -> str:
        """Return a line that was typed here."""
        return f"{self._time(None)}{visible(line)}"

    def paint_receipt(self, name: str, text: str) -> str:
        """Return the receipt of a private line to one member."""
        name = visible(name)
        return f"{self._time(None)}-> {self._paint_name(name) if self.has_color else name}: {visible(text)}"

    def paint_name(self) -> str:
        """Return this member's own name, bold."""
        name = visible(self._roster.own)
        return f"{_BOLD}{name}{_RESET}" if self.has_color else name

    def _rings(self, event: Event) -> bool:
        """Tell whether an event calls for attention: a private line, or a mention that isn't a replay."""
        if event in (REPLAY_BEGINS, REPLAY_ENDS):
            self._is_replaying = event == REPLAY_BEGINS
        if isinstance(event, Private):
            return True
        is_others = isinstance(event, Message) and event.sender != self._roster.own
        return is_others and not self._is_replaying and bool(_mention(self._roster.own).search(event.text))

    def _paint_event(self, event: Event, line: str) -> str:
        """Color the sender, and set off mentions; or dim the line if it is the room's or the client's own.

        A line of another kind of server stays as it is.
        """
        if isinstance(event, Unmarked):
            return line
        if not isinstance(event, Message | Private):
            return f"{_DIM}{line}{_RESET}"
        begin = len("* ") if isinstance(event, Action) else 0
        end = begin + len(visible(event.sender))
        mention = _mention(self._roster.own)
        text = mention.sub(rf"{_BOLD}\g<0>{_RESET}", line[end:])
        return f"{line[:begin]}{self._paint_name(line[begin:end])}{text}"

    def _paint_name(self, name: str) -> str:
        style = _BOLD if name == self._roster.own else _color_of(name)
        return f"{style}{name}{_RESET}"

    def _time(self, seconds: float | None) -> str:
        """Return the time in front of a line, or ""."""
        if not self._time_format:
            return ""
        shown = _format_time(self._time_format, int(time.time() if seconds is None else seconds))
        return f"{_DIM}{shown}{_RESET} " if self.has_color else f"{shown} "


@lru_cache(maxsize=1024)
def _color_of(name: str) -> str:
    """Return the color of a name: the same in each session."""
    import zlib

    return f"\x1b[{_NAME_COLORS[zlib.crc32(name_key(name).encode()) % len(_NAME_COLORS)]}m"


@lru_cache(maxsize=8)
def _mention(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)


@lru_cache(maxsize=8)  # most lines have the time of the line before
def _format_time(time_format: str, seconds: int) -> str:
    return visible(time.strftime(time_format, time.localtime(seconds)))
