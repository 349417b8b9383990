"""Handlers and programs that use a server while people talk in it, over sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import ANY

import pytest

from chatkit import (
    Client,
    ConnectionClosed,
    Error,
    Left,
    Limits,
    Member,
    Message,
    Notice,
    Private,
    Refused,
    Server,
    Welcome,
)
from chatkit.net.sockets import Address
from chatkit.room import listing
from chatkit.testing import ChatRoom
from tests.helpers.peers import DEADLINE, Peer, assert_healthy
from tests.helpers.servers import Serve

FAILED = b"*** an error in the room's handler ended this conversation\n"


class Handler:
    """Knows its server."""

    server: Server


@contextmanager
def room_with(handler: Handler, **options: Any) -> Iterator[ChatRoom]:
    handler.server = Server(port=0, handler=handler, **options)
    with handler.server, ChatRoom(handler.server) as room:
        yield room


def at_once(*jobs: Callable[[], object]) -> None:
    """Each in a thread of its own; all must end in time."""
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not [thread for thread in threads if thread.is_alive()]


class Moderation(Handler):
    """Refuses spam, lowers shouting, answers a question, each in its own way."""

    def on_message(self, message: Message) -> Message | None:
        if message.text == "!time":
            self.server.tell(message.sender, "it is late")
            return None
        if message.text == "spam":
            return None
        return replace(message, text=message.text.lower()) if message.text.isupper() else message


def test_a_handler_refuses_and_rewrites() -> None:
    """A refused message has no id and is not delivered; a rewritten message is delivered as such, also an action."""
    with room_with(Moderation()) as room:
        ann, bob = room.join(2)
        (eve,) = room.join(events=True)
        assert isinstance(eve.receive(), Welcome)
        for line in ("spam", "HELLO", "/me WAVES", "spam", "fine"):
            ann.send(line)
        for text in ("hello", "waves", "fine"):
            bob.expect(text, sender=ann)
        said = [eve.expect(text, sender=ann) for text in ("hello", "waves", "fine")]
        assert [event.id for event in said if isinstance(event, Message)] == [1, 2, 3]
        for guest in room.guests:
            guest.expect_nothing()


def test_a_handler_answers_the_sender_alone() -> None:
    """`tell` from on_message reaches who asked, in text and in JSON, and nobody else."""
    with room_with(Moderation()) as room:
        ann, bob = room.join(2)
        (eve,) = room.join(events=True)
        assert isinstance(eve.receive(), Welcome)
        for asker in (ann, eve):
            asker.send("!time")
            assert asker.receive() == Notice("it is late")
        for guest in (ann, bob, eve):
            guest.expect_nothing()


class Herald(Handler):
    def on_join(self, member: Member) -> None:
        self.server.broadcast(f"{member.name} came")

    def on_rename(self, member: Member, old_name: str) -> None:
        self.server.broadcast(f"{old_name} became {member.name}")

    def on_leave(self, member: Member, reason: str) -> None:
        self.server.broadcast(f"{member.name} went: {reason}")


def test_a_handler_reacts_to_joins_renames_and_leaves() -> None:
    """`broadcast` from on_join, on_rename and on_leave reaches everyone there, the newcomer too."""
    with room_with(Herald()) as room:
        (ann,) = room.join()
        ann.expect(f"{ann.name} came")
        (bob,) = room.join()
        for guest in (ann, bob):
            guest.expect(f"{bob.name} came")
        number = bob.name
        bob.send("/nick bob")
        bob.expect("you are now bob")
        for guest in (ann, bob):
            guest.expect(f"{number} became bob")
        bob.send("exit")
        ann.expect("bob went: exit")
        with pytest.raises(ConnectionClosed):
            bob.receive()


def heard(peer: Peer) -> bytes:
    """Return its lines up to the answer to a question: by then the room has heard everything from it."""
    peer.send(b"/who\n")
    received = [peer.line() + b"\n"]
    while b" here: " not in received[-1] and b'"more":false' not in received[-1]:
        received.append(peer.line() + b"\n")
    return b"".join(received)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("opening", [b"", b"/json\n", b"/json 0\n", b"/json echo\n"])
def test_stats_count_every_byte_and_delivery(
    serve: Serve, opening: bytes, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes are exactly those that the members received; a message counts once for each member but its sender."""
    monkeypatch.setattr(listing, "MEMBERS_PER_LINE", 2)
    handler = Moderation()
    server = handler.server = serve(handler=handler, threads=threads).server
    with ExitStack() as stack:
        ann, bob, eve = peers = [Peer(server.port) for _ in range(3)]
        for peer in peers:
            stack.callback(peer.close)
        ann.send(b"before\n")
        received = [heard(peer) for peer in peers]
        eve.send(opening)
        received.append(heard(eve))
        ann.send(b"one\n/me waves\nspam\n//help\n/nonsense\n\xff\n")
        bob.send(b"/nick bob\nHELLO\n!time\n")
        eve.send("/msg bob psst\ncafé\n".encode())
        server.broadcast("hey")
        received += [heard(peer) for peer in peers]
        assert server.stats.members == 3
        for peer in peers:
            peer.send(b"exit\n")
            received.append(peer.rest())
    server.shutdown()
    stats = server.stats
    assert (stats.members, stats.messages, stats.deliveries) == (0, 6, 12)
    assert stats.bytes == sum(map(len, received))


