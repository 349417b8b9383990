"""TLS over a socket that takes few bytes, or breaks."""

from __future__ import annotations

import random
import socket
import ssl
import time
from contextlib import suppress

import pytest

from chatkit.net.tls_transport import FIRST_READ_BYTES, READ_BYTES, TlsTransport
from chatkit.tls import client_context, server_context
from tests.helpers.inside import asking_for_keys
from tests.helpers.papers import HOST, Papers
from tests.helpers.peers import DEADLINE
from tests.helpers.transports import received, shaken, sockets, stalled, unread


@pytest.mark.parametrize("seed", range(5))
def test_each_byte_arrives_once_though_the_kernel_takes_few(papers: Papers, seed: int) -> None:
    """For all sizes of writes and reads, and any number of repeated calls of `send`, no byte is doubled or lost."""
    chance = random.Random(seed)
    payload, got = chance.randbytes(1_000_000), bytearray()
    with sockets(send_buffer=4096) as pair:
        client, server = shaken(papers, *pair)
        sent = size = refused = 0
        deadline = time.monotonic() + DEADLINE
        while len(got) < len(payload) and time.monotonic() < deadline:
            size = max(size, chance.choice([1, 100, 16_384, 40_000]))  # what wasn't taken is sent once more
            with suppress(BlockingIOError):
                refused += 1
                taken = client.send(payload[sent : sent + size]) if sent < len(payload) else client.flush() * 0
                sent, size, refused = sent + taken, size - taken, refused - 1
            if chance.random() < 0.7:
                got += received(server, chance.choice([1, 500, 5000, 65536]))
    assert bytes(got) == payload
    assert refused > 0


@pytest.mark.parametrize("first", [0, 1], ids=["client", "server"])
def test_the_end_of_one_side_leaves_the_other_free_to_speak(papers: Papers, first: int) -> None:
    """After one side's close_notify the other still gets a megabyte across, then ends in order itself."""
    with sockets() as pair:
        ends = shaken(papers, *pair)
        ender, other = ends[first], ends[1 - first]
        assert ender.send(b"last") == 4
        ender.shutdown(socket.SHUT_WR)
        assert (other.recv(100), other.recv(100), other.at_eof) == (b"last", b"", True)
        left, got = memoryview(payload := random.Random(1).randbytes(1_000_000)), bytearray()
        while left:
            with suppress(BlockingIOError):
                left = left[other.send(left) :]
            got += received(ender)
        got += received(ender)
        other.shutdown(socket.SHUT_WR)
        for _ in range(1000):
            other.flush()
            got += received(ender)
        assert ender.at_eof
        assert got == payload


def test_an_end_without_close_notify_is_a_cut(papers: Papers) -> None:
    """Whole records before it count; then it is ConnectionResetError, not the end of stream."""
    with sockets() as pair:
        client, server = shaken(papers, *pair)
        client.send(b"whole\nhalf")
        pair[0].shutdown(socket.SHUT_WR)
        assert server.recv(100) == b"whole\nhalf"
        with pytest.raises(ConnectionResetError, match="the connection was cut inside TLS"):
            server.recv(100)


def test_a_conversation_byte_by_byte(papers: Papers) -> None:
    """Handshake, a line and the end pass though only one byte arrives at a time."""
    with sockets() as (near, gate), sockets() as (way, far):
        client = TlsTransport(near, client_context(ca=papers.ca), HOST)
        server = TlsTransport(far, server_context(papers.good))
        heard, told = b"", False
        for _ in range(20_000):
            for source, target, end in ((gate, way, server), (way, gate, client)):
                with suppress(BlockingIOError):
                    target.send(source.recv(1))
                heard += received(end) if end is server else received(end)[:0]
            if client.is_ready and not told:
                told = client.send(b"hello\n") == 6
                client.shutdown(socket.SHUT_WR)
        assert (heard, server.at_eof) == (b"hello\n", True)


def test_the_last_words_of_a_peer_that_is_gone_are_heard(papers: Papers) -> None:
    """A failed write only stops the writing: the peer's lines before its close still arrive."""
    with stalled(papers) as (client, server):
        assert client.send(b"last words\n") == 11
        client.close()
        assert server.recv(100) == b"last words\n"


def reads(server: TlsTransport, sock: socket.socket) -> list[int]:
    """Read everything that has arrived; return how many bytes each read took."""
    taken = []
    while left := unread(sock):
        received(server)
        taken.append(left - unread(sock))
    return taken


def test_requests_for_new_keys_are_read_few_at_a_time(papers: Papers) -> None:
    """Each costs as much as a hundred lines: others have their turn after a few. Data are read in larger pieces."""
    with sockets() as (near, far):
        client, server = shaken(papers, near, far)
        if not (ask := asking_for_keys(client)):
            pytest.skip("needs a libssl to call")
        for _ in range(3):
            for _ in range(3000):
                ask()
            client.flush()
            taken = reads(server, far)
            assert sum(taken) > 40_000
            assert max(taken[-3:]) <= FIRST_READ_BYTES
            assert max(taken) <= READ_BYTES
            received(client)
            client.send(b"x" * 100_000)
            assert max(reads(server, far)) == READ_BYTES


def test_an_endless_handshake_is_ended(papers: Papers) -> None:
    """The TLS object keeps all of a hello until it is complete, up to 128 KiB."""
    record = b"\x16\x03\x01\x40\x00" + bytes(0x4000)
    with sockets() as (near, far):
        server = TlsTransport(far, server_context(papers.good))
        near.send(b"\x16\x03\x01\x00\x04\x01\x01\xff\x00" + record)  # a hello of 130,816 bytes begins
        with pytest.raises(ssl.SSLError, match="too long"):
            server.recv(65536)
