"""Text that is safe on the wire, and on a screen."""

from __future__ import annotations

from unicodedata import bidirectional

import pytest

from chatkit.protocol.sanitize import clean, visible

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
    """On a screen nothing breaks a line or reorders text."""
    assert visible("a\u202eb\u2066c\u2028d\u200fe\u061cf\x1b") == "a\\u202eb\\u2066c\\u2028d\\u200fe\\u061cf␛"
    reordering = [chr(code) for code in range(0x110000) if bidirectional(chr(code)) in EMBEDDINGS]
    assert len(reordering) == 9
    assert all(visible(character) == f"\\u{ord(character):04x}" for character in (*reordering, *"\u061c\u200e\u200f"))
    assert visible("a\tb é") == "a\tb é"
    assert visible("z" + "\u0301" * 200 + "x") == "z" + "\u0301" * 4 + "…x"
    assert visible("z" + ("\u0301" * 4 + "\u200d") * 20).count("\u0301") == 4
    assert visible("z" + "\u0301" * 4) == "z" + "\u0301" * 4
