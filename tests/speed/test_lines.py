"""Lines of strangers of any kind: none takes much longer to read and to show than the others."""

from __future__ import annotations

import timeit
from contextlib import suppress

import pytest

from chatkit import Message
from chatkit.protocol.formats import encode_json
from chatkit.protocol.lines import LineDecoder
from chatkit.protocol.names import check_name, name_key
from chatkit.protocol.sanitize import visible

pytestmark = pytest.mark.timed

BYTES = 8190
KINDS = {
    "controls": "\x01",
    "many controls": "\x01\x02\x03\x1b\x7f",
    "controls between letters": "\x01x",
    "C1": "\x9b",
    "a control among pictures": "\u202e" + "\x01" * 8000,
    "a control among letters": "\u202e" + "яжщ" * 1300,
    "reordering": "\u202e",
    "separators": "\u2028",
    "tabs": "\t",
    "spaces": "\u00a0\u3000",
    "marks": "\u0301",
    "marks with a place": "\u0903",
    "many short piles": "x" + "\u0301" * 6,
    "many piles": "x" + "\u0301" * 7,
    "short piles beyond U+FFFF": "\U00012000" + "\U000e0041" * 6,
    "short piles after a control": "\u202e\x01" + ("x" + "\u0301" * 6) * 600,
    "joiners": "\u200d",
    "fillers": "\u3164",
    "vowels": "\u1161",
    "dashes": "—",
    "quotes": '"\\',
    "two bytes": "é",
    "three bytes": "漢",
    "four bytes": "\U00012000",
    "emoji": "\U0001f600",
    "later characters": "\U0001e08f",
}


def seconds(text: str) -> float:
    """Return how long a room takes for a line without its delivery: it is decoded, encoded, and shown."""
    data = text.encode()[:BYTES].decode(errors="ignore").encode() + b"\n"

    def take() -> str:
        (line,) = LineDecoder(BYTES + 2).receive_data(data)
        assert isinstance(line, str)
        encode_json(Message("ada", line, 1, 0.0))
        return visible(line)

    return min(timeit.repeat(take, number=5, repeat=30))


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_line_takes_much_longer(kind: str) -> None:
    """Not 20 times as long as letters of ASCII, which take 50 µs. Nothing looks at one character after the other."""
    line = KINDS[kind] * (BYTES // len(KINDS[kind].encode()) + 1)
    assert seconds(line) < 20 * seconds("x" * BYTES)


@pytest.mark.parametrize("letter", ["漢", "가", "\U00012000", "ΐ", "\ufdfa", "\u0344", "\u0130", "\x01", "\U0001e08f"])
def test_no_kind_of_name_takes_much_longer(letter: str) -> None:
    """Nor does a name, whether the rule lets it pass or not."""

    def take(name: str) -> float:
        def check() -> None:
            with suppress(ValueError):
                check_name(name)
            name_key(name)

        return min(timeit.repeat(check, number=20, repeat=20))

    assert take(letter * 32) < 10 * take("a" * 32)
