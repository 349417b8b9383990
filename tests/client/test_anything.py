"""Anything that a hostile server may send: an event that works everywhere, or a documented error."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatkit import (
    AsyncClient,
    ChatError,
    Client,
    ConnectionClosed,
    Event,
    Message,
    NameTaken,
    PasswordRefused,
    Private,
    ProtocolError,
    Reconnected,
    Renamed,
    Welcome,
)
from chatkit.cli.client.local import LocalCommands
from chatkit.cli.client.output import JsonOutput, LineBatch, QuietOutput, ReconnectOutput, TextOutput
from chatkit.cli.client.roster import Roster
from chatkit.cli.client.screen import Painter
from chatkit.client import aio_reconnect
from chatkit.client.backoff import Backoff
from chatkit.client.opening import Opening
from chatkit.client.protocol import ClientProtocol
from chatkit.client.resume import ResumeState
from chatkit.protocol.formats import encode_json, encode_text
from tests.helpers.aio import in_loop
from tests.helpers.anything import lines
from tests.helpers.endless import WELCOME
from tests.helpers.peers import DEADLINE
from tests.helpers.resuming import RESET

COMMANDS = (b"/resume ", b"/nick ", b"/json", b"/sync")
DOCUMENTED = (ConnectionClosed, NameTaken, PasswordRefused, ProtocolError)
asked = st.sampled_from([(None, False), (None, True), ("ada", False), ("ada", True)])
answers = st.sampled_from([b"", WELCOME, b"*** you are now ada\n", b"*** you are now ada\n" + WELCOME])


def use(event: Event) -> None:
    """Do with an event whatever a program or a command does."""
    assert event.text is not None
    assert encode_text(event) == f"{event}\n".encode()
    encode_json(event)
    hash(event)
    if isinstance(event, Message | Private) and event.time is not None:
        datetime.fromtimestamp(event.time)  # in the local time zone, whichever that is
    with redirect_stdout(io.TextIOWrapper(io.BytesIO())), redirect_stderr(io.StringIO()):
        local = LocalCommands(Roster("bob"))
        painter = Painter(local.roster, color=True, time_format="%H:%M", bell=True)
        text = TextOutput(painter, LineBatch(), local.receive)
        reconnect = ReconnectOutput(Painter(local.roster), LineBatch(), None, explains_queue=False)
        for output in (text, reconnect, JsonOutput(), QuietOutput("/x")):
            output.show(event)
            output.pause()


def fed(protocol: ClientProtocol, sent: list[bytes]) -> list[Event]:
    """Give lines to a protocol; return the events."""
    for line in sent:
        protocol.receive_data(line + b"\n")
    try:
        assert protocol.is_opening in (True, False)
    except ChatError as error:
        assert isinstance(error, DOCUMENTED)  # noqa: PT017
    assert protocol.ended is None or isinstance(protocol.ended, DOCUMENTED)
    events = list(protocol.received)
    protocol.received.clear()
    return events


@given(asked, answers, st.lists(lines, max_size=5))
@example((None, True), WELCOME, [b"ada: hi", b"* ada waves", b"ada (private): psst"])
@example(("ada", True), b"", [b"ada (private): psst", b"*** you are now ada", WELCOME[:-1]])
def test_whatever_is_an_event_can_be_used(options: tuple[str | None, bool], answer: bytes, sent: list[bytes]) -> None:
    """Printed, encoded, with a time for any time zone; else the conversation ends with a documented error."""
    name, events = options
    protocol = ClientProtocol(8192, Opening(name=name, events=events))
    for event in fed(protocol, [*answer.splitlines(), *sent]):
        use(event)


@given(st.sampled_from([None, "ada"]), st.lists(st.tuples(answers, st.lists(lines, max_size=4)), max_size=4))
@example(None, [(WELCOME, [b'{"type":"renamed","old":"bob","name":"1abc"}'])] * 2)
@example(None, [(b"", [b'{"type":"welcome","name":"ada","newest":0,"epoch":"\\n/exit","resume":"","common":0}'])] * 2)
@example(None, [(WELCOME, [WELCOME[:-1]])])
def test_whatever_was_received_a_client_comes_back(
    name: str | None, connections: list[tuple[bytes, list[bytes]]]
) -> None:
    """Each connection asks in a few short lines. The error that ends it for good is a documented one."""
    state = ResumeState(8192, Opening(name=name, events=True), queue=0)
    for answer, sent in connections:
        protocol = state.next_protocol()
        asks = protocol.opening.split(b"\n")
        assert len(asks) <= 5
        assert all(len(line) < 200 and line.startswith(COMMANDS) for line in asks if line)
        for event in fed(protocol, [*answer.splitlines(), *sent]):
            for told in state.receive(event):
                use(told)
        state.send("hi")
        if state.has_request:
            state.take_request()
        reason = protocol.ended or RESET
        for told in state.connection_lost(reason):
            use(told)
        if state.is_final_loss(reason):
            break


class Lines:
    """A server of scripted connections: each gets its lines when it has asked, and then an end.

    Attributes:
        port: where it listens.
        asked: the bytes that each connection began with.
    """

    def __init__(self, listener: socket.socket, scripts: list[bytes]) -> None:
        self.port: int = listener.getsockname()[1]
        self.asked = list[bytes]()
        self._listener = listener
        self._scripts = scripts

    def run(self) -> None:
        """Serve the connections."""
        for script in self._scripts:
            sock, _ = self._listener.accept()
            with sock, suppress(OSError):  # a client that has had enough resets it
                sock.settimeout(DEADLINE)
                self.asked.append(sock.recv(1000))
                sock.sendall(script)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass


@contextmanager
def serving(*scripts: bytes) -> Iterator[Lines]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        server = Lines(listener, list(scripts))
        thread = threading.Thread(target=server.run)
        thread.start()
        yield server
        thread.join(DEADLINE)
        assert not thread.is_alive()


def renamed(name: str) -> bytes:
    return b'{"type":"renamed","old":"bob","name":"%s"}\n' % name.encode()


def received_by_client(port: int, stop: Callable[[Event], bool]) -> list[Event]:
    with Client(port=port, reconnect=True) as client:
        events = [client.receive(DEADLINE)]
        while not stop(events[-1]):
            events.append(client.receive(DEADLINE))
    return events


def received_by_async_client(port: int, stop: Callable[[Event], bool]) -> list[Event]:
    events = list[Event]()

    @in_loop
    async def receive() -> None:
        async with AsyncClient(port=port, reconnect=True) as client:
            events.append(await client.receive(DEADLINE))
            while not stop(events[-1]):
                events.append(await client.receive(DEADLINE))

    receive()
    return events


both = pytest.mark.parametrize("received_by", [received_by_client, received_by_async_client], ids=["blocking", "async"])
Receive = Callable[[int, Callable[[Event], bool]], list[Event]]


@both
@pytest.mark.usefixtures("at_once")
def test_a_name_that_breaks_the_rule_is_taken_again(received_by: Receive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room gave it: a room of a later Unicode knows more letters than this client."""
    monkeypatch.setattr(aio_reconnect, "Backoff", lambda: Backoff(lambda least, most: 0))
    answer = b"*** you are now 1abc\n" + WELCOME.replace(b"bob", b"1abc")
    with serving(WELCOME + renamed("1abc"), answer) as server:
        first, second, *_, last = received_by(server.port, lambda event: isinstance(event, Reconnected))
    assert isinstance(first, Welcome)
    assert (second, last) == (
        Renamed("bob", "1abc"),
        Reconnected("back as 1abc", "1abc", new_epoch=False, epoch="a" * 16),
    )
    assert server.asked[1].startswith(b"/nick 1abc\n/json 9 aaaaaaaaaaaaaaaa\n/sync\n")


@both
@pytest.mark.parametrize("line", [renamed("bad name"), renamed(""), WELCOME], ids=["space", "empty", "welcome"])
def test_what_no_room_says_ends_the_conversation(received_by: Receive, line: bytes) -> None:
    """A name with a space, without a character, a second welcome: a documented error, and no way back."""
    with serving(WELCOME + line) as server, pytest.raises(ProtocolError, match="the server sent a"):
        received_by(server.port, lambda event: False)
