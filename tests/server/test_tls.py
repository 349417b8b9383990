"""A room of members that speak TLS."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from chatkit import AsyncClient, Client, ConnectionClosed, Limits, Message, Notice, Server
from chatkit.net.tls_transport import NOT_TLS
from chatkit.server.connection import Connection
from chatkit.tls import client_context, server_context
from tests.helpers.aio import run_in_loop
from tests.helpers.inside import fill_outgoing
from tests.helpers.papers import HOST, Papers
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.servers import Started, a_share
from tests.helpers.transports import shaken, sockets, stalled


class TlsRoom(Started):
    """A server that speaks TLS, and members of it."""

    def __init__(self, stack: ExitStack, papers: Papers, **options: Any) -> None:
        super().__init__(stack, **{"tls": server_context(papers.good), **options})
        self.context = client_context(ca=papers.ca)

    def client(self, **options: Any) -> Client:
        """A member, in the room when it returns."""
        client = Client(port=self.port, **{"tls": self.context, **options})
        self._stack.callback(client.close)
        self.events.wait_for("join")
        return client

    def stranger(self, **options: Any) -> Peer:
        """A connection that has said nothing yet."""
        peer = Peer(self.port, **options)
        self._stack.callback(peer.close)
        return peer

    def plain_ssl(self, **options: Any) -> Peer:
        """The standard library's own TLS, in the room when it returns."""
        peer = self.stranger(**options)
        peer.sock = self.context.wrap_socket(peer.sock, server_hostname=HOST, suppress_ragged_eofs=False)
        self._stack.callback(peer.close)
        self.events.wait_for("join")
        return peer

    def assert_nothing_was_said(self, listener: Client) -> None:
        """The first that reaches `listener`, and the server's handler, is what is said now."""
        before = self.server.stats.messages
        said = self.client()
        said.send("sentinel")
        assert listener.receive(DEADLINE) == Message(str(said.address[1]), "sentinel")
        assert self.events.wait_for("message") == f"{said.address[1]}: sentinel"
        assert before == 0


@pytest.fixture
def serve_tls(papers: Papers) -> Iterator[Callable[..., TlsRoom]]:
    with ExitStack() as stack:
        yield lambda **options: TlsRoom(stack, papers, **options)


ServeTls = Callable[..., TlsRoom]


def in_threads(*calls: Callable[[], object]) -> None:
    """Run all at the same time; an error of one is raised here."""
    errors: list[BaseException] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=attempt, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6 * DEADLINE)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert errors == []


def test_a_stalled_member_that_is_gone_needs_no_more(papers: Papers) -> None:
    """Once its peer has gone a connection is finished, though encrypted bytes wait: nobody will take them."""
    with stalled(papers) as (client, server):
        connection = Connection(server, a_share())
        client.close()
        connection.receive(100, 1000)
        connection.receive(100, 1000)
        assert connection.peer_end == "connection reset"
        connection.begin_end()
        assert connection.may_close


# Who gets in


HELLO_11 = b"\x03\x02" + bytes(32) + b"\0" + b"\0\4\xc0\x13\0\x2f" + b"\1\0"
HELLO_11 = b"\x16\x03\x01" + (len(HELLO_11) + 4).to_bytes(2, "big") + b"\1\0\0" + bytes([len(HELLO_11)]) + HELLO_11
PLAIN, ALERT = re.escape(NOT_TLS), rb"(?s:\x15\x03.*)"
STRANGERS = {
    "plain text": (b"hi\nho\n", PLAIN),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PLAIN),
    "garbage": (bytes(range(128, 256)) * 20 + b"\n", PLAIN),
    "garbage in a record": (b"\x16\x03\x01\0\x20" + b"hi\n" * 20, ALERT),
    "half a hello": (HELLO_11[:20], ALERT),
    "TLS 1.1": (HELLO_11, rb"(?s:\x15\x03.\x00\x02\x02\x46)"),
    "nothing": (b"", ALERT),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_plain_text_and_garbage_do_not_reach_the_room(
    serve_tls: ServeTls, caplog: pytest.LogCaptureFixture, stranger: str
) -> None:
    """Plain text is told what the port speaks, a bad record gets TLS's alert; nobody hears it, no log shows it."""
    room, (said, answer) = serve_tls(), STRANGERS[stranger]
    listener, peer = room.client(), room.stranger()
    peer.send(said)
    peer.send_eof()
    assert re.fullmatch(answer, peer.rest())
    room.assert_nothing_was_said(listener)
    assert caplog.records == []


