"""Text that is safe on the wire, and on a screen."""

from __future__ import annotations

import sys
from itertools import chain
from unicodedata import bidirectional, category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit.protocol.sanitize import MAX_MARKS, clean, visible
from tests.helpers.hostile import forbidden, piles, takes_no_cell

EVERYTHING = list(map(chr, chain(range(0xD800), range(0xE000, sys.maxunicode + 1))))

# The explicit formatting characters of UAX #9.
EMBEDDINGS = "LRE RLE LRO RLO PDF LRI RLI FSI PDI".split()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain é 漢 👍", "plain é 漢 👍"),
        ("\x1b[31m", "␛[31m"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f", "␡"),
        ("a\tb", "a\tb"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    """Control characters become something to see, all else stays."""
    assert clean(text) == cleaned


def test_visible() -> None:
    """On a screen nothing breaks a line or reorders what isn't its own."""
    assert visible("a\u202eb\u2066c\u2028d\x1b") == "a\\u202eb\\u2066c\\u2028d␛"
    reordering = [chr(code) for code in range(0x110000) if bidirectional(chr(code)) in EMBEDDINGS]
    assert len(reordering) == 9
    assert all(visible(character) == f"\\u{ord(character):04x}" for character in reordering)
    assert visible("a\tb é") == "a\tb é"
    assert all(visible(chr(code)) == f"\\u{code:04x}" for code in range(0x206A, 0x2070))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("שלם!\u200f (abc)\u200e", "שלם!\u200f (abc)\u200e"),
        ("مرحبا\u061c!", "مرحبا\u061c!"),
        ("\u2067שלם\u2069 \u202babc\u202c", "\u2067שלם\u2069 \u202babc\u202c"),
        ("\u2067a\u202bb\u2068c\u2069d\u2069e", "\u2067a\u202bb\u2068c\u2069d\u2069e"),
        ("\u202eab\u202c", "\\u202eab\\u202c"),
        ("\u2067a\u2066b\u2069", "\\u2067a\u2066b\u2069"),
        ("\u202aa\u202bb\u202c", "\\u202aa\u202bb\u202c"),
        ("\u2067a\u202cb", "\\u2067a\\u202cb"),
        ("\u202ba\u2069", "\\u202ba\\u2069"),
        ("\u2067" * 4 + "\u2069" * 4, "\\u2067\\u2067" + "\u2067" * 2 + "\u2069" * 2 + "…"),
    ],
)
def test_text_from_right_to_left(text: str, shown: str) -> None:
    """Marks of direction pass, and pairs that are closed; overrides and the rest are shown."""
    assert visible(text) == shown


@given(st.text("ab\u202a\u202b\u202c\u202e\u2066\u2067\u2068\u2069"))
def test_no_order_is_left_changed(text: str) -> None:
    """Whatever is opened is closed in the line; showing twice is showing once."""
    seen = visible(text)
    assert forbidden(seen) == []
    assert visible(seen) == seen


@pytest.mark.parametrize("mark", ["\u0301", "\u20dd", "\u0903", "\u1160", "\u200d", "\U0001e08f", "\U000e0041"])
def test_piles(mark: str) -> None:
    """Whatever may take no cell: marks with a place of their own, too, and marks that a later Unicode has."""
    assert visible("z" + mark * 200 + "x" + mark * 7) == "z" + mark * MAX_MARKS + "…x" + mark * MAX_MARKS + "…"
    assert visible("z" + mark * MAX_MARKS + "x" + mark * MAX_MARKS) == "z" + mark * MAX_MARKS + "x" + mark * MAX_MARKS
    assert visible("z" + ("\u0301" * 4 + mark) * 20).startswith("z" + "\u0301" * 4 + mark + "\u0301…"[:2])


MARKS = "\u0301\u20dd\u05b7\u0e49\ufe0f\u034f"
NO_CELLS = "\u115f\u1160\u11a8\ud7b0\ud7cb\u3164\uffa0\u200b\u200d\u2060\u2065\u0903\ufff0\U000e0041\U000e0fff"
heaps = st.text(MARKS + NO_CELLS, min_size=3, max_size=30)


@given(st.lists(heaps | st.text(max_size=3), max_size=5).map("".join))
def test_marks_never_pile_up(text: str) -> None:
    """At most MAX_MARKS characters without a cell come in a row; showing twice is showing once."""
    seen = visible(text)
    assert forbidden(seen) == []
    assert visible(seen) == seen


def test_no_character_without_a_cell_begins_a_new_pile() -> None:
    """Each of Unicode: by its category, or by the tables of terminals."""
    wcwidth = pytest.importorskip("wcwidth", reason="wcwidth, which comes with pyte, is not installed").wcwidth
    without_cell = [char for char in EVERYTHING if wcwidth(char) == 0 or takes_no_cell(char)]
    assert len(without_cell) > 3000
    for char in without_cell:
        if visible(char) != char:  # it is shown as characters that take cells
            continue
        seen = visible("e" + ("\u0301" * MAX_MARKS + char) * 3)
        assert seen.count("\u0301") <= MAX_MARKS, f"U+{ord(char):04X}"


@pytest.mark.parametrize(
    "text",
    [
        *("\u1112\u1161\u11ab\u1100\u1173\u11af", "\u101c\u103b\u103e\u102d\u102f\u1037\u101d", "————————", "؟؟؟؟؟؟؟؟"),
        *(
            "👍🏽👩‍👩‍👧‍👦🎉🎉🎉🎉🎉🎉🎉🎉",
            "\U0001fae8" * 9,
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        ),
    ],
    ids=["hangul", "burmese", "dashes", "arabic", "emoji", "new emoji", "england"],
)
def test_texts_of_any_script_stay(text: str) -> None:
    """Hangul letter by letter, five marks on one letter, joined emoji, a line of dashes: none is a pile."""
    assert visible(text) == text
    assert piles(text) == []


def test_characters_with_a_cell_are_no_marks() -> None:
    """Up to U+FFFF each that takes a cell may come any number of times; beyond it letters, digits and emoji may."""
    for char in EVERYTHING:
        kind = category(char)
        if not takes_no_cell(char) and kind not in ("Cc", "Zl", "Zp") and (char < "\U00010000" or kind[0] in "LN"):
            assert visible(char * 20) == char * 20, f"U+{ord(char):04X}"
