"""The verbs of both clients: what is said arrives as typed, and answers come back to their caller."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatkit import (
    Action,
    AsyncClient,
    Client,
    ConnectionClosed,
    Error,
    Limits,
    MemberInfo,
    Message,
    Notice,
    Private,
    ProtocolError,
    Refused,
    Renamed,
    Welcome,
)
from chatkit.client import exchange
from chatkit.client.verbs import Composer
from chatkit.history.memory import MemoryHistory
from chatkit.protocol.formats import parse_json
from chatkit.protocol.sanitize import clean
from chatkit.protocol.sniff import SniffingDecoder
from chatkit.protocol.text import parse_text
from chatkit.room import listing
from chatkit.room.room import Room
from tests.helpers.aio import in_loop
from tests.helpers.both import Connect
from tests.helpers.desks import Desk
from tests.helpers.endless import NEWS, OLD, endless_server
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve

# Without an opening: the first line of the stream is one of these.
BARE = Composer(300, None, is_first=True, events=False, echo=False)
OPENED = Composer(300, None, is_first=False, events=True, echo=True)

TRICKY = ["exit", " exit\t", "EXIT", "/", "//", "/exit", "/who", "/nick eve", "/say x", "/json", " /who", "\ufeff/who"]
TRICKY += [
    "\ufeffexit",
    "GET / HTTP/1.1",
    "CAP LS",
    "SSH-2.0-x",
    "\x16\x03\x01",
    "exit\x85",
    "\x1cexit",
    "\u2028",
    "  x ",
]
TRICKY += ["NICK eve", "\ufeff", "\x1c", "/me x", "*** closing", "ada: x", "* ada x", '{"type":"notice"}', "*"]
texts = st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


class Room3:
    """A room of three: the speaker, and readers of text and of JSON."""

    def __init__(self) -> None:
        self.desk = Desk(Room())
        self.speaker, self.text, self.json = (self.desk.join(port) for port in (1, 2, 3))
        self.desk.hear(self.json, "/json")
        self.json.received = b""

    def hear(self, composer: Composer, lines: list[str]) -> None:
        """Receive the lines of a client as a server does: as bytes of one stream."""
        opening = [] if composer.is_first else ["/json"]
        data = "".join(f"{line}\n" for line in [*opening, *lines]).encode()
        self.desk.hear(self.speaker, *SniffingDecoder(300).receive_data(data))

    def said(self) -> list[Any]:
        """Return the events that the reader of JSON got, without the join, after a look at those in text."""
        assert self.speaker.left is None
        _joined, *events = [parse_json(line) for line in self.json.received.decode().split("\n")[:-1]]
        shown = [parse_text(line) for line in self.text.received.decode().split("\n")[:-1]]
        public = [event for event in events if isinstance(event, Message)]
        assert [(type(event), event.text) for event in shown if not isinstance(event, Notice)] == [
            (type(event), event.text) for event in public
        ]
        return events


@given(st.sampled_from([BARE, OPENED]), st.lists(texts, min_size=1, max_size=4).map("\n".join))
@example(BARE, "GET / HTTP/1.1\nHost: x")
@example(OPENED, "a\r\nb\n")
def test_what_is_said_arrives_as_typed(composer: Composer, text: str) -> None:
    """Each line as a message of its own, whatever it is, and the speaker stays; or none of them is sent."""
    room, wanted = Room3(), [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if "" in wanted or any(line.endswith("\r") for line in wanted):
        with pytest.raises(ValueError, match="not sent"):
            composer.say(text)
        return
    room.hear(composer, composer.say(text))
    assert [(type(event), event.text) for event in room.said()] == [(Message, clean(line)) for line in wanted]


@given(st.sampled_from([BARE, OPENED]), texts)
def test_what_is_done_or_told_arrives_as_typed(composer: Composer, text: str) -> None:
    """An action and a private message are just that, white space included; or it is refused here."""
    room = Room3()
    if {"\n", "\r"} & set(text) or not text.strip():
        for verb in (composer.act, lambda text: composer.tell("3", text)):
            with pytest.raises(ValueError, match="not sent"):
                verb(text)
        return
    room.hear(composer, [composer.act(text), composer.tell("3", text)])
    action, private = room.said()
    assert (type(action), action.text) == (Action, clean(text))
    assert (type(private), private.text) == (Private, clean(text))


@given(st.sampled_from([BARE, OPENED]), texts)
def test_a_name_is_a_name(composer: Composer, name: str) -> None:
    """Whatever is not, is refused here, as a name to take and as one to tell something."""
    room = Room3()
    for verb in (composer.rename, lambda name: composer.tell(name, "x")):
        try:
            line = verb(name)
        except ValueError:
            continue
        room.hear(composer, [line])
    assert room.speaker.member.name in ("1", name)
    assert room.desk.room.newest_id == 0


@pytest.mark.parametrize("composer", [BARE, OPENED])
def test_what_no_line_can_carry(composer: Composer) -> None:
    """Too long with its escape, empty, or in several lines where one is meant: ValueError, and nothing is sent."""
    room = 300 - len("/say ") * composer.is_first
    assert composer.say("x" * room)
    assert composer.act("x" * 296)
    for text in ("x" * (room + 1), "/" + "x" * 296, "", "\n", "a\n\nb", "a\r\r\n", "\ud800", "é" * 151):
        with pytest.raises(ValueError, match="not sent"):
            composer.say(text)
    for text in ("", "  ", "a\nb", "a\r", "\r", "x" * 297, "\ud800"):
        for verb in (composer.act, lambda text: composer.tell("bob", text)):
            with pytest.raises(ValueError, match="not sent"):
                verb(text)
    for name in ("", "a b", "a\n", "a:b", "*", "x" * 33):
        with pytest.raises(ValueError, match="no member's name"):
            composer.tell(name, "x")
    for name in ("", "5", "a b", "x\n/exit"):
        with pytest.raises(ValueError, match="a name begins"):
            composer.rename(name)
    for name in ("51044", "51044-2", "ada", "\u17000"):
        assert composer.tell(name, "x") == f"/msg {name} x"


QUESTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [(("say", "hi"), {"confirm": True}), (("members",), {})]


@pytest.mark.parametrize("reconnect", [False, True])
def test_verbs_of_both_clients(serve: Serve, connect: Connect, reconnect: bool) -> None:
    """Each does what it says, and no text is a command."""
    started = serve()
    bob = started.peer()
    bob.send(b"/nick bob\n")
    assert bob.line() == b"*** you are now bob"
    ann = connect(started.port, name="ann", reconnect=reconnect)
    ann.call("say", "exit\n/who\nGET / HTTP/1.1")
    ann.call("act", "/waves")
    ann.call("tell", "BOB", "  psst")
    ann.call("rename", "Anna")
    ann.call("say", "x")
    said = [b"ann: exit", b"ann: /who", b"ann: GET / HTTP/1.1", b"* ann /waves", b"ann (private):   psst", b"Anna: x"]
    assert bob.lines(6) == said
    for call in (("say", ""), ("act", "a\nb"), ("tell", "a b", "x"), ("tell", "bob", " "), ("rename", "7")):
        with pytest.raises(ValueError, match=r"not sent|a name begins"):
            ann.call(*call)
    ann.call("leave")
    with pytest.raises(ConnectionClosed):
        ann.receive(Welcome if not reconnect else Private)
    assert started.events.wait_for("leave") == "exit"


@pytest.mark.parametrize("per_line", [1, 2, 100])
@pytest.mark.parametrize("reconnect", [False, True])
def test_members(
    serve: Serve, connect: Connect, reconnect: bool, per_line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, in one list; what else comes is still received, in its order, and so is a question sent raw."""
    monkeypatch.setattr(listing, "MEMBERS_PER_LINE", per_line)
    started = serve()
    peers = started.peers(5)
    for peer in peers:
        peer.sync()
    ann = connect(started.port, name="ann", events=True, reconnect=reconnect)
    ann.receive(Welcome)
    peers[0].send(b"before\n/nick bob\n")
    peers[0].pass_over(b"now bob\n")
    ann.call("send", "/who")
    ann.call("send", "/nonsense")
    members = ann.call("members")
    names = [*[peer.name for peer in peers[1:]], "ann", "bob"]
    assert members == [MemberInfo(each.name, each.id) for each in started.server.members]
    assert [member.name for member in members] == names
    assert ann.receive(Message).text == "before"
    assert ann.receive(Renamed).name == "bob"
    shown = list[MemberInfo]()
    while len(shown) < 6:
        shown += ann.call("receive", timeout=DEADLINE).members
    assert shown == members
    assert ann.receive(Error).code == "unknown_command"
    assert len(ann.call("members")) == 6
    with pytest.raises(TimeoutError):
        ann.call("receive", timeout=0)


