"""Control characters, and others that harm a screen, made visible."""

from __future__ import annotations

import re
import unicodedata

# C0 without TAB, and DEL, become Unicode control pictures; C1 becomes backslash escapes.
_CONTROLS = {code: 0x2400 + code for code in range(0x20) if code != 0x09}
_CONTROLS |= {0x7F: 0x2421}
_CLEAN: dict[int, int | str] = {**_CONTROLS, **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}}

# These harm a screen, too: line and paragraph separators, and characters that reorder text (UAX #9).
_REORDERING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE = {**_CLEAN, **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *_REORDERING)}}

# More combining marks than any language uses on one letter run over the lines above and below.
MAX_MARKS = 4
# Format characters, spacing marks, and characters that this Python doesn't know yet: they may take no cell.
_NO_CELL = ("Cf", "Mc", "Cn")
# Letters that take no cell of their own: the vowels and finals of Hangul syllables, and fillers.
_NO_CELL_LETTERS = "\u115f-\u11ff\ud7b0-\ud7ff\u3164\uffa0"
_IS_NO_CELL_LETTER = re.compile(f"[{_NO_CELL_LETTERS}]").match
_MAYBE_MARKS = re.compile(rf"(?:[^\w\s\x00-\x7f]|[{_NO_CELL_LETTERS}]){{{MAX_MARKS + 1},}}")  # no mark is \w or \s


def clean(text: str) -> str:
    r"""Replace the control characters of `text`, except TAB, by visible ones.

    ESC becomes U+241B, U+009B becomes the four characters `\x9b`.
    """
    return text if text.isprintable() else text.translate(_CLEAN)


def visible(text: str) -> str:
    """Clean `text` for a screen or a log: it can't move the cursor, break the line, reorder text or pile up marks."""
    if text.isascii() and text.isprintable():
        return text
    return _MAYBE_MARKS.sub(_thin_marks, text.translate(_VISIBLE))


def _thin_marks(match: re.Match[str]) -> str:
    """Keep the first MAX_MARKS combining marks of a pile, and replace the others by an ellipsis."""
    shown, marks = "", 0
    for character in match[0]:
        category = unicodedata.category(character)
        if category in ("Mn", "Me"):
            marks += 1
        elif category not in _NO_CELL and not _IS_NO_CELL_LETTER(character):
            marks = 0
        if marks <= MAX_MARKS:
            shown += character
        elif marks == MAX_MARKS + 1:
            shown += "…"
    return shown
