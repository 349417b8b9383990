"""A shared password: a stranger is no member, guesses slowly, and delays nobody."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit import AsyncClient, Client, Event, Limits, Member, PasswordRefused, Server, Welcome
from chatkit.net.sockets import two_tuple
from chatkit.protocol.lines import check_password
from chatkit.room import guesses
from chatkit.server import login as password
from chatkit.server.login import PasswordAuth
from tests.helpers.inside import failed_addresses, places, room_of
from tests.helpers.login import ASKED, GUESS, IN, OVER, RIGHT, WRONG, Guarded
from tests.helpers.peers import DEADLINE, Peer, assert_healthy
from tests.helpers.servers import Started

pytestmark = pytest.mark.slow
Kind = type[AsyncClient] | type[Client]
both = pytest.mark.parametrize("kind", [AsyncClient, Client])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The auth's clock, set by hand."""
    hands = SimpleNamespace(now=1000.0)
    hands.monotonic = lambda: hands.now
    monkeypatch.setattr(guesses, "time", hands)
    return hands


def inside(started: Started) -> Peer:
    """A peer that has given the password."""
    peer = started.peer()
    peer.send(RIGHT)
    assert peer.lines(2) == [ASKED, IN]
    return peer


def asked(started: Started) -> Peer:
    """A peer that is asked for the password, as soon as there is a place for it."""
    begun = time.monotonic()
    while (peer := started.peer()).line() != ASKED:
        assert time.monotonic() < begun + DEADLINE
    return peer


def assert_no_place_is_lost(started: Started) -> None:
    started.server.shutdown(grace=0)
    roster = room_of(started.server).roster
    assert (*places(roster), roster.members) == (0, {}, [])


def test_auth_compares_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of one length are compared, by `hmac.compare_digest` and nothing else."""
    compared = list[tuple[bytes, bytes]]()
    verdicts = iter([True, False])

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return next(verdicts)

    auth = PasswordAuth("sesame")
    monkeypatch.setattr(password, "hmac", SimpleNamespace(compare_digest=compare))
    assert [auth.verify("10.0.0.1", "open"), auth.verify("10.0.0.1", "sesame")] == [True, False]
    assert {len(digest) for pair in compared for digest in pair} == {32}
    assert [hmac.compare_digest(*pair) for pair in compared] == [False, True]


def test_failures_of_one_address_wait_longer_and_longer(clock: SimpleNamespace) -> None:
    """1, 2, 4, 8, 8 seconds; a success or ten minutes of silence forget them; another address doesn't wait."""
    auth = PasswordAuth("sesame")
    for wait in (1, 2, 4, 8, 8):
        assert not auth.verify("10.0.0.1", "open")
        assert auth.next_attempt_at("10.0.0.1") == clock.now + wait
        assert auth.next_attempt_at("10.0.0.2") <= clock.now
        clock.now += wait
    assert auth.verify("10.0.0.1", "sesame")
    assert auth.next_attempt_at("10.0.0.1") <= clock.now
    for wait in (1, 2):
        assert not auth.verify("10.0.0.1", "open")
        assert auth.next_attempt_at("10.0.0.1") == clock.now + wait
        clock.now += wait
    clock.now += guesses.FORGET_SECONDS + 1
    assert not auth.verify("10.0.0.1", "open")
    assert auth.next_attempt_at("10.0.0.1") == clock.now + 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::9:8:7:6", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
    ],
)
def test_addresses_of_one_origin(clock: SimpleNamespace, one: str, other: str, same: bool) -> None:
    """One IPv4 address, mapped into IPv6 or not, and one /64 of IPv6."""
    auth = PasswordAuth("sesame")
    auth.verify(two_tuple((one, 1))[0], "open")
    assert (auth.next_attempt_at(two_tuple((other, 1))[0]) > clock.now) == same