@pytest.mark.parametrize("reconnect", [False, True])
def test_an_answer_behind_many_events(serve: Serve, connect: Connect, reconnect: bool) -> None:
    """More than a client reads for a program that doesn't receive: the answer is read, and all of them stay."""
    started = serve()
    bob = started.peer()
    ann = connect(started.port, events=True, echo=True, reconnect=reconnect)
    bob.send(b"x\n" * 5000)
    bob.sync()
    assert len(ann.call("members")) == 2
    assert ann.call("say", "y", confirm=True).id == 5001
    assert [ann.receive(Message).id for _ in range(5001)] == list(range(1, 5002))


def test_members_while_another_thread_receives(serve: Serve) -> None:
    """The reader reads the answer, and hands it on at once; the events before and after it are the reader's."""
    started = serve()
    bob = started.peer()
    bob.sync()
    heard = list[str]()
    with Client(port=started.port, timeout=DEADLINE, events=True, echo=True) as ann:
        assert isinstance(ann.receive(DEADLINE), Welcome)
        thread = threading.Thread(target=lambda: heard.extend(event.text for event in ann))
        thread.start()
        for number in range(50):
            assert len(ann.members()) == 2
            assert ann.say(f"{number}", confirm=True).id == number + 1
        ann.leave()
        thread.join(DEADLINE)
    assert heard == [f"{number}" for number in range(50)]