def join_and_leave(kind: type[Client | AsyncClient], port: int, tls: ssl.SSLContext, host: str = HOST) -> None:
    async def run_async() -> None:
        async with AsyncClient(host, port, tls=tls):
            pass

    if kind is Client:
        Client(host, port, tls=tls).close()
    else:
        run_in_loop(run_async())


@pytest.mark.usefixtures("each_loop")
@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("certificate", "fault"),
    [
        ("other_name", "IP address mismatch"),
        ("expired", "certificate has expired"),
        ("untrusted", "unable to get local issuer certificate"),
        ("pinned", "the server's certificate is not the trusted one; its fingerprint is [0-9a-f]{64}"),
    ],
)
def test_a_client_joins_nobody_it_cannot_trust(
    serve_tls: ServeTls, papers: Papers, kind: type[Client | AsyncClient], certificate: str, fault: str
) -> None:
    """Wrong name, expired, unknown authority, another one than pinned: SSLCertVerificationError, and no member."""
    shown = {"other_name": papers.other_name, "expired": papers.expired}.get(certificate, papers.good)
    room = serve_tls(tls=server_context(shown))
    trusted = {"untrusted": client_context(), "pinned": client_context(fingerprint=papers.fingerprint(papers.renewed))}
    with pytest.raises(ssl.SSLCertVerificationError, match=fault):
        join_and_leave(kind, room.port, trusted.get(certificate, room.context))
    sentinel = room.stranger()
    sentinel.send(b"x\n")
    sentinel.rest()
    with Client(port=room.port, tls=client_context(fingerprint=papers.fingerprint(shown))) as member:
        first = room.events.happened.get(timeout=DEADLINE)
        assert first == ("join", str(member.address[1]))


@pytest.mark.usefixtures("each_loop")
@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("write", [str.lower, str.upper, lambda pin: ":".join(re.findall("..", pin))])
def test_a_pinned_certificate_needs_no_authority(
    serve_tls: ServeTls, papers: Papers, kind: type[Client | AsyncClient], write: Callable[[str], str]
) -> None:
    """The right fingerprint, with or without colons, is enough: even where the name is wrong."""
    room = serve_tls(tls=server_context(papers.other_name))
    join_and_leave(kind, room.port, client_context(fingerprint=write(papers.fingerprint(papers.other_name))))
    assert room.events.wait_for("leave") in ("exit", "end of stream")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("host", ["localhost", "localhost.", "::1", "[::1]", "::1%lo"])
