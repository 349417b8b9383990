"""A stream of numbered lines through a room, in a process of its own so that it shares no interpreter lock.

python -m tests.helpers.traffic PORT SECONDS BYTES [tls]: one member sends numbered lines as fast as it can, until
SECONDS have passed or BYTES are sent. Another checks that each arrives once and in order. Prints the number of lines.
"""

from __future__ import annotations

import sys
import threading
import time

from tests.helpers.peers import Peer

LINES_AT_ONCE = 64


def check(reader: Peer, name: str) -> int:
    """How many lines came from `name` before its `end`; AssertionError if they weren't 0, 1, 2 ..."""
    prefix, number, rest = f"{name}: ".encode(), 0, b""
    while True:
        data = reader.sock.recv(1 << 20)
        assert data, "the reader was cut off"
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(prefix):
                if line.endswith(b": end"):
                    return number
                assert int(line[len(prefix) : len(prefix) + 8]) == number, f"{line!r} instead of {number}"
                number += 1


def talk(talker: Peer, seconds: float, most_bytes: int) -> int:
    """Say lines of 64 bytes; how many."""
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until and number * 64 < most_bytes:
        talker.send(b"".join(b"%08d%s\n" % (line, b"x" * 55) for line in range(number, number + LINES_AT_ONCE)))
        number += LINES_AT_ONCE
        talker.drain()
    talker.send(b"end\n")
    return number


def main(port: int, seconds: float, most_bytes: int, tls: bool) -> None:
    talker, reader = Peer(port, tls=tls), Peer(port, tls=tls)
    received: list[int] = []
    reading = threading.Thread(target=lambda: received.append(check(reader, talker.name)))
    reading.start()
    sent = talk(talker, seconds, most_bytes)
    reading.join()
    talker.close()
    reader.close()
    assert received == [sent]
    print(sent)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["tls"])