@pytest.mark.stress
def test_threads_that_ask_at_once(serve: Serve) -> None:
    """Each gets its own answer, beside one that receives and one that sends nonsense: no event is lost or doubled."""
    started, ids = serve(), dict[int, str]()
    heard = list[Message]()

    with Client(port=started.port, events=True, echo=True) as ann:

        def say(name: str) -> None:
            for number in range(30):
                message = ann.say(f"{name}{number}", confirm=True)
                assert (message.text, message.own) == (f"{name}{number}", True)
                ids[message.id or 0] = message.text
                assert ann.members() == [MemberInfo(each.name, each.id) for each in started.server.members]
                ann.send("/nonsense")

        def receive() -> None:
            while len(heard) < 90:
                if isinstance(event := ann.receive(DEADLINE), Message):
                    heard.append(event)

        threads = [threading.Thread(target=say, args=(name,)) for name in "abc"]
        threads.append(threading.Thread(target=receive))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in threads)
    assert [(event.id, event.text) for event in heard] == sorted(ids.items())
    assert list(ids) != []
    assert sorted(ids) == list(range(1, 91))


class Strict:
    """Refuses, drops, or changes what it is told to."""

    def on_message(self, message: Message) -> Message | None:
        match message.text:
            case "bad":
                raise Refused("not here")
            case "dropped":
                return None
            case "shout":
                return Message(message.sender, "SHOUT")
        return message


@pytest.mark.parametrize("reconnect", [False, True])
def test_a_confirmed_message(serve: Serve, connect: Connect, reconnect: bool) -> None:
    """As the room published it; a refusal is raised, and tells why. Nothing else is taken for it."""
    started = serve(handler=Strict())
    bob = started.peer()
    ann = connect(started.port, name="ann", events=True, echo=True, reconnect=reconnect)
    ann.call("send", "bad")
    ann.call("send", "hi")
    bob.send(b"hi\n")
    bob.sync()
    message = ann.call("say", "hi", confirm=True)
    assert (type(message), message.sender, message.text, message.own) == (Message, "ann", "hi", True)
    shout = ann.call("say", "shout", confirm=True)
    assert (shout.text, shout.id) == ("SHOUT", message.id + 1)
    assert ann.call("say", "/exit", confirm=True).text == "/exit"
    with pytest.raises(Refused, match=r"^not here$") as refused:
        ann.call("say", "bad", confirm=True)
    assert refused.value.code == "refused"
    with pytest.raises(Refused, match="dropped it without a word"):
        ann.call("say", "dropped", confirm=True)
    with pytest.raises(ValueError, match="one line at a time"):
        ann.call("say", "two\nlines", confirm=True)
    ann.call("say", "the last")
    events = [ann.call("receive", timeout=DEADLINE)]
    while events[-1].text != "the last":
        events.append(ann.call("receive", timeout=DEADLINE))
    assert [event for event in events if isinstance(event, Error)] == [Error("not sent: not here", "refused")]
    said = [event for event in events if isinstance(event, Message)]
    assert [event.id for event in said] == list(range(1, 7))
    assert sorted(event.text for event in said if event.own) == ["/exit", "SHOUT", "hi", "hi", "the last"]
    assert {event.id: event for event in said}[message.id] == message