def test_a_host_has_one_name_in_its_certificate(
    monkeypatch: pytest.MonkeyPatch, papers: Papers, tmp_path: Path, kind: type[Client | AsyncClient], host: str
) -> None:
    """However it is typed: a final dot, brackets and the interface are for the resolver."""
    look_up, authority = socket.getaddrinfo, trustme.CA()

    def look_up_here(host: str, *rest: Any, **options: Any) -> Any:
        assert host in ("localhost", "localhost.", "::1", "::1%lo")
        return look_up(HOST, *rest, **options)

    authority.issue_cert("localhost", "::1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with Server(port=0, tls=server_context(tmp_path / "server.pem")) as server:
        monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
        join_and_leave(kind, server.port, client_context(ca=tmp_path / "ca.pem"), host=host)


def test_silent_peers_hold_up_nobody(serve_tls: ServeTls, caplog: pytest.LogCaptureFixture) -> None:
    """200 of them: a good client is in within 1 s, they count as members and are gone in time, almost unlogged."""
    room = serve_tls(limits=Limits(tls_handshake_seconds=2.0, max_clients=201))
    begun = time.monotonic()
    silent = [room.stranger() for _ in range(200)]
    all_there = time.monotonic()
    listener = room.client()
    assert time.monotonic() - all_there < 1
    with Client(port=room.port, tls=room.context) as refused:
        assert refused.receive(DEADLINE) == Notice("the room is full")
        assert list(refused) == []
    assert {peer.rest() for peer in silent} == {NOT_TLS}
    assert 2.0 <= time.monotonic() - begun < 4.0
    assert len(room.server.members) == 1
    room.assert_nothing_was_said(listener)
    assert len(caplog.records) <= 1


# Members


@pytest.mark.usefixtures("each_loop")
def test_all_kinds_of_members_talk(serve_tls: ServeTls) -> None:
    """`Client`, `AsyncClient`, the standard library's TLS and a program that reads JSON hear each other."""
    room = serve_tls()

    async def talk() -> None:
        ann, bob, ada = room.client(), room.plain_ssl(), room.client(name="ada", events=True)
        async with AsyncClient(port=room.port, tls=room.context, name="cy") as cy:
            await cy.send("a")
            assert (ann.receive(DEADLINE), bob.line()) == (Message("cy", "a"), b"cy: a")
            bob.send(b"b\n")
            assert [ann.receive(DEADLINE), await cy.receive(DEADLINE)] == [Message(bob.name, "b")] * 2
            ada.send("c")
            assert [ann.receive(DEADLINE).text, (await cy.receive(DEADLINE)).text, bob.line()] == ["c", "c", b"ada: c"]
        heard: list[Message] = []
        while len(heard) < 2:
            heard += [event for event in [ada.receive(DEADLINE)] if isinstance(event, Message)]
        assert [(message.sender, message.text, message.id) for message in heard] == [("cy", "a", 1), (bob.name, "b", 2)]

    run_in_loop(talk())


def test_a_member_that_knows_only_tls_12(serve_tls: ServeTls) -> None:
    """It talks as any other."""
    room = serve_tls()
    room.context.maximum_version = ssl.TLSVersion.TLSv1_2
    ann, bob = room.client(), room.plain_ssl()
    assert isinstance(bob.sock, ssl.SSLSocket)
    assert bob.sock.version() == "TLSv1.2"
    ann.send("a")
    assert bob.line() == f"{ann.address[1]}: a".encode()


def test_records_full_of_lines(serve_tls: ServeTls) -> None:
    """A record of 16 KiB that holds 100 lines is 100 messages, in order; so is each after it."""
    room = serve_tls()
    talker, reader = room.plain_ssl(), room.plain_ssl()
    lines = [b"%05d" % number + b"x" * 157 for number in range(1000)]
    for start in range(0, 1000, 100):
        record = b"\n".join(lines[start : start + 100]) + b"\n"
        assert len(record) <= 16_384
        talker.send(record)
    assert reader.lines(1000) == [talker.name.encode() + b": " + line for line in lines]


@pytest.mark.parametrize(
    ("in_order", "messages", "reason"),
    [(True, ["whole", "half"], "end of stream"), (False, ["whole"], "connection reset")],
)
def test_half_a_line_counts_only_after_close_notify(
    serve_tls: ServeTls, in_order: bool, messages: list[str], reason: str
) -> None:
    """A peer that ends in order has said its last line, one that is cut only whole ones."""
    room = serve_tls()
    peer = room.plain_ssl()
    assert isinstance(peer.sock, ssl.SSLSocket)
    peer.send(b"whole\nhalf")
    if in_order:
        peer.sock = peer.sock.unwrap()
    peer.sock.shutdown(socket.SHUT_WR)
    for text in messages:
        assert room.events.wait_for("message") == f"{peer.name}: {text}"
    assert room.events.happened.get(timeout=DEADLINE) == ("leave", reason)


@pytest.mark.usefixtures("each_loop")
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_server_that_is_cut_did_not_end_in_order(papers: Papers, kind: type[Client | AsyncClient]) -> None:
    """Without close_notify a client's conversation is lost, not over; earlier lines are received."""
    with socket.create_server((HOST, 0)) as listener, ExitStack() as stack:
        context, port = client_context(ca=papers.ca), listener.getsockname()[1]

        def serve_and_cut() -> None:
            sock = server_context(papers.good).wrap_socket(listener.accept()[0], server_side=True)
            with sock:
                sock.sendall(b"1: a\n")

        async def hear() -> None:
            async with AsyncClient(port=port, tls=context) as client:
                assert await client.receive(DEADLINE) == Message("1", "a")
                with pytest.raises(ConnectionClosed) as lost:
                    await client.receive(DEADLINE)
                assert not lost.value.clean

        def join() -> None:
            if kind is AsyncClient:
                return run_in_loop(hear())
            client = stack.enter_context(Client(port=port, tls=context))
            assert client.receive(DEADLINE) == Message("1", "a")
            with pytest.raises(ConnectionClosed) as lost:
                client.receive(DEADLINE)
            assert not lost.value.clean

        in_threads(serve_and_cut, join)


def test_a_slow_consumer_gets_a_prefix_without_a_gap(serve_tls: ServeTls) -> None:
    """Cut off at its limit, it has received the first lines, each once, and no end in order after half a line."""
    room = serve_tls(limits=Limits(max_pending_bytes=200_000, drain_seconds=0.3))
    talker, deaf = room.client(), room.plain_ssl(receive_buffer=4096)
    number, deadline = 0, time.monotonic() + DEADLINE
    while not room.server.stats.slow_consumers and time.monotonic() < deadline:
        talker.send(f"{number:06}" + "x" * 994)
        number += 1
    assert room.events.wait_for("leave") == "slow consumer"
    talker.send("after the cut")
    got = bytearray()
    with suppress(ssl.SSLEOFError, ConnectionResetError):
        while data := deaf.sock.recv(65536):
            got += data
    *lines, _ = bytes(got).split(b"\n")
    said = [line.partition(b": ")[2] for line in lines if not line.startswith(b"***")]
    assert 0 < len(said) <= number  # all of it, if it reads in time what was pending; nothing from after the cut
    assert said == [b"%06d" % position + b"x" * 994 for position in range(len(said))]


def test_a_shutdown_delivers_everything_that_had_arrived(serve_tls: ServeTls) -> None:
    """Everybody gets all that was sent before it, then the end that TLS has for it."""
    room = serve_tls(limits=Limits(drain_seconds=0.3))
    talker, readers = room.client(), [room.plain_ssl(), room.plain_ssl()]
    for number in range(1000):
        talker.send(f"{number}")
    room.server.shutdown()
    everything = b"".join(b"%d: %d\n" % (talker.address[1], number) for number in range(1000))
    assert [reader.rest() for reader in readers] == [everything] * 2
    assert list(talker) == []


def test_a_flood_from_everyone_arrives_once_and_in_order(serve_tls: ServeTls) -> None:
    """Four members say 2,000 lines each at the same time, and each gets the 6,000 of the others."""
    room = serve_tls()
    members = [room.client() for _ in range(4)]
    names = [str(member.address[1]) for member in members]

    def talk(member: Client) -> None:
        for number in range(2000):
            member.send(f"{number}")

    def listen(member: Client) -> None:
        heard = {name: list[str]() for name in names}
        for event in (member.receive(DEADLINE) for _ in range(6000)):
            assert isinstance(event, Message)
            heard[event.sender].append(event.text)
        del heard[str(member.address[1])]
        assert list(heard.values()) == [[str(number) for number in range(2000)]] * 3

    in_threads(*[lambda m=member: talk(m) for member in members], *[lambda m=member: listen(m) for member in members])


@pytest.mark.parametrize("lines", [50_000, pytest.param(2000, marks=pytest.mark.stress)])
def test_one_thread_sends_while_another_receives(serve_tls: ServeTls, lines: int) -> None:
    """Both members do both at once, so that TLS reads and writes at the same time: no deadlock, nothing lost."""
    room = serve_tls(limits=Limits(max_pending_bytes=100_000_000))
    members = [room.client(), room.client()]

    def talk(member: Client) -> None:
        for number in range(lines):
            member.send(f"{number}")

    def listen(member: Client) -> None:
        assert [member.receive(DEADLINE).text for _ in range(lines)] == [str(number) for number in range(lines)]

    in_threads(*[lambda m=member: talk(m) for member in members], *[lambda m=member: listen(m) for member in members])


# Contexts


def test_a_renewed_certificate_is_for_new_members(serve_tls: ServeTls, papers: Papers) -> None:
    """After `set_tls` newcomers are shown the new one, and talk with those who came before."""
    room = serve_tls()
    pins = [client_context(fingerprint=papers.fingerprint(path)) for path in (papers.good, papers.renewed)]
    old = room.client(tls=pins[0])
    room.server.set_tls(server_context(papers.renewed))
    new = room.client(tls=pins[1])
    with pytest.raises(ssl.SSLCertVerificationError, match=papers.fingerprint(papers.renewed)):
        Client(port=room.port, tls=pins[0])
    for talker, listener in ((old, new), (new, old)):
        talker.send("a")
        assert listener.receive(DEADLINE) == Message(str(talker.address[1]), "a")


def test_a_plain_server_stays_plain(papers: Papers) -> None:
    """`set_tls` on it is RuntimeError."""
    with (
        Server(port=0) as server,
        pytest.raises(RuntimeError, match="the server was created without TLS: pass tls to Server"),
    ):
        server.set_tls(server_context(papers.good))


def test_plain_programs_do_not_load_tls() -> None:
    """Neither `import chatkit` nor a plain server and client bring `ssl` in."""
    script = (
        "import sys, chatkit\n"
        "with chatkit.Server(port=0) as s, chatkit.Client(port=s.port): print('ssl' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=DEADLINE)
    assert (found.stdout, found.stderr) == (b"False\n", b"")


def test_pieces_that_do_not_fit_are_sent_once(serve_tls: ServeTls) -> None:
    """A member whose own lines cut a long batch in uneven pieces gets each other line once, also when it reads late."""
    room = serve_tls(limits=Limits(max_pending_bytes=50_000_000))
    ann, slow = room.client(), room.plain_ssl(receive_buffer=4096)
    for turn in range(40):
        slow.send(b"own\n")
        for number in range(200):
            ann.send(f"{turn * 200 + number:05}" + "x" * (700 + number))
    expected = [f"{ann.address[1]}: {number:05}".encode() for number in range(8000)]
    ann.send("exit")
    heard = [line[: len(expected[0])] for line in slow.lines(8000)]
    assert heard == expected


def test_uneven_pieces_over_a_full_kernel(papers: Papers) -> None:
    """A record across the border of two pieces counts for both, and is sent once."""
    sizes = [36_000, 180_000, 1, 70_000, 300_000, 5]
    pieces = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    with sockets(send_buffer=4096) as (near, far):
        client, server = shaken(papers, near, far)
        connection, got = Connection(server, a_share()), b""
        connection.write_pieces(pieces)
        until = time.monotonic() + DEADLINE
        while connection.pending_bytes and time.monotonic() < until:
            connection.flush()
            with suppress(BlockingIOError):
                got += client.recv(5000)
        with suppress(BlockingIOError):
            while True:
                got += client.recv(65536)
    assert [got.count(piece[:1]) for piece in pieces] == sizes
    assert got == b"".join(pieces)
    assert connection.pending_bytes == 0


def test_a_peer_that_reads_no_answers_of_tls_is_disconnected(papers: Papers) -> None:
    """Answers of TLS itself (RFC 8446, 4.6.3) are bounded: they count nowhere as pending."""
    with sockets(send_buffer=4096) as (near, far):
        client, server = shaken(papers, near, far)
        connection = Connection(server, a_share())
        connection.write(b"x" * 1_000_000)  # the kernel is full
        fill_outgoing(server, b"x" * 70_000)  # as thousands of key updates would
        client.send(b"hello\n")
        assert connection.receive(65536, 1000) == []
        assert connection.peer_end == "connection reset"
