"""A client's side of a conversation without sockets: bytes into `ClientProtocol`, events out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatkit import (
    Action,
    ChatError,
    ConnectionClosed,
    Error,
    Event,
    Gap,
    Joined,
    Left,
    Message,
    NameTaken,
    Notice,
    Private,
    ProtocolError,
    Refused,
    Renamed,
    Welcome,
)
from chatkit.client.opening import Opening
from chatkit.client.protocol import MAX_RECEIVED_BYTES, ClientProtocol
from tests.helpers.hostile import DEEP

TIME = "1970-01-01T00:01:00.000Z"
WELCOME = b'{"type":"welcome","name":"ada","newest":7,"epoch":"0123456789abcdef"}\n'
MESSAGE = b'{"type":"message","id":8,"time":"1970-01-01T00:01:00.000Z","from":"bob","text":"hi"}\n'


def client_protocol(**asked: Any) -> ClientProtocol:
    return ClientProtocol(16, Opening(**asked))


def json_line(**fields: object) -> bytes:
    return json.dumps({("from" if key == "sender" else key): value for key, value in fields.items()}).encode() + b"\n"


def taken(protocol: ClientProtocol) -> list[Event]:
    """Take the events received up to now, as a client does."""
    events = list(protocol.received)
    protocol.received.clear()
    return events


LINES = [
    (b"1: Hi!\n", Message("1", "Hi!")),
    (b"ada: a: b\r\n", Message("ada", "a: b")),
    (b"* ada waves\n", Action("ada", "waves")),
    (b"ada (private): psst\n", Private("ada", "psst")),
    (b"*** closing soon\n", Notice("closing soon")),
    (b"what else it says\n", Notice("what else it says")),
    (MESSAGE, Message("bob", "hi", 8, 60.0)),
    (json_line(type="action", id=9, time=TIME, sender="bob", text="waves"), Action("bob", "waves", 9, 60.0)),
    (json_line(type="private", sender="bob", text="psst", time=TIME), Private("bob", "psst", 60.0)),
    (json_line(type="notice", text="closing soon"), Notice("closing soon")),
    (json_line(type="error", text="no", code="bad_name"), Error("no", "bad_name")),
    (WELCOME, Welcome("ada", 7, "0123456789abcdef")),
    (json_line(type="joined", name="bob"), Joined("bob")),
    (json_line(type="left", name="bob"), Left("bob")),
    (json_line(type="renamed", old="bob", name="cid"), Renamed("bob", "cid")),
    (json_line(type="gap", missing=3), Gap(3)),
    (json_line(type="gap", missing=3, more="to come"), Gap(3)),
]

NONSENSE = [
    b"{\n",
    b'{"type":"notice","text":"hi"\n',
    b"{}\n",
    json_line(type=["notice"], text="hi"),
    json_line(type="notice"),
    json_line(type="notice", text=5),
    json_line(type="notice", text=None),
    json_line(type="notice", text="\ud800"),
    json_line(type="welcome", name="ada", newest="7"),
    json_line(type="gap", missing=1.5),
    json_line(type="message", id=None, time=TIME, sender="bob", text="hi"),
    json_line(type="message", id=8, time=60, sender="bob", text="hi"),
    json_line(type="message", id=8, time="soon", sender="bob", text="hi"),
    json_line(type="message", id=8, time=TIME, sender=["bob"], text="hi"),
    b'{"type":' + b"[" * DEEP + b"\n",
    b"\xff\n",
    b"x" * (MAX_RECEIVED_BYTES + 2),
]


@pytest.mark.parametrize(("line", "event"), LINES)
def test_a_line_is_an_event(line: bytes, event: Event) -> None:
    """Each form of a line, text or JSON, gives its event, of its own type."""
    reader = client_protocol()
    reader.receive_data(line)
    assert taken(reader) == [event]
    assert reader.ended is None


SHORT = [*(line for line, _ in LINES), *(line for line in NONSENSE if len(line) < 1000), b"\n", b"half"]


@given(st.lists(st.sampled_from(SHORT), max_size=8))
@example([line for line, _ in LINES])
def test_chunks_make_no_difference(lines: list[bytes]) -> None:
    """Bytes give the same events and the same end, whole or one by one."""
    whole, bytewise = client_protocol(), client_protocol()
    data = b"".join(lines)
    whole.receive_data(data)
    for byte in data:
        bytewise.receive_data(bytes([byte]))
    for reader in (whole, bytewise):
        reader.receive_data(b"")
    assert list(whole.received) == list(bytewise.received)
    assert (type(whole.ended), str(whole.ended)) == (type(bytewise.ended), str(bytewise.ended))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
@example("\x1b[31m", "a\nb\rc\x7fd\x85e\tf\x9b")
def test_json_hides_no_control_characters(code: str, text: str) -> None:
    """No control character of a JSON string but TAB comes out, no line end either; the rest stays."""
    reader = client_protocol()
    reader.receive_data(json_line(type="error", code=code, text=text))
    (event,) = taken(reader)
    assert isinstance(event, Error)
    for was, shown in ((code, event.code), (text, event.text)):
        controls = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\t"}
        assert not controls & set(shown)
        assert (shown == was) == (not controls & set(was))


def test_control_characters_are_shown() -> None:
    """In JSON as in plain text: a terminal's escape becomes a picture of it."""
    reader = client_protocol()
    reader.receive_data(json_line(type="notice", text="\x1b[2J\r\n") + b"*** \x1b[2J\n")
    assert taken(reader) == [Notice("␛[2J␍␊"), Notice("␛[2J")]