def test_refusals_of_the_room(serve: Serve, connect: Connect) -> None:
    """A line that is too long for it, and a message that it can't keep."""
    store = MemoryHistory(100)
    started = serve(history=store, history_required=True, limits=Limits(max_line_bytes=50))
    ann = connect(started.port, events=True, echo=True)
    with pytest.raises(Refused, match="longer than 50 bytes") as refused:
        ann.call("say", "x" * 51, confirm=True)
    assert refused.value.code == "too_long"
    assert ann.call("say", "x", confirm=True).id == 1

    def fail(messages: object) -> None:
        raise OSError("the disk is full")

    store.append = fail  # type: ignore[method-assign]
    with pytest.raises(Refused, match="can't be kept") as refused:
        ann.call("say", "x", confirm=True)
    assert refused.value.code == "not_kept"


def test_what_needs_events_or_an_echo(serve: Serve, connect: Connect) -> None:
    """RuntimeError, and nothing is sent; an echo without events is a ValueError."""
    started = serve()
    with pytest.raises(ValueError, match="echo needs events"):
        connect(started.port, echo=True)
    plain, program = connect(started.port), connect(started.port, events=True)
    with pytest.raises(RuntimeError, match="events=True"):
        plain.call("members")
    with pytest.raises(RuntimeError, match="echo=True"):
        program.call("say", "x", confirm=True)
    program.call("say", "seen")
    plain.call("say", "exit")
    assert [type(event) for event in (program.receive(Message), plain.receive(Message))] == [Message] * 2
    assert started.events.wait_for("message").endswith(": seen")


@contextmanager
def deaf_server() -> Iterator[tuple[int, Callable[[], socket.socket]]]:
    """A port where a welcome is all that is said; and the way to its end of the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted = list[socket.socket]()

        def accept() -> None:
            sock, _ = listener.accept()
            sock.sendall(b'{"type":"welcome","name":"1","newest":0,"epoch":"0123456789abcdef"}\n')
            accepted.append(sock)

        thread = threading.Thread(target=accept)
        thread.start()

        def peer() -> socket.socket:
            thread.join(DEADLINE)
            return accepted[0]

        yield listener.getsockname()[1], peer
        peer().close()


def lines_sent(sock: socket.socket, number: int) -> list[bytes]:
    """Return so many lines that a client has sent after its opening."""
    data = b""
    while data.count(b"\n") < number + 1:
        data += sock.recv(65536)
    return data.splitlines()[1:]


def test_no_answer_in_time(connect: Connect) -> None:
    """TimeoutError. A refusal that comes later is received; late lists and answers to probes are nobody's."""
    with deaf_server() as (port, peer):
        ann = connect(port, timeout=0.3, events=True, echo=True)
        ann.receive(Welcome)
        for verb, options in QUESTIONS:
            with pytest.raises(TimeoutError):
                ann.call(*verb, **options)
        say_begin, line, say_end, who_begin, who, who_end = lines_sent(peer(), 6)
        assert (line, who) == (b"hi", b"/who")
        replies = [
            *(say_begin, b'{"type":"error","text":"not sent: no","code":"refused"}', say_end),
            *(who_begin, b'{"type":"members","members":[],"more":false}', who_end),
            b'{"type":"notice","text":"the last"}',
        ]
        for reply in replies:
            shown = reply[1:].decode()
            error = f'{{"type":"error","text":"unknown command /{shown} (try /help)","code":"unknown_command"}}'
            peer().sendall((error.encode() if reply.startswith(b"/") else reply) + b"\n")
        assert ann.call("receive", timeout=DEADLINE) == Error("not sent: no", "refused")
        assert ann.call("receive", timeout=DEADLINE) == Notice("the last")