def test_auth_remembers_so_many_addresses(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses that failed last; the memory for them is bounded."""
    monkeypatch.setattr(guesses, "MAX_ORIGINS", 10)
    auth = PasswordAuth("sesame")
    for number in range(100):
        auth.verify(f"10.0.0.{number}", "open")
    assert failed_addresses(auth) == 10
    assert [auth.next_attempt_at(f"10.0.0.{number}") > clock.now for number in (0, 89, 90, 99)] == [
        False,
        False,
        True,
        True,
    ]


def test_auth_says_little(clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    """One log line per second at the most, with the address; neither there nor in a repr is a password."""
    auth = PasswordAuth("sesame")
    for number in range(30):
        auth.verify(f"10.0.0.{number}", "open")
        clock.now += 0.125
    assert [record.getMessage() for record in caplog.records] == [
        f"a wrong password from 10.0.0.{number}" for number in (0, 9, 18, 27)
    ]
    shown = [auth, Server(password="sesame"), Client.__doc__, AsyncClient(password="sesame"), vars(auth)]
    assert "sesame" not in repr(shown)


@pytest.mark.parametrize("word", ["", "a\nb", "a\r", "\x1b[2J", "\x9b", "x" * 8183, "\udcffsesame"])
@pytest.mark.parametrize("kind", [Client, AsyncClient, Server])
def test_passwords_that_no_line_can_say(kind: Callable[..., object], word: str) -> None:
    """Refused at once, in words that are about the password and don't show it."""
    with pytest.raises(ValueError, match="the password") as caught:
        kind(port=0, password=word)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("word", ["x", "two words", "tab\t", "pässwörd", "/password", "x" * 8182, " "])
def test_passwords_that_a_line_can_say(serve: Callable[..., Started], word: str) -> None:
    """Each lets a client in, over the wire."""
    assert check_password(word, Limits().max_line_bytes) == word
    started = serve(password=word)
    with Client(port=started.port, password=word) as client:
        assert [member.address for member in started.server.members] == [client.address]


def test_until_the_password_is_given_it_is_no_member(guarded: Guarded) -> None:
    """No hook sees it, it hears nothing, and its lines are no messages."""
    started = guarded()
    ann, stranger = inside(started), started.peer()
    stranger.send(b"hello\n")
    assert stranger.lines(2) == [ASKED, ASKED]
    ann.send(b"secret\n")
    assert started.events.wait_for("message") == f"{ann.name}: secret"
    started.server.broadcast("secret as well")
    assert ann.line() == b"*** secret as well"
    assert [member.name for member in started.server.members] == [ann.name]
    assert (started.server.stats.members, started.server.stats.messages) == (1, 1)
    assert started.events.happened.empty()
    stranger.send(RIGHT)
    assert stranger.line() == IN
    assert started.events.wait_for("join") == stranger.name
    ann.send(b"public\n")
    assert stranger.line() == f"{ann.name}: public".encode()
    stranger.send(b"hi\n")
    assert ann.line() == f"{stranger.name}: hi".encode()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("end", ["\n", ""])
def test_lines_in_a_pipe(guarded: Guarded, threads: int, end: str) -> None:
    """`printf '/password sesame\\nhi\\n/who\\n' | nc -N`: lines right after the password are said and answered."""
    started = guarded(threads=threads)
    ann = inside(started)
    for _ in range(10):
        piped = started.peer()
        piped.send(RIGHT + b"hi\n/who" + end.encode())
        piped.send_eof()
        assert ann.line() == f"{piped.name}: hi".encode()
        assert piped.rest().splitlines() == [ASKED, IN, f"*** 2 here: {ann.name}, {piped.name}".encode()]
        while len(started.server.members) > 1:  # the place is free a moment after the end
            pass
    assert_no_place_is_lost(started)


def test_a_password_alone_and_an_end(guarded: Guarded) -> None:
    """Without a line end it is the password as well."""
    started = guarded()
    piped = started.peer()
    piped.send(RIGHT.strip())
    piped.send_eof()
    assert piped.rest().splitlines() == [ASKED, IN]


def test_lines_with_a_wrong_password_are_dropped(guarded: Guarded) -> None:
    """All that came together with it, a right one too; a right one alone lets in."""
    started = guarded()
    ann, guesser = inside(started), started.peer()
    guesser.send(GUESS + b"secret\n/nick ada\n" + RIGHT)
    assert guesser.lines(2) == [ASKED, WRONG]
    guesser.send(RIGHT + b"public\n")
    assert guesser.line() == IN
    assert ann.line() == f"{guesser.name}: public".encode()


@pytest.mark.parametrize(("line", "answer"), [(GUESS, WRONG), (b"hi\n", ASKED), (b"\n", ASKED), (b"\xff\n", ASKED)])
def test_three_failures_end_it(guarded: Guarded, line: bytes, answer: bytes) -> None:
    """Wrong passwords, and lines that are none."""
    started = guarded()
    guesser = asked(started)
    for _ in range(2):
        guesser.send(line)
        assert guesser.line() == answer
    guesser.send(line)
    assert guesser.rest().splitlines() == [answer, OVER]
    assert_no_place_is_lost(started)


@pytest.mark.parametrize("said", [b"", b"/password ses", RIGHT])
def test_a_password_takes_too_long(guarded: Guarded, said: bytes) -> None:
    """After `login_seconds` the conversation ends, for a peer that is silent, drips, or waits longer for its turn."""
    started = guarded(wait=8, login_seconds=0.3)
    guesser, late = asked(started), asked(started)
    guesser.send(GUESS)
    assert guesser.line() == WRONG
    late.send(said)
    assert late.rest() == b"*** no password in 0.3 seconds\n"
    assert_no_place_is_lost(started)


def test_a_guess_waits_and_nobody_else_does(guarded: Guarded) -> None:
    """After a failure the next attempt of that address is judged later; members chat on meanwhile."""
    started = guarded(wait=0.5)
    talker, reader, guesser, second = inside(started), inside(started), asked(started), asked(started)
    guesser.send(GUESS)
    assert guesser.line() == WRONG
    begun = time.monotonic()
    second.send(RIGHT + b"hi\n")
    for _ in range(10):
        assert_healthy(talker, reader)
    assert time.monotonic() < begun + 0.4
    assert len(started.server.members) == 2
    assert second.line() == IN
    assert 0.3 < time.monotonic() - begun < 2
    assert reader.line() == f"{second.name}: hi".encode()


def test_an_attempt_that_waits_holds_nothing(guarded: Guarded) -> None:
    """Meanwhile its peer isn't read; in the end everything that it sent is said."""
    started = guarded(wait=0.3)
    reader, guesser, pourer = inside(started), asked(started), asked(started)
    guesser.send(GUESS)
    assert guesser.line() == WRONG
    lines = [b"%d" % number + b"x" * 999 for number in range(400)]
    pourer.send(RIGHT + b"\n".join(lines) + b"\n")
    assert reader.lines(400) == [pourer.name.encode() + b": " + line for line in lines]


def leave_in_a_line(peer: Peer) -> None:
    peer.send(b"/password ses")
    peer.reset()


LEAVE: dict[str, Callable[[Peer], object]] = {
    "end of stream": lambda peer: peer.send_eof(),
    "reset": lambda peer: peer.reset(),
    "half a line, reset": leave_in_a_line,
    "failures": lambda peer: peer.send(b"a\nb\nc\n"),
    "a web page": lambda peer: peer.send(b"GET / HTTP/1.1\r\n\r\n"),
    "time": lambda peer: peer.rest(),
}


@pytest.mark.parametrize("limit", [{"max_clients": 2}, {"clients_per_address": 2}])
@pytest.mark.parametrize("how", LEAVE)
def test_a_place_is_taken_and_free_again(guarded: Guarded, limit: dict[str, int], how: str) -> None:
    """A peer that is asked for the password counts as a member, until it goes in whatever way."""
    started = guarded(**limit, login_seconds=0.3 if how == "time" else 10)
    inside(started)
    stranger = asked(started)
    refused = started.peer().rest()
    assert refused in (b"*** the room is full\n", b"*** too many members from your address\n")
    LEAVE[how](stranger)
    newcomer = asked(started)
    newcomer.send(RIGHT)
    assert newcomer.line() == IN
    assert_no_place_is_lost(started)


@pytest.mark.parametrize(
    ("data", "last"),
    [
        (b"x" * 3_000_000, b"*** too much before the password"),
        (bytes(range(256)) * 4, OVER),
        (
            b"GET / HTTP/1.1\r\n\r\nhello\n",
            b"This is a chat room, not a web server. Join it with chat-client, or with nc.",
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\n", b"*** this port speaks plain text, not TLS"),
    ],
    ids=["endless line", "rubbish", "HTTP", "TLS"],
)
def test_hostile_bytes(guarded: Guarded, data: bytes, last: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """They end in one answer; nothing of them reaches the room, and no error is in the log."""
    started = guarded(login_seconds=0.5)
    ann, stranger = inside(started), started.peer()
    stranger.send(data)
    assert stranger.rest().splitlines()[-1] == last
    started.server.broadcast("sentinel")
    assert ann.line() == b"*** sentinel"
    assert [started.events.wait_for("join"), started.events.happened.empty()] == [ann.name, True]
    assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.WARNING]


def test_strangers_keep_nobody_out(guarded: Guarded) -> None:
    """300 peers that say nothing: a good one is in within a second, and they are sent away in time."""
    started = guarded(max_clients=400, login_seconds=1.5)
    strangers = started.peers(300)
    begun = time.monotonic()
    inside(started)
    assert time.monotonic() - begun < 1
    assert {stranger.rest() for stranger in strangers} == {ASKED + b"\n*** no password in 1.5 seconds\n"}
    assert_no_place_is_lost(started)


def test_a_hook_that_fails(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """After the right password on_join raises: the peer is told, and is no member; its place is free."""

    class Broken:
        def on_join(self, member: Member) -> None:
            raise LookupError

    started = guarded(handler=Broken())
    peer = started.peer()
    peer.send(RIGHT + b"hi\n")
    assert peer.rest().splitlines() == [ASKED, b"*** an error in the room's handler ended this conversation"]
    assert (started.server.stats.messages, started.server.stats.refused) == (0, {"handler": 1})
    assert "LookupError" in caplog.text
    assert_no_place_is_lost(started)


@pytest.mark.parametrize("threads", [1, 3])
def test_shutdown_while_some_are_asked(guarded: Guarded, threads: int) -> None:
    """They get the end; their lines are dropped."""
    started = guarded(wait=8, threads=threads, drain_seconds=0.1)
    ann, guesser, silent, held = inside(started), asked(started), asked(started), asked(started)
    guesser.send(GUESS)
    assert guesser.line() == WRONG
    held.send(RIGHT + b"hi\n")
    started.server.shutdown()
    assert [peer.rest() for peer in (ann, guesser, silent, held)] == [b""] * 4
    assert_no_place_is_lost(started)


@pytest.mark.parametrize(("rate", "before", "said"), [(500, b"", 700), (2, b"x\nx\n", 0)])
def test_a_rate(guarded: Guarded, rate: float, before: bytes, said: int) -> None:
    """The rate holds back the password and later lines, too; nothing is lost at the end of the stream."""
    started = guarded(messages_per_second=rate)
    ann, fast = inside(started), started.peer()
    fast.send(before + RIGHT + b"".join(b"%d\n" % number for number in range(said)) if said else before + RIGHT.strip())
    fast.send_eof()
    assert ann.lines(said) == [f"{fast.name}: {number}".encode() for number in range(said)]
    assert fast.rest().splitlines() == [ASKED, *[ASKED] * before.count(b"\n"), IN]


@pytest.mark.parametrize("word", ["sesame", None])
def test_a_password_that_is_not_needed(serve: Callable[..., Started], word: str | None) -> None:
    """In an open room, and from a member: one answer, to the sender alone, and no message."""
    started = serve(password=word)
    ann, bob = (inside(started), inside(started)) if word else started.peers(2)
    for text in (b"x", b"sesame", b""):
        ann.send(b"/password " + text + b"\n")
        assert ann.line() == b"*** no password is needed"
    ann.send(b"hi\n")
    assert bob.line() == f"{ann.name}: hi".encode()


def visit(kind: Kind, **options: Any) -> list[Event]:
    """Have a client join, say hi and ask for the names; return its events."""

    async def visit_in_loop() -> list[Event]:
        async with AsyncClient(**options) as client:
            await client.send("hi")
            await client.send("/who")
            events = [await client.receive(DEADLINE)]
            while " here: " not in events[-1].text:
                events.append(await client.receive(DEADLINE))
            return events

    if kind is AsyncClient:
        return asyncio.run(visit_in_loop())
    with Client(**options) as client:
        client.send("hi")
        client.send("/who")
        events = [client.receive(DEADLINE)]
        while " here: " not in events[-1].text:
            events.append(client.receive(DEADLINE))
        return events


JOINING: list[dict[str, Any]] = [{}, {"name": "ada"}, {"events": True}, {"name": "ada", "events": True, "after": 0}]


@both
@pytest.mark.parametrize("options", JOINING)
@pytest.mark.parametrize("word", ["sesame", None])
def test_clients_that_know_it(
    serve: Callable[..., Started], kind: Kind, options: dict[str, Any], word: str | None
) -> None:
    """They are in when they are connected, with name and events; an open room minds no password."""
    started = serve(password=word)
    events = visit(kind, port=started.port, password="sesame", **options)
    assert started.events.wait_for("message").endswith(": hi")
    assert [type(event) for event in events[:-1]] == [Welcome] * ("events" in options)
    assert events[-1].text.startswith("1 here: ada" if "name" in options else "1 here: ")


@both
@pytest.mark.parametrize("options", JOINING)
@pytest.mark.parametrize("word", ["open", None])
def test_clients_that_do_not_know_it(guarded: Guarded, kind: Kind, options: dict[str, Any], word: str | None) -> None:
    """PasswordRefused; only who wants nothing but lines finds out by reading."""
    if word is None and not options:
        options = {"name": "bob"}
    started = guarded()
    with pytest.raises(PasswordRefused, match="wrong password" if word else "asks for its password") as caught:
        visit(kind, port=started.port, password=word, **options)
    assert "open" not in str(caught.value)
    assert started.events.happened.empty()
    assert_no_place_is_lost(started)


@pytest.mark.stress
@pytest.mark.parametrize("threads", [1, 3])
def test_many_come_at_once_and_leave(guarded: Guarded, threads: int) -> None:
    """50 clients, every other with a wrong password: the right ones say their line, no place is lost."""
    started = guarded(threads=threads)
    refused = list[PasswordRefused]()

    def come(number: int) -> None:
        try:
            with Client(port=started.port, password="open" if number % 2 else "sesame") as client:
                client.send(f"{number}")
        except PasswordRefused as error:
            refused.append(error)

    coming = [threading.Thread(target=come, args=(number,)) for number in range(50)]
    for thread in coming:
        thread.start()
    for thread in coming:
        thread.join(DEADLINE)
    said = {started.events.wait_for("message").partition(": ")[2] for _ in range(25)}
    assert said == {str(number) for number in range(0, 50, 2)}
    assert (len(refused), started.server.stats.messages) == (25, 25)
    assert_no_place_is_lost(started)
