"""The rule for names: no name may be mistaken for another one."""

from __future__ import annotations

import string
import unicodedata

MAX_NAME_CHARACTERS = 32

# Before a member chooses a name it is named after its port. A port begins with a digit, so no chosen name is one.
RULE = (
    "a name begins with a letter and goes on with letters, digits, _ . or -; "
    f"all letters are of one script; at most {MAX_NAME_CHARACTERS} characters"
)

_LETTERS = {"Lu", "Ll", "Lt", "Lo"}

# The names of these scripts have two words.
_FAMILIES = {"INSCRIPTIONAL", "LINEAR", "MEROITIC", "NEW", "OL", "OLD", "TAI"}
_OTHERS = set(string.digits + "_.-")


def check_name(name: str) -> None:
    """Check that a name follows the rule.

    Characters that only look like others (full-width, ligatures, combining marks) are not letters here: a name that
    NFKC (UAX #15) would change is refused. The script is taken from each letter's Unicode name, a simplification of
    UTS #39 that the standard library allows. Not detected: look-alikes of one script each, such as a Cyrillic word that
    reads like a Latin one, and look-alikes within a script, such as U+0261 (a Latin letter for phonetics) and `g`.

    Raises:
        ValueError: the name breaks the rule; the text is the rule.
    """
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not _is_letter(name[0]):
        raise ValueError(RULE)
    letters = [character for character in name if character not in _OTHERS]
    if (
        not all(map(_is_letter, letters))
        or len(set(map(_script, letters))) > 1
        or unicodedata.normalize("NFKC", name) != name
    ):
        raise ValueError(RULE)


def name_key(name: str) -> str:
    """Return the key of a name. Names with the same key count as the same name: `Ada` and `ada`.

    The four letters I of Turkish have one key: the capital of the one without a dot is that of `i` elsewhere.
    """
    capitals = unicodedata.normalize("NFKC", name).upper()
    return unicodedata.normalize("NFKC", capitals.casefold()).replace("i\u0307", "i")


def _is_letter(character: str) -> bool:
    """Tell whether a character is a visible letter of a known script.

    Hangul fillers and Egyptian blanks are invisible. Some letters have no name here, and so no script: which ones
    depends on the version of Python (Tangut in 3.13).
    """
    words = set(unicodedata.name(character, "").split())
    return unicodedata.category(character) in _LETTERS and bool(words) and not words & {"FILLER", "BLANK"}


def _script(letter: str) -> str:
    first, *others = unicodedata.name(letter).split()
    return f"{first} {others[0]}" if first in _FAMILIES else first
