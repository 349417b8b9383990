"""What a member may call itself, and who has which name."""

from __future__ import annotations

import re
import string
import unicodedata
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import Action, Limits, Member, Message, NameTaken, Private
from chatkit.protocol.formats import parse_text
from chatkit.protocol.names import MAX_NAME_CHARACTERS, RULE, check_name, name_key
from chatkit.protocol.sanitize import clean, visible
from chatkit.room.members import Roster

SCRIPTS = {
    "latin": string.ascii_letters + "ßéÅİøŁđþ",
    "greek": "αβγδΑΒΓΔσςΣώ",
    "cyrillic": "абвгАБВГйёЇ",
    "hebrew": "אבגדםש",
    "arabic": "ابجدكي",
    "han": "漢字王小明",
    "hangul": "한글가힣",
}
OTHERS = string.digits + "_.-"


def added(roster: Roster, address: tuple[str, int]) -> Member:
    roster.reserve(address)
    return roster.add(address)


def spelled(letters: str) -> st.SearchStrategy[str]:
    """Names that follow the rule, with these letters."""
    rest = st.text(letters + OTHERS, max_size=MAX_NAME_CHARACTERS - 1)
    return st.builds(str.__add__, st.sampled_from(letters), rest)


names = st.sampled_from(list(SCRIPTS.values())).flatmap(spelled)
# Names with a stranger in them are nearer to the rule's edge than plain text.
spoiled = st.builds(
    lambda name, stranger, at: name[:at] + stranger + name[at:], names, st.characters(), st.integers(0, 8)
)
anything = names | spoiled | st.text(max_size=MAX_NAME_CHARACTERS + 2)


def passes(name: str) -> bool:
    try:
        check_name(name)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=what)
        for what, name in {
            "one letter": "a",
            "upper case": "ADA",
            "all that may follow": "a0123456789_.-",
            "the longest": "a" * 32,
            "the longest in three bytes each": "漢" * 32,
            "accents in one character": "Zoë",
            "sharp s": "Straße",
            "dotless i": "\u0131rmak",
            "greek": "Ελένη",
            "cyrillic": "Ольга_7",
            "hebrew": "רות",
            "arabic": "ليلى",
            "han": "王小明",
            "hangul": "지민-2",
            "a word that says more elsewhere": "exit",
        }.items()
    ],
)
def test_names_that_may_be_taken(name: str) -> None:
    """A letter of any script first, then letters of that script, ASCII digits, _ . and -, up to 32 characters."""
    check_name(name)
    roster = Roster(Limits())
    ann = added(roster, ("", 1))
    roster.rename(ann, name)
    assert (ann.name, roster.find(name)) == (name, ann)