def test_an_end_instead_of_an_answer(connect: Connect) -> None:
    """The conversation is over: that is the error."""
    with deaf_server() as (port, peer):
        ann = connect(port, events=True, echo=True)
        ann.receive(Welcome)

        def end() -> None:
            lines_sent(peer(), 3)
            peer().shutdown(socket.SHUT_WR)

        ending = threading.Thread(target=end)
        ending.start()
        with pytest.raises(ConnectionClosed, match="the server ended the conversation"):
            ann.call("members")
        ending.join(DEADLINE)
        with pytest.raises(ConnectionClosed):
            ann.call("say", "x", confirm=True)


def test_a_server_that_does_not_list_its_members() -> None:
    """An older one answers in words: ProtocolError, instead of no members."""
    asked = exchange.ask_members()
    begin, _, end = asked.frame(b"/who\n").decode().splitlines()
    for line in (begin, "2 here: a, b", end):
        event = Error(f"unknown command {line} (try /help)", "unknown_command") if line[0] == "/" else Notice(line)
        asked.receive(event)
    assert asked.is_over
    with pytest.raises(ProtocolError, match="doesn't list its members"):
        exchange.members_of(asked)


def test_too_many_questions() -> None:
    """Refused, with the room's code."""
    asked = exchange.ask_members()
    begin, _, end = asked.frame(b"/who\n").decode().splitlines()
    unknown = {line: Error(f"unknown command {line} (try /help)", "unknown_command") for line in (begin, end)}
    for event in (unknown[begin], Error("one question at a time", "too_many"), unknown[end]):
        assert asked.receive(event)
    with pytest.raises(Refused, match="one question at a time") as refused:
        exchange.members_of(asked)
    assert refused.value.code == "too_many"


@pytest.mark.parametrize("line", [NEWS, OLD])
@pytest.mark.parametrize("timeout", [0.5, None])
def test_an_answer_behind_an_endless_stream(
    line: bytes, timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time counts also while bytes arrive, and what waits meanwhile is bounded; the conversation goes on."""
    if timeout is None and line is NEWS:
        pytest.skip("nothing waits")
    monkeypatch.setattr(exchange, "MAX_WAITING_BYTES", (1 << 20) if timeout is None else (1 << 40))
    words = "too much came before the answer" if timeout is None else "nothing arrived in time|^$"
    with endless_server(b'{"type":"welcome","name":"1","newest":0,"epoch":"0123456789abcdef"}\n', line) as server:
        client = Client(port=server.port, timeout=timeout, events=True)
        with pytest.raises(TimeoutError, match=words):
            client.members()
        assert isinstance(client.receive(DEADLINE), Welcome)
        client.close(0.1)

        @in_loop
        async def check() -> None:
            client = AsyncClient(port=server.port, timeout=timeout, events=True)
            await client.connect()
            with pytest.raises(TimeoutError, match=words):
                await client.members()
            await client.close(0.1)

        check()


@in_loop
async def test_a_cancelled_question() -> None:
    """Its answer is dropped; the next question gets its own."""

    def accept(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            sock.sendall(b'{"type":"welcome","name":"1","newest":0,"epoch":"0123456789abcdef"}\n')
            for line in lines_sent(sock, 6)[:3]:
                sock.sendall(answer_to(line))
            sock.recv(65536)

    def answer_to(line: bytes) -> bytes:
        if line == b"/who":
            return b'{"type":"members","members":[{"name":"x","id":1}],"more":false}\n'
        text = f"unknown command {line.decode()} (try /help)"
        return f'{{"type":"error","text":"{text}","code":"unknown_command"}}\n'.encode()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        async with AsyncClient(port=listener.getsockname()[1], timeout=0.5, events=True) as client:
            asking = asyncio.create_task(client.members())
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            with pytest.raises(TimeoutError):
                await client.members()
            assert isinstance(await client.receive(timeout=DEADLINE), Welcome)
            with pytest.raises(TimeoutError):
                await client.receive(timeout=0)
        await asyncio.to_thread(thread.join, DEADLINE)


@pytest.mark.parametrize("reconnect", [False, True])
def test_asking_after_the_end(serve: Serve, connect: Connect, reconnect: bool) -> None:
    """The same errors as of `send`, and no wait."""
    started = serve()
    ann = connect(started.port, name="ann", events=True, echo=True, reconnect=reconnect)
    ann.call("close")
    for verb, options in QUESTIONS:
        with pytest.raises(ConnectionClosed):
            ann.call(*verb, **options)
