"""Names that a member may take."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import Action, Message, Private
from chatkit.protocol.names import MAX_NAME_CHARACTERS, RULE, check_name, name_key
from chatkit.protocol.sanitize import clean, visible
from chatkit.protocol.text import parse_text
from tests.helpers.names import ALLOWED, REFUSED, SAME_BUT_FOR_CASE, anything, names, passes


@pytest.mark.parametrize("name", [pytest.param(name, id=what) for what, name in ALLOWED.items()])
def test_names_that_may_be_taken(name: str) -> None:
    """A letter of any script first, then letters of that script, ASCII digits, _ . and -, up to 32 characters."""
    check_name(name)


@pytest.mark.parametrize("name", [pytest.param(name, id=what) for what, name in REFUSED.items()])
def test_names_that_may_not_be_taken(name: str) -> None:
    """A text that is no name, or only looks like one, is refused in the words of the rule."""
    with pytest.raises(ValueError, match=re.escape(RULE)):
        check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("\u115f", "\u1160", "\uac00\u115f", "\uac00\u1160", "\U00013441", "\U00013442", "\U00013000\U00013441"),
        *("\U00010300\U00010a80", "\U00010a80\U00010300"),  # Old Italic and Old North Arabian
        *("\U00010b40\U00010b60", "\U00010980\U000109a0"),  # Inscriptional Parthian, Pahlavi; Meroitic, both kinds
    ],
)
def test_names_that_deceive(name: str) -> None:
    """Letters that can't be seen, and two scripts whose names begin with the same word; one by one they may."""
    with pytest.raises(ValueError, match="a name begins with a letter"):
        check_name(name)
    for letter in "\uac00\U00010300\U00010a80\U00013000\U00010b40\U00010b60\U00010980\U000109a0":
        check_name(letter)


def answer(name: str) -> str:
    try:
        check_name(name)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("before", ["", "漢"])
def test_every_character_gets_the_rule_or_passes(before: str) -> None:
    """In each category of Unicode, also letters without a name in this version of Python."""
    answers: dict[str, set[str]] = {}
    for character in map(chr, range(sys.maxunicode + 1)):
        answers.setdefault(unicodedata.category(character), set()).add(answer(before + character))
    assert len(answers) == 30
    assert {category: said for category, said in answers.items() if not said <= {"", RULE}} == {}


@given(st.lists(st.sampled_from("\U00017000\U00018b00\U00018d00a1_漢") | st.characters(), max_size=4).map("".join))
def test_letters_without_a_name_get_the_rule(name: str) -> None:
    """Wherever they are in a name."""
    assert answer(name) in ("", RULE)


@pytest.mark.parametrize(("one", "other"), SAME_BUT_FOR_CASE)
def test_names_that_differ_in_case_have_one_key(one: str, other: str) -> None:
    """So the second member that wants the name finds it taken."""
    assert name_key(one) == name_key(other)


def test_no_two_letters_differ_in_case_alone() -> None:
    """Of all letters that a name may have: the same in capitals, or in small letters, is the same name."""
    letters = list(filter(passes, map(chr, range(sys.maxunicode + 1))))
    assert len(letters) > 100_000
    for fold in (str.lower, str.upper, str.title, str.casefold, str.swapcase):
        keys: dict[str, set[str]] = {}
        for letter in letters:
            keys.setdefault(fold(letter), set()).add(name_key(letter))
        assert {folded: found for folded, found in keys.items() if len(found) > 1} == {}


@given(names)
def test_the_rule_lets_its_own_names_pass(name: str) -> None:
    """A name made by the rule is never refused, and in upper or lower case its key is the same."""
    check_name(name)
    assert name_key(name.upper()) == name_key(name.lower()) == name_key(name)


@given(anything)
def test_a_name_that_passes_can_stand_for_a_member(name: str) -> None:
    """A valid name is no port's, is shown unchanged, has no character that ends a name, and is parsed as a sender."""
    if not passes(name):
        return
    assert not re.match(r"\d", name)
    assert 1 <= len(name) <= MAX_NAME_CHARACTERS
    assert clean(name) == visible(name) == name == unicodedata.normalize("NFKC", name)
    assert not re.search(r"[\s:*/{]", name)
    assert not any(unicodedata.combining(character) for character in name)
    for event in (Message(name, "x: y"), Action(name, "x: y"), Private(name, "x: y")):
        assert parse_text(str(event)) == event


@given(anything)
def test_a_key_is_its_own_key(name: str) -> None:
    """The key of a key is that key."""
    if not passes(name):
        return
    key = name_key(name)
    assert name_key(key) == key