REFUSED = {
    "empty": "",
    "a port": "51044",
    "a port with a number": "51044-2",
    "a digit first": "1a",
    "an underscore first": "_a",
    "a dot first": ".a",
    "a hyphen first": "-a",
    "33 characters": "a" * 33,
    "space": "a b",
    "space around": " ada ",
    "colon": "ada:",
    "asterisk": "*ada",
    "asterisk inside": "a*a",
    "slash": "/ada",
    "brace": "{ada",
    "line end": "ada\n",
    "tab": "a\tda",
    "escape": "ada\x1b[2J",
    "delete": "ada\x7f",
    "C1 control": "ada\x9b",
    "NUL": "ada\0",
    "no-break space": "a\u00a0da",
    "line separator": "a\u2028da",
    "ideographic space": "a\u3000da",
    "full-width": "\uff41\uff44\uff41",
    "full-width inside": "ad\uff41",
    "full-width colon": "ada\uff1a",
    "zero-width space": "a\u200bda",
    "zero-width joiner": "a\u200dda",
    "zero-width non-joiner": "a\u200cda",
    "word joiner": "a\u2060da",
    "soft hyphen": "a\u00adda",
    "byte-order mark": "\ufeffada",
    "variation selector": "ada\ufe0f",
    "combining grapheme joiner": "a\u034fda",
    "tag character": "ada\U000e0061",
    "hangul choseong filler": "\u115f",
    "hangul jungseong filler": "가\u1160",
    "hangul filler": "\u3164",
    "half-width hangul filler": "\uffa0",
    "latin and cyrillic": "\u0430da",
    "latin and greek": "ad\u03b1",
    "hebrew and latin": "אda",
    "han and hiragana": "漢あ",
    "decomposed accent": "Zoe\u0308",
    "combining mark": "a\u0335da",
    "enclosing mark": "a\u20ddda",
    "right-to-left override": "a\u202eda",
    "left-to-right mark": "ada\u200e",
    "isolate": "\u2066ada",
    "arabic letter mark": "ليلى\u061c",
    "ligature": "\ufb01n",
    "two letters in one": "\u01c9ubo",
    "arabic presentation form": "\ufefb",
    "long s": "\u017fam",
    "kelvin": "\u212aarl",
    "mathematical": "\U0001d41ada",
    "superscript letter": "a\u1d43",
    "ordinal": "a\u00aa",
    "circled": "\u24d0da",
    "roman numeral": "\u2163",
    "modifier letter like a colon": "\ua4d0\ua4fd",
    "arabic vowel sign": "ليلى\u064e",
    "conjoining jamo": "\u1112\u1161\u11ab",
    "arabic digit": "a\u0663",
    "devanagari digit": "a\u096b",
    "full-width digit": "a\uff11",
    "superscript digit": "a\u00b2",
    "emoji": "ada\U0001f600",
    "other hyphen": "a\u2010b",
    "private use": "a\ue000",
    "not assigned": "a\u0378",
    "lone surrogate": "a\ud800",
}


@pytest.mark.parametrize("name", [pytest.param(name, id=what) for what, name in REFUSED.items()])
def test_names_that_may_not_be_taken(name: str) -> None:
    """What isn't a name, or only looks like one, is refused in the words of the rule, and nothing changes."""
    roster = Roster(Limits())
    ann = added(roster, ("", 1))
    with pytest.raises(ValueError, match=re.escape(RULE)):
        roster.rename(ann, name)
    assert (ann.name, roster.find("1"), roster.members) == ("1", ann, [ann])
    roster.remove(ann)
    assert len(roster) == 0


@pytest.mark.parametrize(
    "name",
    [
        *("\u115f", "\u1160", "\uac00\u115f", "\uac00\u1160", "\U00013441", "\U00013442", "\U00013000\U00013441"),
        *("\U00010300\U00010a80", "\U00010a80\U00010300"),
    ],
)
def test_names_that_deceive(name: str) -> None:
    """Letters that can't be seen, and two scripts whose names begin with the same word; one by one they may."""
    with pytest.raises(ValueError, match="a name begins with a letter"):
        check_name(name)
    for letter in "\uac00\U00010300\U00010a80\U00013000":
        check_name(letter)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ada", "ada"), ("Straße", "STRASSE"), ("Zoë", "ZOË"), ("Σίσυφος", "σίσυφοσ"), ("Ольга", "ОЛЬГА"), ("ẞa", "ssA")],
)
def test_names_that_differ_in_case_are_one(one: str, other: str) -> None:
    """Their key is one, so the second member doesn't get the name, and keeps its own."""
    roster = Roster(Limits())
    ann, bob = added(roster, ("", 1)), added(roster, ("", 2))
    roster.rename(ann, one)
    assert name_key(one) == name_key(other)
    with pytest.raises(NameTaken, match=f"the name {other} is taken") as caught:
        roster.rename(bob, other)
    assert caught.value.name == other
    assert (ann.name, bob.name) == (one, "2")
    assert [roster.find(name) for name in (one, other, "2")] == [ann, ann, bob]
    assert set(roster.members) == {ann, bob}


@pytest.mark.parametrize(
    ("one", "other"), [("ada", "adah"), ("ada", "a-da"), ("ада", "ada"), ("Zoë", "Zoe"), ("i", "\u0131")]
)
def test_names_that_differ_in_more_are_two(one: str, other: str) -> None:
    """Two members may have them at one time."""
    roster = Roster(Limits())
    ann, bob = added(roster, ("", 1)), added(roster, ("", 2))
    roster.rename(ann, one)
    roster.rename(bob, other)
    assert (roster.find(one), roster.find(other)) == (ann, bob)


