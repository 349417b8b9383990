"""Lines of strangers that harm a terminal."""

from __future__ import annotations

import re
import sys
import unicodedata

HOSTILE = {
    "clear": "\x1b[2J\x1b[H\x1bc",
    "title": "\x1b]0;owned\x07\x1b]2;owned\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "report": "\x1b[6n\x1b[5n\x1b[c\x1bZ\x05",
    "C1": "\u009b6n\u009b2J\u009d0;owned\u009c\u0090$qm\u009c\u0085x",
    "bidi": "\u202eexe.\u202c \u2067a\u2067b\u2069 \u202bc\u2069 \u202c",
    "separators": "a\u2028b\u2029c",
    "marks": "e" + "\u0301" * 200,
    "marks with fillers": "e" + ("\u0301" * 4 + "\u1160") * 50,
    "marks with a place": "e" + "\u0903" * 200,
    "marks of a later Unicode": "e" + "\U0001e08f" * 200,
    "deprecated": "\u206a\u206b\u206c\u206d\u206e\u206f",
    "bell and return": "\x07\x07x\r127.0.0.1: forged",
    "motion": "\x08\x08\x0b\x0c\x7f\x0e\x1b[5A\x1b[?1049h\x1b[8;1;1t",
}
# Brackets inside each other. The stack of WebAssembly is its host's, which Python doesn't know.
DEEP = 100_000 if sys.platform != "emscripten" else 100
NOT_UTF8 = b"\x9b6n\x9b2J"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202d\u202e\u206a-\u206f]")
CLOSED = re.compile("[\u202a\u202b][^\u202a-\u202c\u2066-\u2069]*\u202c|[\u2066-\u2068][^\u202c\u2066-\u2069]*\u2069")


def forbidden(text: str) -> list[str]:
    """Return the parts of `text` that must not reach a screen.

    They are controls except TAB and the line end, bidi overrides, embeddings and isolates that are left open, and piles
    of marks.
    """
    return CONTROLS.findall(text) + [char for line in text.split("\n") for char in unclosed(line)] + piles(text)


def unclosed(line: str) -> list[str]:
    """Return the embeddings and isolates that have no end in a line, and ends of none. None is inside an open one."""
    while (inner := CLOSED.sub("", line)) != line:
        line = inner
    return re.findall("[\u202a-\u202c\u2066-\u2069]", line)


def piles(text: str) -> list[str]:
    """Return the first character of each pile: seven or more in a row that may take no cell of their own."""
    marks = "".join("m" if takes_no_cell(char) else " " for char in text)
    return [text[pile.start()] for pile in re.finditer("m{7,}", marks)]


def takes_no_cell(char: str) -> bool:
    """Tell whether a terminal may add this character to the one before it, or leave it out."""
    name = unicodedata.name(char, "")
    is_letter = name.startswith(("HANGUL JUNGSEONG", "HANGUL JONGSEONG")) or name.endswith(" FILLER")
    category = unicodedata.category(char)
    if category == "Cn":  # later emoji and Chinese characters take cells
        return not 0x1F000 <= ord(char) < 0x40000
    return category in ("Mn", "Me", "Mc", "Cf") or (category == "Lo" and is_letter)
