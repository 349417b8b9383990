"""What a member may call itself, so that nobody is mistaken for somebody else."""

from __future__ import annotations

import string
import unicodedata

MAX_NAME_CHARACTERS = 32

# A port begins with a digit: so no name can be one.
RULE = (
    "a name begins with a letter and goes on with letters, digits, _ . or -; "
    f"all letters are of one script; at most {MAX_NAME_CHARACTERS} characters"
)

_LETTERS = {"Lu", "Ll", "Lt", "Lo"}

# Of these scripts the name has two words.
_FAMILIES = {"OLD", "NEW", "TAI", "LINEAR"}
_OTHERS = set(string.digits + "_.-")


def check_name(name: str) -> None:
    """ValueError: `name` breaks the rule, which the error says.

    Characters that only look like others (full-width, ligatures, combining marks) are none of the rule's letters:
    whatever NFKC (UAX #15) would change is refused. The script is taken from each letter's Unicode name, a
    simplification of UTS #39 that the standard library allows. Look-alikes that are of one script each, such as a
    wholly Cyrillic word that reads like a Latin one, are two names.
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
    """Names with one key are one name: `Ada` and `ada`."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _is_letter(character: str) -> bool:
    """Some that are letters by their category can't be seen: Hangul fillers, Egyptian blanks."""
    visible = not {"FILLER", "BLANK"} & set(unicodedata.name(character, "").split())
    return unicodedata.category(character) in _LETTERS and visible


def _script(letter: str) -> str:
    first, *others = unicodedata.name(letter).split()
    return f"{first} {others[0]}" if first in _FAMILIES else first
