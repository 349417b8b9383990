"""Names that follow the rule, and names that only look so."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from chatkit.protocol.names import MAX_NAME_CHARACTERS, check_name

SCRIPTS = {
    "latin": string.ascii_letters + "ßéÅİıøŁđþ",
    "greek": "αβγδΑΒΓΔσςΣώ",
    "cyrillic": "абвгАБВГйёЇ",
    "hebrew": "אבגדםש",
    "arabic": "ابجدكي",
    "han": "漢字王小明",
    "hangul": "한글가힣",
}
OTHERS = string.digits + "_.-"


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
ALLOWED = {
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
}
SAME_BUT_FOR_CASE = [
    ("Ada", "ada"),
    ("Straße", "STRASSE"),
    ("Zoë", "ZOË"),
    ("Σίσυφος", "σίσυφοσ"),
    ("Ольга", "ОЛЬГА"),
    ("ẞa", "ssA"),
    ("\u0131da", "IDA"),
    ("\u0130da", "ida"),
]
