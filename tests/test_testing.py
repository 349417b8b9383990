"""`chatkit.testing`: the fixtures as a user's pytest finds them, and the words of each failing expectation."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import ANY

import pytest

from chatkit import (
    Action,
    Client,
    ConnectionClosed,
    Joined,
    Limits,
    Message,
    NameTaken,
    Notice,
    Private,
    Server,
    Welcome,
)
from chatkit.testing import ChatRoom, Guest
from tests.helpers.inside import inbox_of
from tests.helpers.marks import needs
from tests.helpers.peers import DEADLINE

pytestmark = pytest.mark.slow

# What a user writes: nothing is imported but, at the most, what the test itself speaks of.
PASSING = """
    def test_{0}(chat_server, chat_room):
        ann, bob = chat_room.join(2)
        ann.send("Hi!")
        assert bob.expect("Hi!", sender=ann).text == "Hi!"
        ann.expect_nothing()
        assert len(chat_server.members) == 2
"""

FAILING = {
    "wrong_text": (
        """ann.send("Hello!"); bob.expect("Hi!", sender=ann)""",
        r"AssertionError: [0-9]+ expected 'Hi!' from [0-9]+, received Message\(sender='[0-9]+', text='Hello!', .*\)",
    ),
    "wrong_sender": (
        """cid.send("Hi!"); bob.expect("Hi!", sender=ann)""",
        r"AssertionError: [0-9]+ expected 'Hi!' from [0-9]+, received Message\(sender='[0-9]+', text='Hi!', .*\)",
    ),
    "nothing_came": (
        """bob.expect("Hi!", timeout=0.01)""",
        r"AssertionError: [0-9]+ expected 'Hi!': nothing arrived in time",
    ),
    "server_gone": (
        """chat_room.server.shutdown(grace=0); bob.expect("Hi!")""",
        r"AssertionError: [0-9]+ expected 'Hi!': the server ended the conversation",
    ),
    "said": (
        """ann.send("Hi!"); bob.expect_nothing()""",
        r"AssertionError: [0-9]+ expected nothing, received Message\(sender='[0-9]+', text='Hi!', .*\)",
    ),
    "broadcast": (
        """chat_room.server.broadcast("closing"); bob.expect_nothing()""",
        r"AssertionError: [0-9]+ expected nothing, received Notice\(text='closing'\)",
    ),
}


def run_pytest(path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest on this one file, as a user runs it."""
    (path / "test_mine.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *options, "test_mine.py"]
    return subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=3 * DEADLINE)


def unindented(template: str, *values: object) -> str:
    return template.format(*values).replace("\n    ", "\n")