def test_ones_own_name_in_another_case() -> None:
    """It may be taken, and again as it is; the member stays one member."""
    roster = Roster(Limits())
    ann, bob = added(roster, ("", 1)), added(roster, ("", 2))
    for name in ("Ada", "ada", "ada", "ADA"):
        roster.rename(ann, name)
        assert (ann.name, roster.find("aDa"), roster.find("1")) == (name, ann, None)
    assert sorted(member.name for member in roster.members) == ["2", "ADA"]
    assert roster.find("2") is bob


def test_a_name_is_free_at_once() -> None:
    """As soon as its member is gone or has another name, in whatever case."""
    roster = Roster(Limits())
    ann, bob, cid = (added(roster, ("", port)) for port in (1, 2, 3))
    roster.rename(ann, "Ada")
    roster.remove(ann)
    assert roster.find("ada") is None
    roster.rename(bob, "ADA")
    roster.rename(bob, "bob")
    roster.rename(cid, "ada")
    assert (roster.find("Ada"), roster.find("bob"), ann.present) == (cid, bob, False)


def test_a_port_is_free_when_its_member_has_a_name() -> None:
    """A second host's connection with that port is then named by the port alone, and nobody can go back to it."""
    roster = Roster(Limits())
    ann = added(roster, ("10.0.0.1", 7))
    roster.rename(ann, "ada")
    assert added(roster, ("10.0.0.2", 7)).name == "7"
    assert added(roster, ("10.0.0.3", 7)).name == "7-2"
    with pytest.raises(ValueError, match=re.escape(RULE)):
        roster.rename(ann, "7")


def test_first_are_those_that_have_their_names_the_longest() -> None:
    """A new name puts its member last; a refused one doesn't."""
    roster = Roster(Limits())
    ann, bob, cid = (added(roster, ("", port)) for port in (1, 2, 3))
    roster.rename(ann, "ada")
    with pytest.raises(NameTaken):
        roster.rename(bob, "ADA")
    assert roster.first(2) == [bob, cid]
    assert roster.first(9) == [bob, cid, ann]


@given(names)
def test_the_rule_lets_its_own_names_pass(name: str) -> None:
    """What is made as the rule says is never refused, and in upper or lower case its key is the same."""
    check_name(name)
    assert name_key(name.upper()) == name_key(name.lower()) == name_key(name)


@given(anything)
def test_what_passes_can_stand_for_a_member(name: str) -> None:
    """A name that passes is no port's, is shown as it is, holds nothing that ends a name, and comes back as a sender."""
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
    """The key of a key is that key, so a member is found by its name and by the key of it."""
    if not passes(name):
        return
    key = name_key(name)
    assert name_key(key) == key
    roster = Roster(Limits())
    ann = added(roster, ("", 1))
    roster.rename(ann, name)
    assert roster.find(name) is roster.find(key) is ann


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ada", "Ada", "ADA", "bob", "Bob", "eve", "2", "a b", ""])))
)
def test_model(script: list[tuple[int, str]]) -> None:
    """Against a plain list of who has which name: joins and renames; an empty name leaves."""
    roster, members = Roster(Limits()), dict[int, Member]()
    expected: dict[int, str] = {}
    for who, name in script:
        if who not in members:
            members[who] = added(roster, ("", who))
            expected[who] = str(who)
        elif not name:
            roster.remove(members.pop(who))
            del expected[who]
        else:
            taken = {other.lower() for port, other in expected.items() if port != who}
            refusal = ValueError if not name.isalpha() else NameTaken if name.lower() in taken else None
            with pytest.raises(refusal) if refusal else nullcontext():
                roster.rename(members[who], name)
            expected[who] = expected[who] if refusal else name
        assert {who: member.name for who, member in members.items()} == expected
        assert {member.name for member in roster.members} == set(expected.values())
        assert len(roster) == len(expected)
        assert all(roster.find(name.upper()) is members[who] for who, name in expected.items())
