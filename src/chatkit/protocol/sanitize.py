"""Control characters, and others that harm a screen, made visible."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from unicodedata import category

# C0 without TAB, and DEL, become Unicode control pictures; C1 becomes backslash escapes. Latin-1 is in the table, as
# `str.translate` takes twice as long for a character that isn't.
_CLEAN: dict[int, int | str] = {code: code for code in range(0x100)}
_CLEAN |= {code: 0x2400 + code for code in range(0x20) if code != 0x09}
_CLEAN |= {0x7F: 0x2421}
_CLEAN |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}

# These harm a screen, too: line and paragraph separators, overrides of the order of letters (UAX #9), and characters
# that once changed how text is shown (U+206A to U+206F, deprecated).
_REORDERING = (0x202D, 0x202E, *range(0x206A, 0x2070))
_VISIBLE = {**_CLEAN, **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *_REORDERING)}}
# Embeddings and isolates, which Hebrew and Arabic need beside their marks (LRM, RLM, ALM), reorder the rest of the line
# if they are left open.
_EMBEDDINGS, _POP_EMBEDDING, _ISOLATES, _POP_ISOLATE = "\u202a\u202b", "\u202c", "\u2066\u2067\u2068", "\u2069"
_PAIRED = re.compile(f"[{_EMBEDDINGS}{_POP_EMBEDDING}{_ISOLATES}{_POP_ISOLATE}]")

# More marks than any language uses on one letter run over the lines above and below. Burmese has five on one letter,
# the flag of England six tags on one emoji.
MAX_MARKS = 6
# Marks, format characters, and characters that this Python doesn't know yet: a terminal may give them no cell.
_NO_CELL = ("Mn", "Me", "Mc", "Cf", "Cn")
# Letters that take no cell of their own: the vowels and finals of Hangul syllables, and fillers.
_NO_CELL_LETTERS = {*range(0x115F, 0x1200), *range(0xD7B0, 0xD800), 0x3164, 0xFFA0}
# Beyond the first 65,536 characters: emoji, Chinese characters, and private ones, in each of which all take cells.
_WITH_CELLS = "\U0001f000-\U0003ffff\U000f0000-\U000ffffd\U00100000-\U0010fffd"


def clean(text: str) -> str:
    r"""Replace the control characters of `text`, except TAB, by visible ones.

    ESC becomes U+241B, U+009B becomes the four characters `\x9b`.
    """
    return text if text.isprintable() else text.translate(_CLEAN)


def visible(text: str) -> str:
    """Clean `text` for a screen or a log.

    It can't move the cursor, break the line or pile up marks, and reorders no letters but those of its own writing.
    """
    shown = text if text.isprintable() else text.translate(_VISIBLE)
    if shown.isascii():
        return shown
    shown = _possible_piles().sub(_thin_piles, shown)
    return _show_unpaired(shown) if _PAIRED.search(shown) else shown


def _show_unpaired(text: str) -> str:
    """Show each embedding and isolate that is left open, and each end that belongs to none."""
    opened, unpaired, isolates = list[tuple[str, int]](), set[int](), 0
    for match in _PAIRED.finditer(text):
        found, place = match[0], match.start()
        if found in _EMBEDDINGS or found in _ISOLATES:
            opened.append((found, place))
            isolates += found in _ISOLATES
        elif found == _POP_ISOLATE and isolates:
            while opened.pop()[0] in _EMBEDDINGS:  # the end of an isolate ends those inside it
                pass
            isolates -= 1
        elif found == _POP_EMBEDDING and opened and opened[-1][0] in _EMBEDDINGS:
            opened.pop()
        else:
            unpaired.add(place)
    unpaired.update(place for _, place in opened)
    return _PAIRED.sub(lambda match: f"\\u{ord(match[0]):04x}" if match.start() in unpaired else match[0], text)


def _thin_piles(match: re.Match[str]) -> str:
    """Replace all but the first MAX_MARKS characters of a pile by an ellipsis. Letters beyond U+FFFF end a pile."""
    return _long_run().sub(lambda pile: f"{pile[0][:MAX_MARKS]}…", match[0])


@cache
def _long_run() -> re.Pattern[str]:
    """Return the pattern of a pile that is too high, within a possible one."""
    return re.compile(rf"[\0-\uffff\W]{{{MAX_MARKS + 1},}}")


@cache
def _possible_piles() -> re.Pattern[str]:
    """Return the pattern of more than MAX_MARKS characters in a row that may take no cell.

    Goal: a stranger's line takes hardly longer than others. Plan: a regular expression finds a character in a set of
    ranges in one step up to U+FFFF, but beyond it compares one range after the other. So up to U+FFFF the set is exact.
    It is made at the first use, as that takes milliseconds. Beyond U+FFFF it has all characters but those of
    _WITH_CELLS, and `_thin_piles` takes out the letters, digits and numbers. Symbols of music and of ancient scripts
    stay in: they count as marks.
    """
    without = [code for code in range(0x10000) if category(chr(code)) in _NO_CELL or code in _NO_CELL_LETTERS]
    ends = pairwise([-1, *without, 0x10000])
    ranges = [f"{re.escape(chr(one + 1))}-{re.escape(chr(other - 1))}" for one, other in ends if other - one > 1]
    no_cell = f"[^{''.join(ranges)}{_WITH_CELLS}]"
    # It begins with the set, not with a repetition: then the search for the first one is fast.
    return re.compile(f"{no_cell}{no_cell}{{{MAX_MARKS}}}{no_cell}*")