def test_the_fixtures_need_no_import(tmp_path: Path) -> None:
    """A test that only names `chat_room` and `chat_server` runs where chatkit is installed."""
    done = run_pytest(tmp_path, unindented(PASSING, "room"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@needs(find_spec("xdist"), "pytest-xdist")
def test_the_fixtures_work_in_parallel(tmp_path: Path) -> None:
    """Under `-n 2` each process has servers of its own."""
    done = run_pytest(tmp_path, "".join(unindented(PASSING, number) for number in range(8)), "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout


def test_the_fixture_leaves_no_thread_and_no_port(tmp_path: Path) -> None:
    """After the test that used them nothing of the server is left."""
    check = """
    import socket, threading, pytest
    ports = []
    def test_one(chat_server, chat_room):
        chat_room.join(3)
        ports.append(chat_server.port)
    def test_two():
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("chatkit-")]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0]))
"""
    done = run_pytest(tmp_path, unindented(check))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_failed_expectation_can_be_read(tmp_path: Path) -> None:
    """Each is an AssertionError at the user's line, not inside chatkit, with the guest, expectation and event."""
    tests = [
        f"def test_{name}(chat_room):\n    ann, bob, cid = chat_room.join(3)\n    {line}\n"
        for name, (line, _) in FAILING.items()
    ]
    done = run_pytest(tmp_path, "".join(tests))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{len(FAILING)} failed" in done.stdout
    assert "error" not in done.stdout.splitlines()[-1]
    reports = dict(re.findall(r"^_+ test_(\w+) _+\n(.*?)(?=^_+ test_|^=+ )", done.stdout, re.DOTALL | re.MULTILINE))
    for name, (line, words) in FAILING.items():
        report = reports[name]
        assert re.search(rf"^E +{words}$", report, re.MULTILINE), report
        assert f">       {line}" in report or f">   {line}" in report, report
        assert "testing.py" not in report, report


@pytest.mark.parametrize("module", ["asyncio", "click", "ssl"])
def test_the_plugin_loads_little(module: str) -> None:
    """pytest imports it in every run of every project where chatkit is installed."""
    program = f"import sys, chatkit.testing; sys.exit({module!r} in sys.modules)"
    baseline = f"import sys, pytest; sys.exit({module!r} in sys.modules)"
    if subprocess.run([sys.executable, "-c", baseline], timeout=DEADLINE).returncode:
        pytest.skip(f"pytest itself imports {module}")
    assert subprocess.run([sys.executable, "-c", program], timeout=DEADLINE).returncode == 0


def test_nothing_said_is_nothing(chat_room: ChatRoom) -> None:
    """expect_nothing passes, for each guest, as often as one asks."""
    for guest in chat_room.join(3) * 3:
        guest.expect_nothing()
        assert list(inbox_of(guest)) == []


def test_expect_nothing_keeps_later_events(chat_room: ChatRoom) -> None:
    """Neither it nor its failure takes an event away from `expect` and `receive`, nor changes their order."""
    ann, bob = chat_room.join(2)
    bob.expect_nothing()
    for text in ("one", "two"):
        ann.send(text)
    with pytest.raises(AssertionError, match=r"expected nothing, received Message.*'one'"):
        bob.expect_nothing()
    ann.send("three")
    for text in ("one", "two", "three"):
        bob.expect(text, sender=ann)
    bob.expect_nothing()


@pytest.fixture(params=[1, 3])
def room(request: pytest.FixtureRequest) -> Iterator[ChatRoom]:
    with Server(port=0, threads=request.param) as server, ChatRoom(server) as room:
        yield room


@pytest.mark.stress
def test_expect_nothing_sees_the_last_line(room: ChatRoom) -> None:
    """By another guest, in each of 200 rounds, with one worker and with three."""
    guests = room.join(4)
    for number in range(200):
        speaker, hearer = guests[number % 4], guests[(number * 3 + 1) % 4]
        speaker.send(f"{number}")
        with pytest.raises(AssertionError, match=f"received Message.*'{number}'"):
            hearer.expect_nothing()
        for guest in guests:
            if guest is not speaker:
                guest.expect(f"{number}", sender=speaker)


@pytest.mark.stress
@pytest.mark.parametrize("how", ["broadcast", "tell", "hook"])
@pytest.mark.parametrize("threads", [1, 3])
def test_expect_nothing_sees_the_words_of_the_server(how: str, threads: int) -> None:
    """All of it: words of its program, or of its handler in answer to a guest, on whatever worker they are."""

    class Parrot:
        server: Server

        def on_message(self, message: Message) -> None:
            self.server.broadcast(message.text)

    parrot = Parrot()
    with Server(port=0, threads=threads, handler=parrot) as parrot.server, Client(port=parrot.server.port) as stranger:
        stranger.send("the first worker serves no guest")
        stranger.receive(DEADLINE)
        with ChatRoom(parrot.server) as room:
            bob, ann = room.join(2)
            says: dict[str, Callable[[str], object]] = {
                "broadcast": parrot.server.broadcast,
                "tell": lambda text: parrot.server.tell(bob.name, text),
                "hook": ann.send,
            }
            for _ in range(50):
                for number in range(20):
                    says[how](f"{number}")
                with pytest.raises(AssertionError, match="received Notice"):
                    bob.expect_nothing()
                assert list(inbox_of(bob)) == [Notice(f"{number}") for number in range(20)]
                inbox_of(bob).clear()


def test_expect_nothing_when_another_guest_has_left(chat_room: ChatRoom) -> None:
    """A guest that said `exit` doesn't keep the others from asking."""
    ann, bob = chat_room.join(2)
    ann.send("exit")
    assert list(ann) == []
    bob.expect_nothing()
    assert len(chat_room.server.members) == 1


def test_expect_nothing_after_a_change_of_name(chat_room: ChatRoom) -> None:
    """A guest that took a name with `/nick` can go on asking, and is known as a sender by that name."""
    ann, bob = chat_room.join(2)
    ann.send("/nick ann")
    ann.expect("you are now ann")
    bob.expect_nothing()
    ann.send("Hi!")
    bob.expect("Hi!", sender="ann")
    ann.expect_nothing()
    assert [member.name for member in chat_room.server.members] == [bob.name, "ann"]


def test_guests_with_options(chat_room: ChatRoom) -> None:
    """`join` hands the options of `Client` on; a guest may expect an event of any kind."""
    (ann,) = chat_room.join(name="ann")
    assert (ann.name, chat_room.server.members[0].name) == ("ann", "ann")
    (bob,) = chat_room.join(name="bob", events=True)
    assert bob.receive() == Welcome("bob", 0, ANY)
    ann.send("/me waves")
    waved = bob.expect("waves", sender=ann)
    assert isinstance(waved, Action)
    assert waved.id == 1
    bob.send("/msg ann psst")
    assert ann.expect("psst", sender=bob) == Private("bob", "psst")
    (cid,) = chat_room.join()
    assert bob.receive() == Joined(cid.name)
    ann.expect_nothing()


@pytest.mark.parametrize("number", [1, 3])
def test_leaving_ends_every_guest(chat_server: Server, number: int) -> None:
    """They are members when `join` returns; after `with` they are gone, and each is closed."""
    with ChatRoom(chat_server) as room:
        guests = room.join(number)
        assert all(isinstance(guest, Guest) for guest in guests)
        assert sorted(member.name for member in chat_server.members) == sorted(guest.name for guest in guests)
    assert chat_server.members == []
    for guest in guests:
        with pytest.raises(ConnectionClosed, match="this client is closed"):
            guest.send("x")


def test_a_failed_test_ends_every_guest_at_once(chat_server: Server) -> None:
    """An exception in `with` passes through, and the guests are closed all the same."""
    guests: list[Guest] = []

    def fail() -> None:
        with ChatRoom(chat_server) as room:
            guests.extend(room.join(3))
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        fail()
    assert len(guests) == 3
    for guest in guests:
        with pytest.raises(ConnectionClosed, match="this client is closed"):
            guest.receive()


def test_a_room_on_a_server_of_ones_own() -> None:
    """With a handler and limits that the test chose."""

    class Shouting:
        def on_message(self, message: Message) -> Message | None:
            return None if message.text == "secret" else replace(message, text=message.text.upper())

    with Server(port=0, handler=Shouting(), limits=Limits(max_clients=2)) as server, ChatRoom(server) as room:
        ann, bob = room.join(2)
        ann.send("Hi!")
        bob.expect("HI!", sender=ann)
        ann.send("secret")
        bob.expect_nothing()
        with pytest.raises(ConnectionClosed, match="the room is full"):
            room.join(events=True)


def test_guests_that_come_back() -> None:
    """`join(reconnect=True)`: the signs of `sync` are found there, too."""
    with Server(port=0) as server, ChatRoom(server) as room:
        ann, bob = room.join(2, reconnect=True)
        for guest in (ann, bob):
            assert isinstance(guest.receive(), Welcome)
        assert ann.receive() == Joined(bob.name)
        ann.send("Hi!")
        bob.expect("Hi!", sender=ann)
        ann.expect_nothing()


def test_guests_that_cannot_all_join(chat_server: Server) -> None:
    """Two can't have one name: the first is a guest, and leaves with the others; nothing leaks."""
    with ChatRoom(chat_server) as room:
        with pytest.raises(NameTaken):
            room.join(2, name="ada")
        assert [guest.name for guest in room.guests] == ["ada"]
        (bob,) = room.join()
        bob.expect_nothing()
    assert chat_server.members == []


def test_expect_nothing_while_a_bot_waits(chat_room: ChatRoom) -> None:
    """A guest that a thread receives from doesn't hold up the others, and loses nothing to their signs."""
    bot, ann, bob = chat_room.join(3)
    heard = list[str]()

    def serve_as_bot(bot: Guest) -> None:
        with suppress(ConnectionClosed):
            while True:
                heard.append(bot.receive(None).text)
                bot.send(f"echo {heard[-1]}")

    thread = threading.Thread(target=serve_as_bot, args=(bot,))
    thread.start()
    for number in range(20):
        ann.send(f"{number}")
        bob.expect(f"{number}", sender=ann)
        for guest in (ann, bob):
            guest.expect(f"echo {number}", sender=bot)
            guest.expect_nothing()
    bot.close()
    thread.join(DEADLINE)
    assert heard == [str(number) for number in range(20)]
