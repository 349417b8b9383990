"""Events to lines and back, as text and as JSON; the JSON follows its schema and docs/protocol.md."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit import (
    Action,
    Error,
    Event,
    Gap,
    Joined,
    Left,
    MemberInfo,
    Members,
    Message,
    Notice,
    Private,
    ProtocolError,
    Refused,
    Renamed,
    Synced,
    Welcome,
)
from chatkit.protocol.formats import TYPES, clean_text, encode_json, encode_text, parse_json
from chatkit.protocol.replies import REMOVED
from chatkit.protocol.sanitize import clean
from chatkit.protocol.text import parse_foreign_text, parse_text
from chatkit.room.commands import HELP
from tests.helpers.anything import FAR_TIMES
from tests.helpers.hostile import DEEP

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "events.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

names = st.from_regex(r"[0-9]{1,5}(-[0-9])?|[a-zé][a-zé0-9_.-]{0,31}", fullmatch=True)
texts = st.text(min_size=1).map(clean).filter(bool)
ids = st.integers(1, 2**63 - 1)
times = st.integers(0, 4_000_000_000_000).map(lambda milliseconds: milliseconds / 1000)
utterances = [st.builds(kind, names, texts, ids, times, own=st.booleans()) for kind in (Message, Action)]
spoken: st.SearchStrategy[Event] = st.one_of(*utterances, st.builds(Private, names, texts, times))
notices = st.builds(Notice, texts) | st.builds(Error, texts, st.sampled_from(["too_long", "bad_name"]))
rooms = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
tokens = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
welcomes = st.builds(Welcome, names, ids, rooms, tokens, st.none() | st.integers(0, 2**63 - 1))
counted = welcomes | st.builds(Gap, ids) | st.builds(Synced, st.integers(0, 2**63 - 1))
members = st.lists(st.builds(MemberInfo, names, ids), max_size=3).map(tuple)
told: st.SearchStrategy[Event] = st.one_of(
    notices,
    counted,
    st.builds(Members, members, st.booleans()),
    st.builds(Renamed, names, names),
    st.builds(Joined, names),
    st.builds(Left, names),
)
untimed: st.SearchStrategy[Event] = st.one_of(*[st.builds(kind, names, texts) for kind in (Message, Action, Private)])


def validate(line: bytes) -> dict[str, Any]:
    """One line, ended, an object as the schema has it, and nothing beside."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    fields: dict[str, Any] = json.loads(line)
    VALIDATOR.validate(fields)
    kind = SCHEMA["$defs"][fields["type"]]
    assert set(kind["required"]) <= fields.keys() <= set(kind["properties"])
    return fields


@given(spoken | told)
def test_json_and_back(event: Event) -> None:
    """Every event's JSON line is as the schema says, and tells the event again, to the millisecond."""
    line = encode_json(event)
    validate(line)
    again = parse_json(line.decode())
    assert type(again) is type(event)
    if isinstance(event, Message | Private) and isinstance(again, Message | Private):
        assert again.time == pytest.approx(event.time, abs=0.0011)
        again = replace(again, time=event.time)
    assert again == event
    if isinstance(event, Welcome) and isinstance(again, Welcome):  # a secret: it isn't compared
        assert again.resume == event.resume


def test_a_welcome_without_a_token() -> None:
    """A server need not give one."""
    line = '{"type":"welcome","name":"ada","newest":0,"epoch":"0123456789abcdef"}\n'
    event = parse_json(line)
    assert isinstance(event, Welcome)
    assert (event.resume, encode_json(event)) == ("", line.encode())


@given(st.lists(spoken | told, max_size=5))
def test_many_events_are_their_lines_together(events: list[Event]) -> None:
    """A batch is encoded at once; that makes no difference."""
    assert encode_json(*events) == b"".join(map(encode_json, events))
    assert encode_text(*events) == b"".join(map(encode_text, events))


@given(untimed | told)
def test_text_and_back(event: Event) -> None:
    """A line of text tells the event again; all that the room itself says comes back as a notice of the same words."""
    encoded = encode_text(event)
    assert encoded.endswith(b"\n")
    by_a_member = isinstance(event, Message | Private)
    assert parse_text(encoded[:-1].decode()) == (event if by_a_member else Notice(event.text))


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("51044: Hi!", Message("51044", "Hi!")),
        ("51044: a: b", Message("51044", "a: b")),
        ("51044-2: x", Message("51044-2", "x")),
        ("ada: (private): x", Message("ada", "(private): x")),
        ("ada (private): psst", Private("ada", "psst")),
        ("* ada waves", Action("ada", "waves")),
        ("* ada: waves", Notice("* ada: waves")),
        ("*** the room is full", Notice("the room is full")),
        ("*** a: b", Notice("a: b")),
        ("SSH-2.0-OpenSSH_9.2", Notice("SSH-2.0-OpenSSH_9.2")),
        ("two words: x", Notice("two words: x")),
    ],
)
def test_parse_text(line: str, event: Event) -> None:
    """The forms of a line, and lines of none of them."""
    assert parse_text(line) == event


