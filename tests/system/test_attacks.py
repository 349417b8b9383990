"""Hostile members: bursts, floods of tiny lines, unread answers. The room goes on, in bounded memory and time."""

from __future__ import annotations

import signal
import ssl
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.attacks import LONG_NAME, Attack, best, flooding, reading, tokens_p99
from tests.helpers.peers import DEADLINE, token_seconds, trusting
from tests.helpers.processes import linux

pytestmark = [pytest.mark.timed, linux]


@pytest.mark.parametrize(
    ("data", "seconds"),
    [("x\n/json\n", 0.25), ("/nick n{}\n/json 0\n/sync\n", 0.5)],
    ids=["switch", "return"],
)
def test_three_thousand_switch_at_once(attack: Attack, data: str, seconds: float) -> None:
    """Members that ask for JSON in one moment get one delivery each: a token between two others is not held up."""
    attack.start("--max-clients", "5000")
    seconds = attack.allowed(seconds, thousands=True)

    def storm() -> float:
        with (
            attack.peers(2) as (talker, reader),
            attack.crowd(3000, lambda index: data.format(index).encode()),
        ):
            return max(token_seconds(talker, reader) for _ in range(2))

    assert best(storm, seconds) < seconds


@pytest.mark.parametrize(
    ("data", "seconds"),
    [(b"", 0.2), (b"/nick n%d\n/sync\n", 0.5)],  # they speak one after the other: these are many turns, not one
    ids=["still", "names"],
)
def test_thousands_of_announced_joins(attack: Attack, data: bytes, seconds: float) -> None:
    """Four thousand that join at once are announced to all by few deliveries, when they speak or a second later."""
    attack.start("--max-clients", "5000", "--announce")
    seconds = attack.allowed(seconds, thousands=True)

    def storm() -> float:
        with (
            attack.peers(2) as (talker, reader),
            attack.crowd(4000, lambda index: data and data % index),
        ):
            return tokens_p99(talker, reader, attack.seconds(1.5))

    assert best(storm, seconds) < seconds


@pytest.mark.parametrize("line", [b"a\n", b"/\n", b"/who\n", b"/nick x\n"], ids=["text", "slash", "who", "nick"])
@pytest.mark.parametrize(("number", "seconds"), [(1, 0.05), (32, 0.1)])
def test_a_token_beside_floods(attack: Attack, line: bytes, number: int, seconds: float) -> None:
    """Tiny lines, long answers and refusals of any number of members hold nobody up."""
    attack.start("--announce")
    seconds = attack.allowed(seconds)

    def p99() -> float:
        with attack.peers(3) as (talker, reader, program), attack.attackers(number) as flooders:
            program.send(b"/json\n")
            with reading(program), flooding(flooders, line):
                token_seconds(talker, reader)
                return tokens_p99(talker, reader, attack.seconds(1.5))

    assert best(p99, seconds) < seconds


@pytest.mark.parametrize("data", ["", "x\n/json\n"], ids=["silent", "switch"])
def test_a_token_beside_connections_that_come_and_go(attack: Attack, data: str) -> None:
    """Thousands a second hold nobody up, take few descriptors, and don't delay the end."""
    attack.start()

    def p99() -> float:
        with attack.peers(2) as (talker, reader), attack.storm(attack.seconds(2), data, most=50):
            measured = tokens_p99(talker, reader, attack.seconds(1.5))
            assert attack.descriptors < 2000
        return measured

    seconds = attack.allowed(0.1)
    assert best(p99, seconds) < seconds
    with attack.storm(1, data, most=50):
        begun = time.monotonic()
        attack.server.process.send_signal(signal.SIGTERM)
        assert attack.server.process.wait(DEADLINE) == 0
        assert time.monotonic() - begun < 5


def test_a_reader_that_reads_stays_in_a_burst(attack: Attack) -> None:
    """Lines of two bytes become a hundred each in JSON: 32 members send 32 KiB of them, and no reader is cut off."""
    attack.start()
    with attack.peers(1) as (reader,), attack.attackers(32) as talkers:
        reader.send(b"/json\n")
        reader.pass_over(b"welcome")
        for talker in talkers:
            talker.send(b"a\n" * 16384)
        talkers[0].send(b"the end\n")
        reader.pass_over(b'"text":"the end"')