@pytest.mark.parametrize("stranger", [b'{"type":"weather","text":5}\n', b'{"type":"weather"}\n'])
def test_unknown_types_are_passed_over(stranger: bytes) -> None:
    """A newer server's events are no error, with any content; the events around them are received."""
    reader = client_protocol()
    reader.receive_data(MESSAGE + stranger + MESSAGE)
    assert taken(reader) == [Message("bob", "hi", 8, 60.0)] * 2
    assert reader.ended is None


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_ends_the_conversation(nonsense: bytes) -> None:
    """Earlier events stay, nothing more is received, and the first reason counts."""
    reader = client_protocol()
    reader.receive_data(b"*** before\n" + nonsense + b"\n*** after\n")
    reason = reader.ended
    assert isinstance(reason, ProtocolError)
    assert str(reason).startswith("the server sent ")
    reader.receive_data(b"*** later\n")
    reader.receive_data(b"")
    assert taken(reader) == [Notice("before")]
    assert reader.ended is reason


@pytest.mark.parametrize("line", ["BOB (private): HTTP/1.1", "GET: / HTTP/1.1", "\x16\x03: x"])
def test_no_words_of_a_member_end_the_conversation(line: str) -> None:
    """Also if they are the first that arrive, and look like another protocol."""
    reader = client_protocol()
    reader.receive_data(f"{line}\n".encode())
    assert reader.ended is None
    assert len(taken(reader)) == 1


@pytest.mark.parametrize(
    "asked", [{"name": "ada"}, {"events": True}, {"password": "x"}, {"password": "x\u2028"}, {"password": "\u2029 x"}]
)
def test_a_server_that_does_not_know_a_command(asked: dict[str, Any]) -> None:
    """An older server's answer is told at once, instead of waiting for one that won't come."""
    reader = client_protocol(**asked)
    word = reader.opening.decode().split()[0]
    reader.receive_data(f"*** unknown command {word} (try /help)\n".encode())
    with pytest.raises(ProtocolError, match="unknown command"):
        assert reader.is_opening


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ({}, []),
        ({"name": "ada"}, [b"/nick ada"]),
        ({"name": "zoë"}, ["/nick zoë".encode()]),
        ({"events": True}, [b"/json"]),
        ({"events": True, "after": 0}, [b"/json 0"]),
        ({"name": "ada", "events": True, "after": 7}, [b"/nick ada", b"/json 7"]),
        ({"events": True, "after": 7, "epoch": "0" * 16}, [b"/json 7 0000000000000000"]),
    ],
)
def test_opening_lines(asked: dict[str, object], lines: list[bytes]) -> None:
    """The wishes are sent first, the name before the rest; without any, no answer is awaited."""
    opening = client_protocol(**asked)
    assert [line.rstrip() for line in opening.opening.splitlines()] == lines
    assert opening.opening.count(b"\n") == len(lines)
    assert opening.is_opening == bool(lines)


def test_the_opening_is_over_when_all_is_answered() -> None:
    """The name's answer is not for the caller, the welcome is; then messages are."""
    opening = client_protocol(name="ada", events=True)
    opening.receive_data(b"*** you are now ada\n")
    assert opening.is_opening
    opening.receive_data(WELCOME + MESSAGE)
    assert not opening.is_opening
    assert taken(opening) == [Welcome("ada", 7, "0123456789abcdef"), Message("bob", "hi", 8, 60.0)]
    opening.receive_data(b"")
    assert not opening.is_opening


def test_before_the_welcome_only_notices_stay() -> None:
    """Messages in plain text have no id, and a replay tells them again: they are dropped until the welcome."""
    opening = client_protocol(name="ada", events=True, after=0)
    opening.receive_data(b"1: one\n*** soon\n*** you are now ada\n1: two\n* 1 waves\n*** now\n")
    assert opening.is_opening
    assert taken(opening) == [Notice("soon"), Notice("now")]
    opening.receive_data(WELCOME + MESSAGE)
    assert taken(opening) == [Welcome("ada", 7, "0123456789abcdef"), Message("bob", "hi", 8, 60.0)]