def refuse(member: Member) -> None:
    raise LookupError


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        ("full", {"limits": Limits(max_clients=1)}, b"*** the room is full\n"),
        ("address", {"limits": Limits(clients_per_address=1)}, b"*** too many members from your address\n"),
        ("handler", {"handler": type("Handler", (), {"on_join": staticmethod(refuse)})()}, FAILED),
    ],
)
def test_stats_count_refused_peers(serve: Serve, code: str, options: dict[str, Any], words: bytes) -> None:
    """By the reason, as often as it happened."""
    started = serve(**options)
    assert started.server.stats.refused == {}
    inside = 0 if code == "handler" else 1
    peers = started.peers(inside + 2)
    assert [peer.rest() for peer in peers[inside:]] == [words, words]
    assert started.server.stats.refused == {code: 2}
    assert started.server.stats.members == inside


def test_stats_tell_the_number_that_the_handler_dropped(serve: Serve) -> None:
    """`dropped` is the handler's attribute of that name at that moment, 0 if it has none."""
    handler = Handler()
    server = serve(handler=handler).server
    assert server.stats.dropped == 0
    for number in (3, 7):
        handler.dropped = number  # type: ignore[attr-defined]
        assert server.stats.dropped == number


def test_a_program_that_reads_too_slowly_is_told_in_json(serve: Serve) -> None:
    """Its last line is an `error` with the code `slow_consumer`, after a gapless prefix; it is counted."""
    started = serve(limits=Limits(max_pending_bytes=200_000, drain_seconds=DEADLINE))
    talker, reader = started.peers(2)
    for peer in (talker, reader):
        peer.sync()
    slow = started.peer(receive_buffer=4096)
    slow.send(b"/json\n")
    assert json.loads(slow.line())["type"] == "welcome"
    for _ in range(6000):
        talker.send(b"x" * 999 + b"\n")
        reader.line()
    assert started.events.wait_for("leave") == "slow consumer"
    *said, last = map(json.loads, slow.rest().splitlines())
    assert [event["id"] for event in said] == list(range(1, len(said) + 1))
    reason = "you were cut off: more than 200000 bytes were waiting"
    assert last == {"type": "error", "text": reason, "code": "slow_consumer"}
    assert started.server.stats.slow_consumers == 1