@pytest.mark.parametrize("asks", [b"/json 0\n", b""], ids=["replay", "pending"])
def test_small_pieces_pin_no_batches(attack: Attack, asks: bytes) -> None:
    """A member that hardly reads, and floods, keeps a few bytes of each batch: not the batches."""
    attack.start()
    with attack.peers(2) as (talker, reader), attack.attackers(1, receive_buffer=4096) as (attacker,):
        attacker.send(LONG_NAME)
        for _ in range(700):
            talker.send(b"x" * 8000 + b"\n")
        talker.send(b"/sync\n")
        talker.pass_over(b"synced")
        attacker.send(asks)
        token_seconds(talker, reader)
        attack.begin()
        with flooding([attacker], b"a\n"):
            tokens_p99(talker, reader, attack.seconds(4))  # a few bytes of each turn for the attacker
        assert attack.grown < 64


def test_answers_that_nobody_reads(attack: Attack) -> None:
    """A hundred members ask and read nothing: together they hold the budget, the largest are cut off, others go on."""
    attack.start("--max-private-bytes", str(32 << 20))

    def slowest() -> float:
        with attack.peers(2) as (talker, reader), attack.attackers(100, receive_buffer=4096) as asking:
            for index, peer in enumerate(asking):
                letters = "".join(chr(0x12000 + (index >> bit & 1)) for bit in range(31, -1, -1))
                peer.send(f"/nick {letters}\n/sync\n".encode())
                peer.pass_over(b"synced")
            attack.begin()
            until, taken = time.monotonic() + attack.seconds(4), list[float]()
            while time.monotonic() < until:
                for peer in asking:
                    with suppress(OSError):
                        peer.sock.setblocking(False)
                        peer.sock.send(b"/who\n" * 16)
                taken.append(token_seconds(talker, reader))
                assert attack.grown < 32 + 64
        return max(taken)

    assert best(slowest, 0.2) < 0.2


@pytest.mark.parametrize("threads", ["1", "4"])
def test_the_end_beside_floods(attack: Attack, threads: str) -> None:
    """SIGTERM ends a server within 5 s while hundreds of members flood."""
    attack.start("--threads", threads)
    with attack.attackers(int(attack.seconds(100))) as flooders, flooding(flooders, b"a\n"):
        with attack.peers(2) as (talker, reader):
            for _ in range(20):
                token_seconds(talker, reader)
        begun = time.monotonic()
        attack.server.process.send_signal(signal.SIGTERM)
        assert attack.server.process.wait(DEADLINE) == 0
        assert time.monotonic() - begun < 5


def test_refused_peers_take_few_descriptors(attack: Attack) -> None:
    """A full room turns peers away without keeping them: two thousand that stay connected cost a bounded number."""
    attack.start("--max-clients", "100")
    with attack.connections(2000), attack.peers(1) as (late,):
        assert late.rest() == b"*** the room is full\n"
        assert attack.descriptors < 100 + 256 + 50


@pytest.mark.parametrize("attack", ["tls"], indirect=True)
def test_a_token_beside_handshakes(attack: Attack, tmp_path: Path) -> None:
    """Hundreds of TLS handshakes with an RSA key of 4096 bits, a few milliseconds each, hold nobody up."""
    path = tmp_path / "rsa.pem"
    names = ["-subj", "/CN=localhost", "-keyout", str(path), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:4096", "-nodes", *names], check=True, capture_output=True
    )
    attack.start("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(path))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        trusting().wrap_bio(incoming, outgoing).do_handshake()
    hello = outgoing.read()

    def p99() -> float:
        with attack.peers(2) as (talker, reader), attack.connections(300) as sockets:
            talker.drain()
            token_seconds(talker, reader)
            for sock in sockets:
                sock.send(hello)
            return max(token_seconds(talker, reader) for _ in range(20))

    assert best(p99, 0.1) < 0.1