@given(
    st.text() | st.sampled_from(["", "***", "*** hi", "* ada waves", "* x", "Welcome!", "[ada] hi", "ada: hi", "{}"])
)
def test_a_line_of_any_server_stays_as_it_is(line: str) -> None:
    """No form is a reason to change it."""
    assert str(parse_foreign_text(line)) == line


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "17",
        "{}",
        '{"type":["message"]}',
        '{"type":"notice"}',
        '{"type":"notice","text":17}',
        '{"type":"joined","name":null}',
        '{"type":"gap","missing":"many"}',
        '{"type":"message","id":1,"time":"yesterday","from":"1","text":"x"}',
        '{"type":"message","id":1,"time":17,"from":"1","text":"x"}',
        '{"type":"message","id":1,"time":"9999-12-31T23:59:59-01:00","from":"1","text":"x"}',
        '{"type":"message","time":"2026-11-22T08:40:01.123Z","from":"1","text":"x"}',
        '{"type":"notice","text":"\\ud800"}',
        '{"type":"members","members":{},"more":false}',
        '{"type":"members","members":["ada"],"more":false}',
        '{"type":"members","members":[{"name":"ada"}],"more":false}',
        '{"type":"members","members":[{"name":"ada","id":"1"}],"more":false}',
        '{"type":"members","members":[],"more":0}',
        '{"type":"gap","missing":9223372036854775808}',
        '{"type":"gap","missing":' + "9" * 4300 + "}",
        *('{"type":"joined","name":"' + name + '"}' for name in ("", "a b", "a:", "*", "a\\tb", "x" * 33)),
        *('{"type":"welcome","name":"1","newest":0,"epoch":"' + epoch + '"}' for epoch in ("", "0 1", "x" * 65)),
        *('{"type":"private","time":"' + time + '","from":"1","text":"x"}' for time in FAR_TIMES),
        '{"a":' * DEEP,
    ],
)
def test_json_that_is_no_event(line: str) -> None:
    """Nonsense from a server is one documented error."""
    with pytest.raises(ProtocolError):
        parse_json(line)


@given(untimed)
def test_json_of_plain_text(event: Event) -> None:
    """An event that came as plain text has no id and no time; its JSON has the rest."""
    fields = json.loads(encode_json(event))
    assert isinstance(event, Message | Private)
    assert fields == {"type": type(event).__name__.lower(), "from": event.sender, "text": event.text}


def test_json_of_a_newer_server() -> None:
    """Unknown types are passed over, unknown fields too; hidden control characters are made visible."""
    assert parse_json('{"type":"reaction","to":17}') is parse_json('{"type":17}') is None
    assert parse_json('{"type":"joined","name":"ada","mood":"good"}') == Joined("ada")
    assert parse_json('{"type":"joined","name":"ada","own":true}') == Joined("ada")
    assert parse_json('{"type":"notice","text":"a\\u001b[2J\\nb"}') == Notice("a␛[2J␊b")


def test_the_protocol_document_has_an_example_of_each_type() -> None:
    """One line each, as the schema says and as this version writes it."""
    (block,) = re.findall(r"```json\n(.*?)```", (DOCS / "protocol.md").read_text(), re.DOTALL)
    lines = block.splitlines()
    assert [validate(f"{line}\n".encode())["type"] for line in lines] == list(TYPES)
    for line in lines:
        event = parse_json(line)
        assert event
        assert encode_json(event).decode() == f"{line}\n"


def test_the_protocol_document_lists_every_code() -> None:
    """Each code that is anywhere in the source, and no other."""
    source = "".join(path.read_text() for path in (DOCS.parent / "src/chatkit").rglob("*.py"))
    codes = set(re.findall(r'Error\(.*, "([a-z]\w+)"\)', source)) | set(re.findall(r'BadLine\("(\w+)"', source))
    codes |= {"slow_consumer", "endless_line", REMOVED, Refused("").code}  # made of the reason, or a constant
    assert len(codes) > 10
    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "protocol.md").read_text().partition("| code |")[2], re.MULTILINE)
    assert sorted(listed) == sorted(codes)


def test_the_documents_have_the_table_of_commands() -> None:
    """Each command as `/help` shows it, in docs/protocol.md."""
    protocol = (DOCS / "protocol.md").read_text()
    for usage, does in HELP:
        assert f"| `{usage}` | {does}" in protocol


def test_clean_text() -> None:
    """Text of the server's own program is made clean, or refused."""
    assert clean_text("a\nb") == "a␊b"
    with pytest.raises(TypeError, match="a notice must be a str"):
        clean_text(17)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogate"):
        clean_text("\ud800")
