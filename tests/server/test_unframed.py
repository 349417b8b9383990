"""Servers, and peers that end no line or speak telnet."""

from __future__ import annotations

import socket

import pytest

from chatkit import Limits
from chatkit.protocol.telnet import MAX_ANSWERS
from chatkit.server.unframed import HINT
from chatkit.tls import server_context
from tests.helpers.login import ASKED, Guarded
from tests.helpers.marks import over_tls
from tests.helpers.papers import Papers
from tests.helpers.peers import Peer
from tests.helpers.servers import Reads, Serve

DO_MARK, MARK = b"\xff\xfd\x06", b"\xff\xfb\x06"


@pytest.fixture
def hint_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds take a tenth of one."""
    monkeypatch.setattr("chatkit.server.unframed.HINT_SECONDS", 0.1)


@over_tls
@pytest.mark.usefixtures("hint_soon")
def test_a_peer_is_told_how_to_end_a_line(serve: Serve, reads: Reads) -> None:
    """In a room with TLS, too. Nobody else hears of it."""
    talker, reader = serve().peers(2)
    reads.send(talker, b"hel", b"lo")
    assert talker.line() + b"\n" == HINT
    reads.send(talker, b"\n")
    assert reader.line() == f"{talker.name}: hello".encode()


@pytest.mark.usefixtures("hint_soon")
def test_a_peer_is_told_before_the_password_too(guarded: Guarded, reads: Reads) -> None:
    """Without line ends it never gets in."""
    peer = guarded().peer()
    assert peer.line() == ASKED
    reads.send(peer, b"/pass", b"word x", as_member=False)
    assert peer.line() + b"\n" == HINT


def test_a_room_may_take_text_without_line_ends(serve: Serve, reads: Reads) -> None:
    """With `unframed_seconds`, from a peer of its own that never sends one."""
    started = serve(limits=Limits(unframed_seconds=0.2))
    talker, reader = started.peers(2)
    reads.send(talker, b"hel", b"lo")
    assert reader.line() == f"{talker.name}: hello".encode()
    reads.send(talker, b"exit")
    assert talker.rest() == b""
    assert started.events.wait_for("leave") == "exit"


def test_a_room_in_tls_needs_line_ends(serve: Serve, reads: Reads, papers: Papers) -> None:
    """Its peers are programs that know how to end a line: what comes without is never one."""
    started = serve(tls=server_context(papers.good), limits=Limits(unframed_seconds=0.2, line_seconds=0.6))
    talker, reader = started.peers(2)
    reads.send(talker, b"hel", b"lo")
    assert b"a line took longer than 0.6 seconds" in talker.line()
    started.peer().send(b"sentinel\n")
    assert reader.line().endswith(b": sentinel")


def test_a_login_needs_line_ends(guarded: Guarded, reads: Reads) -> None:
    """A password may come in pieces, as slowly as it likes; quiet doesn't end it."""
    peer = guarded(unframed_seconds=0.2, login_seconds=0.6).peer()
    assert peer.line() == ASKED
    reads.send(peer, b"/password", b" wrong", as_member=False)
    assert b"no password in 0.6 seconds" in peer.line()


@over_tls
def test_telnet_is_answered_at_once(serve: Serve) -> None:
    """Also in the middle of a line, which comes without its commands."""
    talker, reader = serve().peers(2)
    talker.send(b"he\xff\xf4" + DO_MARK)
    assert received(talker, len(MARK)) == MARK
    talker.send(b"llo\n")
    assert reader.line() == f"{talker.name}: hello".encode()


def received(peer: Peer, number: int) -> bytes:
    """Return so many bytes."""
    data = b""
    while len(data) < number:
        data += peer.sock.recv(number - len(data))
    return data


def test_an_urgent_byte_keeps_its_place(serve: Serve, reads: Reads) -> None:
    """`telnet` sends the end of IAC DM as one: taken out of the stream, it would leave half a command."""
    talker, reader = serve().peers(2)
    reads.send(talker, b"a\xff")
    talker.sock.send(b"\xf2", socket.MSG_OOB)
    talker.send(b"b\n")
    assert reader.line() == f"{talker.name}: ab".encode()


def test_telnet_before_the_password(guarded: Guarded) -> None:
    """PuTTY asks at once."""
    peer = guarded().peer()
    assert peer.line() == ASKED
    peer.send(DO_MARK)
    assert received(peer, len(MARK)) == MARK


def test_answers_to_telnet_have_an_end(serve: Serve) -> None:
    """A peer that asks on gets no more of them, and its lines arrive."""
    talker, reader = serve().peers(2)
    talker.send(DO_MARK * 1000 + b"/sync\nhi\n")
    assert talker.line() == MARK * MAX_ANSWERS + b"*** synced, newest is 0"
    assert reader.line().endswith(b": hi")