@pytest.mark.parametrize("events", [False, True])
def test_a_kick_names_a_member_in_any_case(serve: Serve, events: bool) -> None:
    """`tell` and `kick` find Ada as `aDA`. A program gets the error `removed`; the others hear that she left."""
    started = serve()
    with ChatRoom(started.server) as room:
        (ada,), (eve,) = room.join(name="Ada", events=events), room.join(events=True)
        if events:
            assert ada.receive() == Welcome("Ada", 0, ANY)
        started.server.tell("aDA", "last warning")
        started.server.kick("ADA", "be nice")
        received = list(ada)
        assert received[-2:] == [
            Notice("last warning"),
            Error("be nice", "removed") if events else Notice("be nice"),
        ]
        assert started.events.wait_for("leave") == "removed: be nice"
        assert isinstance(eve.receive(), Welcome)
        assert eve.receive() == Left("Ada")


@pytest.mark.parametrize("call", ["kick", "tell"])
@pytest.mark.parametrize("name", ["nobody", "", "12:34", "x" * 1000])
def test_nobody_has_that_name(serve: Serve, call: str, name: str) -> None:
    """The list of members that it is for is empty, and nothing happens in the room."""
    started = serve()
    talker, reader = started.peers(2)
    assert_healthy(talker, reader)
    assert getattr(started.server, call)(name, "x") == []
    talker.send(b"sentinel\n")
    assert reader.line() == f"{talker.name}: sentinel".encode()


@pytest.mark.parametrize("call", ["kick", "tell"])
def test_a_call_by_name_returns_its_members(serve: Serve, call: str) -> None:
    """The member of that name, in whatever case; RuntimeError once the server has ended."""
    started = serve()
    with ChatRoom(started.server) as room:
        (ada,) = room.join(name="Ada")
        (member,) = started.server.members
        assert getattr(started.server, call)("aDA", "x") == [member]
        assert ada.receive() == Notice("x")
    started.server.shutdown()
    with pytest.raises(RuntimeError, match="isn't running"):
        getattr(started.server, call)("Ada", "x")


class Bouncer(Handler):
    """Kicks and tells, in each hook, a member that is gone."""

    def on_message(self, message: Message) -> Message:
        assert self.server.kick("gone", "x") == self.server.tell("gone", "x") == []
        return message


def test_a_hook_that_means_a_member_that_is_gone_fails_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The speaker stays, and its message is said."""
    with room_with(Bouncer()) as room:
        ann, bob = room.join(2)
        ann.send("hi")
        bob.expect("hi", sender=ann)
        ann.send("still here")
        bob.expect("still here", sender=ann)
    assert not caplog.records


class Doorman(Handler):
    """Refuses what begins with "bad", and whoever has its number in `banned`; sees the member in every hook."""

    def __init__(self) -> None:
        self.seen = list[tuple[str, int]]()
        self.doomed = False

    def _look(self, hook: str, member: Member, text: str) -> None:
        self.seen.append((hook, member.id))
        if text.startswith("bad"):
            raise Refused(f"{text}: \x1b[2J{hook}")

    def on_join(self, member: Member) -> None:
        self._look("join", member, "bad day" if self.doomed else "")

    def on_message(self, message: Message, member: Member) -> Message:
        self._look("message", member, message.text)
        return message

    def on_private(self, message: Private, recipient: Member, member: Member) -> Private:
        self._look("private", member, message.text)
        assert recipient.present
        return message

    def on_rename(self, member: Member, old_name: str) -> None:
        self._look("rename", member, member.name)
        assert [each.name for each in self.server.members].count(member.name) == 1

    def on_leave(self, member: Member, reason: str) -> None:
        self._look("leave", member, "")


@pytest.mark.parametrize("announce", [False, True])
def test_a_hook_refuses_one_thing(announce: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A message, an action, a private message, a name: its member is told, nobody else notices; nothing is logged."""
    with room_with(Doorman(), announce=announce) as room:
        ann, bob = room.join(2)
        (eve,) = room.join(events=True)
        assert isinstance(eve.receive(), Welcome)
        if announce:
            ann.expect(f"{bob.name} joined")
            bob.expect(f"{ann.name} joined")
            for guest in (ann, bob):
                guest.expect(f"{eve.name} joined")
        eve.send("bad1")
        eve.send("/me bad2")
        eve.send(f"/msg {bob.name} bad3")
        eve.send("/nick bad4")
        for text, what in (("bad1", "message"), ("bad2", "message"), ("bad3", "private")):
            assert eve.receive() == Error(f"not sent: {text}: ␛[2J{what}", "refused")
        assert eve.receive() == Error("name refused: bad4: ␛[2Jrename", "refused")
        for guest in room.guests:
            guest.expect_nothing()
        eve.send("good")
        assert bob.receive().text == "good"
        ann.expect("good", sender=eve)
        assert room.server.stats.messages == 1
        ann.send("/nick bad4")
        assert ann.receive() == Notice("name refused: bad4: ␛[2Jrename")
        ann.send(f"/msg {eve.name} psst")
        eve.expect("psst", sender=ann)
    assert not caplog.records


