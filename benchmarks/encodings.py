"""What a delivery costs the server as text and as JSON, when everyone talks: `python benchmarks/encodings.py`.

Members send some lines each, read everyone else's, and begin again. docs/design.md has the figures.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys

LINES = 20
LINE = b"q" * 63 + b"\n"


def flood(port: int, members: int, rounds: int, *, json: bool) -> None:
    selector = selectors.DefaultSelector()
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(members)]
    for sock in socks:
        selector.register(sock, selectors.EVENT_READ)
        sock.sendall(b"/json\n" if json else b"")
        while json and b"welcome" not in sock.recv(65536):
            pass
    for _ in range(rounds):
        expected = members * (members - 1) * LINES * LINE.count(b"q")  # one byte: reads cut lines anywhere
        for sock in socks:
            sock.sendall(LINE * LINES)
        while expected:
            for key, _ in selector.select():
                expected -= key.fileobj.recv(1 << 20).count(b"q")  # type: ignore[union-attr]
    for sock in socks:
        sock.close()


def cpu_per_delivery(members: int, rounds: int, *, json: bool) -> float:
    """Seconds of the server process, its start included."""
    command = [sys.executable, "-m", "chatkit", "server", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        (port,) = re.findall(r":([0-9]+)$", server.stdout.readline())
        with subprocess.Popen(["cat"], stdin=server.stdout, stdout=subprocess.DEVNULL):
            flood(int(port), members, rounds, json=json)
            server.send_signal(signal.SIGTERM)
            _, _, usage = os.wait4(server.pid, 0)
            server.returncode = 0
    return (usage.ru_utime + usage.ru_stime) / (rounds * members * (members - 1) * LINES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=200, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=60, help="default %(default)s")
    parser.add_argument("--repeat", type=int, default=3, help="take the median of so many; default %(default)s")
    options = parser.parse_args()
    medians = {}
    for encoding in ("text", "json"):
        json = encoding == "json"
        costs = [cpu_per_delivery(options.members, options.rounds, json=json) for _ in range(options.repeat)]
        medians[encoding] = statistics.median(costs)
        print(f"{encoding}: {1e9 * medians[encoding]:.0f} ns per delivery")
    print(f"json / text: {medians['json'] / medians['text']:.2f}")


if __name__ == "__main__":
    main()
