"""Lines of a hostile server: objects of every type of event with anything in their fields, and plain text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from chatkit.protocol.formats import TYPES

# Not a time in every time zone, or not even in UTC; and one without a zone.
FAR_TIMES = [
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00"),
    *("1969-12-31T23:59:59.999Z", "2026-01-01T00:00:00.000"),
]
TIMES = ["2026-01-01T00:00:00.000Z", "1970-01-01T00:00:00Z", "9998-12-31T23:59:59.999999Z", *FAR_TIMES, "now", ""]
# Names that the wire allows and the rule for names doesn't, and names that neither allows.
NAMES = [
    "ada",
    "51044",
    "51044-2",
    "Ada",
    "1abc",
    "-x",
    "/who",
    "\U00012000" * 32,
    "bad name",
    "",
    "a:",
    "x" * 33,
    "a\n",
]
EPOCHS = ["0" * 16, "1" * 16, "", "0 1", "\n/exit", "x" * 65]
COUNTS = [0, 1, 7, 8, 9, (1 << 63) - 1, 1 << 63, -1, 1.5, True]
USUAL: dict[str, list[Any]] = {
    "id": COUNTS,
    "newest": COUNTS,
    "missing": COUNTS,
    "time": TIMES,
    "epoch": EPOCHS,
    "code": ["removed", "", "x"],
    "resume": ["0" * 32, "", "0" * 31, "\n/exit", 7],
    "members": [[], [{"name": "ada", "id": 1}], [{"name": "a b", "id": 1}], [{"name": "ada"}], {}],
    "common": [*COUNTS, None],
    "more": [True, False, 0],
}
USUAL |= dict.fromkeys(("from", "name", "old"), NAMES) | {"text": ["hi", "\x1b[2J", ""]}

odd: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40), st.lists(st.none(), max_size=2)
)


def fields_of(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of one type of event: most of them with values that are usual or nearly so, some without a field."""
    names = ["from" if name == "sender" else name for name in TYPES[kind].__match_args__]
    usual = {name: st.sampled_from(USUAL[name]) for name in names}
    objects = st.fixed_dictionaries({"type": st.just(kind), **usual})
    spoiled = st.fixed_dictionaries({"type": st.just(kind)}, optional=dict.fromkeys(names, odd))
    return st.one_of(objects, objects, objects, spoiled)


objects = st.sampled_from(list(TYPES)).flatmap(fields_of).map(lambda fields: json.dumps(fields).encode())
texts = st.sampled_from(
    [
        b"ada: hi",
        b"* ada waves",
        b"ada (private): psst",
        b"*** x",
        b"*** you are now ada",
        b"*** you are in",
        b"{}",
        b"",
    ]
)
lines = st.one_of(objects, objects, texts)