def test_a_hook_refuses_a_join(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The peer hears the reason, then the end; nobody else hears of it; it is counted, not logged."""
    doorman = Doorman()
    started = serve(handler=doorman, announce=True)
    doorman.server = started.server
    (ann,) = started.peers(1)
    ann.send(b"/sync\n")
    ann.line()
    doorman.doomed = True
    assert started.peer().rest() == "*** refused: bad day: ␛[2Jjoin\n".encode()
    with pytest.raises(ConnectionClosed, match="refused: bad day"):
        Client(port=started.port, name="eve")
    doorman.doomed = False
    (bob,) = started.peers(1)
    bob.send(b"hi\n")
    assert [ann.line(), ann.line()] == [f"*** {bob.name} joined".encode(), f"{bob.name}: hi".encode()]
    assert started.server.stats.refused == {"refused": 2}
    assert not caplog.records


def test_a_refused_name_ends_the_start_of_a_client() -> None:
    """It raises the reason; its member is gone."""
    with room_with(Doorman()) as room:
        with pytest.raises(Refused, match="bad_name: ␛\\[2Jrename") as caught:
            Client(port=room.server.port, name="bad_name")
        assert caught.value.code == "refused"


def test_a_number_outlives_names() -> None:
    """Each member has one of its own in every hook, whatever it is called."""
    doorman = Doorman()
    with room_with(doorman) as room:
        ann, bob = room.join(2)
        ann.send("one")
        bob.receive()
        ann.send("/nick ada")
        ann.receive()
        ann.send("two")
        bob.receive()
        bob.send("/msg ada three")
        ann.receive()
        members = {member.name: member.id for member in room.server.members}
    number, other = members["ada"], members[bob.name]
    assert number != other
    calls = ["join", "message", "rename", "message"]
    assert [hook for hook, member in doorman.seen if member == number] == [*calls, "leave"]
    assert [hook for hook, member in doorman.seen if member == other] == ["join", "private", "leave"]


class Censor(Handler):
    def on_private(self, message: Private) -> Private | None:
        return None if message.text == "spam" else replace(message, text=message.text.lower(), sender="nobody")


def test_a_handler_drops_and_rewrites_private_messages() -> None:
    """Only the text of its result counts; None drops it without a word. It may leave out the last arguments."""
    with room_with(Censor()) as room:
        ann, bob = room.join(2)
        ann.send(f"/msg {bob.name} spam")
        ann.send(f"/msg {bob.name} HELLO")
        bob.expect("hello", sender=ann)
        ann.expect_nothing()


@pytest.mark.parametrize("reason", [None, 42])
def test_a_reason_that_cannot_be_sent_is_an_error_of_the_hook(reason: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As any other one: the log names the hook and the member."""

    class Careless(Handler):
        def on_message(self, message: Message) -> Message:
            raise Refused(reason)

    with room_with(Careless()) as room:
        ann, _ = room.join(2)
        ann.send("hi")
        assert list(ann) == [Notice(FAILED.decode()[4:-1])]
    assert [record.getMessage() for record in caplog.records] == [f"the hook on_message failed for {ann.name}"]


class Fatal(Handler):
    """Once it is armed it tries to shut its server down, one time, in that hook."""

    def __init__(self, hook: str) -> None:
        self.armed = False
        setattr(self, f"on_{hook}", self._called)

    def _called(self, what: Any, *_: str) -> Any:
        if self.armed:
            self.armed = False
            self.server.shutdown()
        return what


@pytest.mark.parametrize(
    ("hook", "line", "rest"),
    [
        ("join", b"", FAILED),
        ("message", b"x\n", FAILED),
        ("rename", b"/nick x\n", b"*** you are now x\n" + FAILED),
        ("leave", b"exit\n", b""),
    ],
)
def test_a_hook_cannot_shut_the_server_down(
    serve: Serve, caplog: pytest.LogCaptureFixture, hook: str, line: bytes, rest: bytes
) -> None:
    """RuntimeError in the hook, which ends that conversation with one record in the log; the others go on."""
    handler = Fatal(hook)
    started = serve(handler=handler)
    handler.server = started.server
    talker, reader = started.peers(2)
    assert_healthy(talker, reader)
    handler.armed = True
    with caplog.at_level(logging.ERROR, "chatkit"):
        victim = started.peer()
        victim.send(line)
        assert victim.rest() == rest
        assert_healthy(talker, reader)
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [str(error) for error in errors] == ["a hook can't shut down the server: call shutdown from another thread"]
    assert isinstance(errors[0], RuntimeError)
    assert len(started.server.members) == 2


class Exiting(Handler):
    """Raises an error, once it has one, in each hook."""

    error: BaseException | None = None

    def _called(self, what: Any, *_: str) -> Any:
        if self.error:
            error, self.error = self.error, None
            raise error
        return what

    on_join = on_message = on_rename = on_leave = _called


@pytest.mark.parametrize("line", [b"", b"x\n", b"/nick x\n", b"exit\n"])
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_hook_that_exits_ends_one_conversation(
    serve: Serve, caplog: pytest.LogCaptureFixture, error: BaseException, line: bytes
) -> None:
    """No thread of the server ends with it: the others go on, and so does the server."""
    handler = Exiting()
    started = serve(handler=handler)
    talker, reader = started.peers(2)
    assert_healthy(talker, reader)
    with caplog.at_level(logging.ERROR, "chatkit"):
        if line:
            victim = started.peer()
            victim.send(b"/sync\n")
            victim.line()
            handler.error = error
            victim.send(line)
        else:
            handler.error = error
            victim = started.peer()
        victim.rest()
        assert_healthy(talker, reader)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
    assert len(started.server.members) == 2


class Meddler(Handler):
    """Calls all that a hook may call, in every hook; kicks the oldest member at every seventh call."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def meddle(self, hook: str, name: str) -> None:
        self.calls[hook] += 1
        self.server.broadcast(hook)
        with suppress(ValueError):  # it has gone meanwhile, or is going
            self.server.tell(name, hook)
        members = self.server.members if self.server.stats else []
        if members and self.calls.total() % 7 == 0:
            with suppress(ValueError):
                self.server.kick(members[0].name, hook)

    def on_join(self, member: Member) -> None:
        self.meddle("join", member.name)

    def on_message(self, message: Message) -> Message:
        self.meddle("message", message.sender)
        return message

    def on_rename(self, member: Member, old_name: str) -> None:
        self.meddle("rename", old_name)

    def on_leave(self, member: Member, reason: str) -> None:
        self.meddle("leave", member.name)


@pytest.mark.stress
@pytest.mark.parametrize("threads", [1, 3])
def test_hooks_and_threads_use_the_server_at_once(serve: Serve, threads: int, caplog: pytest.LogCaptureFixture) -> None:
    """There is no deadlock, no hook fails, and each of 40 conversations ends in order."""
    handler, ended = Meddler(), list[bytes]()
    server = handler.server = serve(handler=handler, threads=threads).server

    def converse() -> None:
        for _ in range(10):
            peer = Peer(server.port)
            peer.send(f"/nick n{peer.name}\none\ntwo\nexit\n".encode())
            ended.append(peer.rest())
            peer.close()

    def meddle() -> None:
        outside = Meddler()
        outside.server = server
        for number in range(60):
            outside.meddle("outside", f"n{number}")

    at_once(*[converse] * 4, *[meddle] * 2)
    server.shutdown()
    assert (handler.calls["join"], handler.calls["leave"]) == (40, 40)
    assert set(handler.calls) == {"join", "message", "rename", "leave"}
    assert [received[-1:] for received in ended] == [b"\n"] * 40
    assert server.members == []
    assert not caplog.records


@pytest.mark.stress
@pytest.mark.parametrize("threads", [1, 3])
def test_readers_of_every_kind_see_one_order(serve: Serve, threads: int) -> None:
    """A peer with plain text, one that reads JSON and a `Client` hear four talkers in one order."""
    started = serve(threads=threads)
    with Client(port=started.port) as plain, Client(port=started.port, events=True) as events:
        text, *talkers = started.peers(5)

        def talk(talker: Peer) -> None:
            for number in range(60):
                talker.send(b"%d\n" % number)

        at_once(*[partial(talk, talker) for talker in talkers])
        order = [line.decode() for line in text.lines(240)]
        assert sorted(order) == sorted(f"{talker.name}: {number}" for talker in talkers for number in range(60))
        assert [str(plain.receive(DEADLINE)) for _ in order] == order
        started.server.broadcast("sentinel")
        said = [
            event for event in iter(partial(events.receive, DEADLINE), Notice("sentinel")) if isinstance(event, Message)
        ]
        assert [str(message) for message in said] == order
        assert [message.id for message in said] == list(range(1, 241))


@pytest.mark.stress
@pytest.mark.parametrize("threads", [1, 3])
def test_a_replay_goes_over_into_live_messages(serve: Serve, threads: int) -> None:
    """A client that joins with after=0 while three talk gets every message from 1 to the last one, once, in order."""
    moments, stop, sent = random.Random(threads), threading.Event(), list[int]()
    started = serve(threads=threads, limits=Limits(history_size=100_000))

    def talk() -> None:
        with Client(port=started.port) as talker:
            number = 0
            while number < 3000 and not stop.is_set():
                talker.send(f"{number}")
                number += 1
            sent.append(number)

    def join(stack: ExitStack, clients: list[Client]) -> None:
        clients.append(stack.enter_context(Client(port=started.port, events=True, after=0)))
        for _ in range(8):
            for _ in range(moments.randrange(1, 40)):
                clients[0].receive(DEADLINE)
            clients.append(stack.enter_context(Client(port=started.port, events=True, after=0)))
        stop.set()

    with ExitStack() as stack:
        clients = list[Client]()
        at_once(*[talk] * 3, lambda: join(stack, clients))
        started.server.broadcast("sentinel")
        everything = list(range(1, sum(sent) + 1))
        for client in clients[1:]:
            events = list(iter(partial(client.receive, DEADLINE), Notice("sentinel")))
            assert [event.id for event in events if isinstance(event, Message)] == everything


def test_on_listening_uses_the_server() -> None:
    """It may ask and say anything; a shutdown is refused as in other hooks, instead of waiting for itself for ever."""
    seen = list[object]()

    class Curious:
        def on_listening(self, address: Address) -> None:
            with pytest.raises(RuntimeError, match="hook"):
                server.shutdown()
            server.broadcast("anybody here?")
            seen.extend((address, server.members, server.stats.members, server.stats.messages))

    server = Server(port=0, handler=Curious())
    starting = threading.Thread(target=server.start)
    starting.start()
    starting.join(DEADLINE)
    assert not starting.is_alive()
    with Client(port=server.port) as client:
        server.broadcast("sentinel")
        assert client.receive(DEADLINE) == Notice("sentinel")
    server.shutdown()
    assert seen == [server.address, [], 0, 0]
