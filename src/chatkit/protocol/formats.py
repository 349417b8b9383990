"""Events to lines, text for people and JSON for programs; and JSON to events. No I/O.

`docs/protocol.md` and `docs/events.schema.json` specify both formats for authors of other clients.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any

from chatkit.errors import ProtocolError
from chatkit.events import (
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
    Renamed,
    Synced,
    Welcome,
)
from chatkit.protocol.names import MAX_NAME_CHARACTERS
from chatkit.protocol.sanitize import clean

# In the order of docs/protocol.md. The name of a type on the wire is the name of its class, in lower case.
_EVENTS = (Welcome, Message, Action, Private, Notice, Error, Joined, Left, Renamed, Gap, Synced, Members)
TYPES: dict[str, Any] = {kind.__name__.lower(): kind for kind in _EVENTS}

_OWN = ',"own":true'

# Bounds of JSON's fields, as a server may send any: a name, as docs/events.schema.json has it; an epoch that fits into
# `/json AFTER EPOCH`; numbers that a history can hold; times before the year 9999, which are valid in every time zone.
_NAME = re.compile(rf"[^\s:*]{{1,{MAX_NAME_CHARACTERS}}}")
_EPOCH = re.compile(r"\S{1,64}")
_COUNT_END = 1 << 63
_TIME_END = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def _text(value: object) -> str:
    """Return a JSON string with its control characters made visible: a server may send any."""
    if not isinstance(value, str):
        raise TypeError
    return clean_text(value)


def _word(pattern: re.Pattern[str], value: object) -> str:
    """Return a short word: a client sends it to the server again, or keeps many of them."""
    if not pattern.fullmatch(text := _text(value)):
        raise ValueError
    return text


@lru_cache(maxsize=1024)  # in a room the same names come again and again
def _name(value: object) -> str:
    return _word(_NAME, value)


def _epoch(value: object) -> str:
    return _word(_EPOCH, value)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < _COUNT_END:
        raise TypeError
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _members(value: object) -> tuple[MemberInfo, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple([MemberInfo(_name(each["name"]), _count(each["id"])) for each in value])


def _seconds(value: str) -> float:
    """Return seconds since the epoch that are a valid time in every time zone."""
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None or not 0 <= moment.timestamp() < _TIME_END:
        raise ValueError
    return moment.timestamp()


_READ: dict[str, Callable[..., object]] = {"id": _count, "newest": _count, "missing": _count, "time": _seconds}
_READ |= {"members": _members, "more": _flag, "text": _text, "code": _text, "resume": _text, "epoch": _epoch}
_READ |= dict.fromkeys(("sender", "name", "old"), _name)
_READ["common"] = lambda value: None if value is None else _count(value)
# Fields that a server may leave out, and their values then.
_OPTIONAL: dict[str, object] = {"resume": "", "common": None}


def encode_text(*events: Event) -> bytes:
    """Encode events as plain text, one line each."""
    return "".join([f"{event}\n" for event in events]).encode()


def encode_json(*events: Event) -> bytes:
    """Encode events as JSON Lines, one object each."""
    return "".join([_json_line(event) for event in events]).encode()


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """A format in which members receive events.

    Attributes:
        name: the name of the format.
        encode: the function that encodes events as bytes, one line each.
        announces: whether its readers always receive joins, leaves and new names; if not, only if the room announces.
    """

    name: str
    encode: Callable[..., bytes]
    announces: bool


TEXT = Format("text", encode_text, announces=False)
JSON = Format("json", encode_json, announces=True)
FORMATS = (TEXT, JSON)


def parse_json(line: str) -> Event | None:
    """Return the event in a JSON line, or None if its type is unknown: a newer server may send such events.

    Raises:
        ProtocolError: the line isn't an object with the fields of its type.
    """
    try:
        fields = json.loads(line)
        kind = TYPES.get(fields["type"])
        if not kind:
            return None
        event: Event = kind(*[_READ[name]((_OPTIONAL | fields)[_key(name)]) for name in kind.__match_args__])
        return replace(event, own=True) if isinstance(event, Message) and fields.get("own") is True else event
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise ProtocolError("the server sent a line that isn't an event") from None


def clean_text(text: str) -> str:
    """Return text from the server's own program with its control characters made visible.

    Raises:
        TypeError: it isn't a str.
        ValueError: it isn't valid Unicode.
    """
    if not isinstance(text, str):
        raise TypeError(f"a notice must be a str, not {text!r}")
    text.encode()
    return clean(text)


def _json_line(event: Event) -> str:
    kind = type(event).__name__.lower()
    if (
        isinstance(event, Message) and event.time is not None
    ):  # by hand, the most frequent event: half the time of json.dumps
        return (
            f'{{"type":"{kind}","id":{event.id},"time":"{_timestamp(event.time)}",'
            f'"from":{quoted(event.sender)},"text":{quoted(event.text)}{_OWN if event.own else ""}}}\n'
        )
    if isinstance(event, Members):
        return members_line([member_entry(each.name, each.id) for each in event.members], more=event.more).decode()
    fields: dict[str, object] = {"type": kind}
    for name in event.__match_args__:
        value = getattr(event, name)
        if value is None or (name in _OPTIONAL and value == _OPTIONAL[name]):  # as text, an event has no id and no time
            continue
        fields[_key(name)] = _timestamp(value) if name == "time" else value
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"


def member_entry(name: str, number: int) -> bytes:
    """Return the JSON of one member."""
    return f'{{"name":{quoted(name)},"id":{number}}}'.encode()


def members_line(entries: Sequence[bytes], *, more: bool) -> bytes:
    """Return a line of the answer to `/who` in JSON.

    Args:
        entries: the JSON of each member.
        more: whether another line follows.
    """
    return b'{"type":"members","members":[%b],"more":%b}\n' % (b",".join(entries), b"true" if more else b"false")


def _key(name: str) -> str:
    """Return the name of a field on the wire: `from` is a keyword of Python."""
    return "from" if name == "sender" else name


@lru_cache(maxsize=2)  # the messages of a turn share one time
def _timestamp(time: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