def test_without_events_nothing_is_dropped() -> None:
    """A client that asks only for a name gets every message said meanwhile."""
    opening = client_protocol(name="ada")
    opening.receive_data(b"1: one\n*** soon\n*** you are now ada\n1: two\n")
    assert not opening.is_opening
    assert taken(opening) == [Message("1", "one"), Notice("soon"), Message("1", "two")]


@pytest.mark.parametrize("events", [False, True])
def test_a_replay_before_the_answer(events: bool) -> None:
    """In plain text it is the caller's, with the lines around it; else it comes again after the welcome."""
    opening = client_protocol(name="ada", events=events)
    opening.receive_data(b"*** before you came:\n1: one\n*** from here on it is live\n*** you are now ada\n")
    assert opening.is_opening == events
    replay = [Notice("before you came:"), Message("1", "one"), Notice("from here on it is live")]
    assert taken(opening) == ([] if events else replay)


@pytest.mark.parametrize("events", [False, True])
def test_a_name_that_is_taken(events: bool) -> None:
    """NameTaken says which, each time one asks, and nothing more is received."""
    opening = client_protocol(name="ada", events=events)
    opening.receive_data(b"*** the name ada is taken\n" + WELCOME + b"*** later\n")
    for _ in range(2):
        with pytest.raises(NameTaken) as caught:
            _ = opening.is_opening
        assert caught.value.name == "ada"
    assert not taken(opening)


def test_a_name_that_is_refused() -> None:
    """`Refused` has the reason of the room's program; a client that comes back goes on without the name."""
    opening = client_protocol(name="ada", events=True)
    opening.receive_data(b"*** name refused: not here\n" + WELCOME)
    with pytest.raises(Refused, match="not here") as caught:
        _ = opening.is_opening
    assert caught.value.code == "refused"
    returning = client_protocol(name="ada", events=True, after=7, epoch="0123456789abcdef", is_returning=True)
    returning.receive_data(b"*** name refused: not here\n" + WELCOME)
    assert not returning.is_opening
    assert taken(returning) == [Welcome("ada", 7, "0123456789abcdef")]


@pytest.mark.parametrize("asked", [{"name": "ada"}, {"events": True}])
@pytest.mark.parametrize(
    ("chunks", "kind", "reason", "clean"),
    [
        ([b"*** the room is full\n", b""], ConnectionClosed, "the room is full", True),
        ([b""], ConnectionClosed, "the server ended the conversation", True),
        ([b"*** the room is", b""], ConnectionClosed, "the server ended in the middle of a line", False),
        ([b"{}\n"], ProtocolError, "the server sent a line that isn't an event", None),
        ([b"*** soon\n{}\n"], ProtocolError, "the server sent a line that isn't an event", None),
    ],
)
def test_an_end_instead_of_the_answer(
    asked: dict[str, object], chunks: list[bytes], kind: type[ChatError], reason: str, clean: bool | None
) -> None:
    """The room's own words are the reason if it gave some before it ended the conversation."""
    opening = client_protocol(**asked)
    for chunk in chunks:
        opening.receive_data(chunk)
    with pytest.raises(kind) as caught:
        _ = opening.is_opening
    assert str(caught.value) == reason
    assert getattr(caught.value, "clean", None) is clean


@pytest.mark.parametrize(
    ("data", "clean", "reason"),
    [
        (b"", True, "the server ended the conversation"),
        (b"*** bye\n", True, "the server ended the conversation"),
        (b"*** by", False, "the server ended in the middle of a line"),
        (b"*** bye\n{", False, "the server ended in the middle of a line"),
    ],
)
def test_the_end_of_the_stream(data: bytes, clean: bool, reason: str) -> None:
    """It is clean after a whole line; half a line never comes out."""
    reader = client_protocol()
    if data:
        reader.receive_data(data)
    reader.receive_data(b"")
    assert taken(reader) == ([Notice("bye")] if b"bye\n" in data else [])
    assert isinstance(reader.ended, ConnectionClosed)
    assert (reader.ended.clean, reader.ended.reason) == (clean, reason)


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("error", [ConnectionResetError(104, "it is lost"), OSError("it is lost")])
def test_a_socket_that_fails(error: OSError, closing: bool) -> None:
    """The system's words are the reason, unless this side is closing: then the end is its own, and clean."""
    reader = client_protocol()
    if closing:
        reader.begin_close()
    lost = reader.closed_by(error)
    assert isinstance(lost, ConnectionClosed)
    assert (lost.reason, lost.clean) == ("this client is closed" if closing else "it is lost", closing)


def test_the_first_error_counts() -> None:
    """An error of the socket is the reason of the end that reads find later; a broken pipe is none."""
    reader = client_protocol()
    pipe, reset = BrokenPipeError(32, "Broken pipe"), ConnectionResetError(104, "Connection reset by peer")
    assert [str(reader.closed_by(error)) for error in (pipe, reset, pipe)] == [pipe.strerror, *[reset.strerror] * 2]
    reader.receive_data(b"*** bye\n")
    assert (taken(reader), reader.ended) == ([Notice("bye")], None)
    reader.receive_data(b"")
    assert str(reader.ended) == reset.strerror
    assert reader.closed_by(TimeoutError(110, "Connection timed out")) is reader.ended


@pytest.mark.parametrize("data", [b"*** late\n", b"*** la", b"{}\n", b"\xff\n", MESSAGE])
def test_nothing_is_kept_while_closing(data: bytes) -> None:
    """After `begin_close` neither events nor nonsense count, and every end is a clean one."""
    reader = client_protocol()
    reader.receive_data(b"*** before\n*** hal")
    reader.begin_close()
    reader.receive_data(data)
    assert reader.ended is None
    reader.receive_data(b"")
    assert taken(reader) == [Notice("before")]
    assert isinstance(reader.ended, ConnectionClosed)
    assert reader.ended.clean


def test_close_drops_received_events() -> None:
    """After `close` there is nothing to take, and a waiting caller is told the reason, also after an earlier end."""
    reader = client_protocol()
    reader.receive_data(b"*** before\n{}\n")
    reader.close()
    assert not reader.received
    assert isinstance(reader.ended, ConnectionClosed)
    assert (reader.ended.reason, reader.ended.clean) == ("this client is closed", True)


@pytest.mark.parametrize("text", ["a\nb", "a\n", "a\r", "a\r\n", "x" * 17, "é" * 9, "\ud800"])
def test_line_refuses_text_that_the_wire_cannot_carry(text: str) -> None:
    """A line end, too many bytes, or a surrogate: nothing is sent."""
    with pytest.raises(ValueError, match="not sent"):
        client_protocol().encode(text)


@pytest.mark.parametrize("text", ["", "exit", "x" * 16, "é" * 8, "a\rb", "\x1b"])
def test_line_is_the_text_and_its_end(text: str) -> None:
    """Anything else goes as it is, up to the limit."""
    assert client_protocol().encode(text) == text.encode() + b"\n"


@pytest.mark.parametrize(
    "asked",
    [
        {"name": ""},
        {"name": "5"},
        {"name": "a b"},
        {"name": "ada\n/json"},
        {"name": "x" * 33},
        {"events": True, "after": -1},
        {"events": True, "epoch": "0" * 16},
        {"events": True, "after": 0, "epoch": "an epoch of mine"},
        {"after": 0},
        {"after": 5},
    ],
)
def test_wishes_that_cannot_be(asked: dict[str, object]) -> None:
    """A name against the rule, or an `after` that is no id or comes without events, is the caller's mistake."""
    with pytest.raises(ValueError, match=r"a name begins|after is an id|epoch is that of"):
        client_protocol(**asked)


def test_a_private_line_before_the_welcome_is_kept() -> None:
    """A private line is sent only once; public messages before the welcome come again in the replay."""
    session = ClientProtocol(8192, Opening(events=True))
    session.receive_data(
        b'ada (private): psst\nada: hi\n{"type":"welcome","name":"1","newest":1,"epoch":"0123456789abcdef"}\n'
    )
    assert list(session.received) == [Private("ada", "psst"), Welcome("1", 1, "0123456789abcdef")]


def test_objects_of_any_server_are_text_until_a_welcome() -> None:
    """Then the user has typed `/json` in a room."""
    protocol = ClientProtocol(16, Opening(), any_server=True)
    protocol.receive_data(b'{"msg": "hi"}\n' + MESSAGE + WELCOME + MESSAGE)
    mine, early, *events = taken(protocol)
    assert [str(mine), str(early)] == ['{"msg": "hi"}', MESSAGE.decode().rstrip()]
    assert [type(event) for event in events] == [Welcome, Message]


def test_quiet_text_that_is_too_long_ends_the_conversation() -> None:
    """A CR might still have ended it in time."""
    protocol = ClientProtocol(16, Opening(), any_server=True)
    protocol.receive_data(b"\n" + b"x" * (MAX_RECEIVED_BYTES + 1))
    assert protocol.has_quiet_text
    protocol.end_line()
    assert isinstance(protocol.ended, ProtocolError)
