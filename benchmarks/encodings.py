"""The server's cost of a delivery as text, as JSON and inside TLS, when everyone talks.

Run `python benchmarks/encodings.py`. Members send some lines each, read everyone else's, and begin again. TLS needs the
extra `tls`. docs/performance.md has the figures.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import signal
import socket
import ssl
import statistics
import subprocess
import sys
from contextlib import suppress

LINES = 20
LETTER = b"q"  # in no field of the JSON
LINE = LETTER * 63 + b"\n"


def join(port: int, encoding: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    if encoding == "tls":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    if encoding == "json":
        sock.sendall(b"/json\n")
        while b"welcome" not in sock.recv(65536):
            pass
    return sock


def take(sock: socket.socket) -> int:
    """How many of the letters that count have come."""
    count = 0
    with suppress(BlockingIOError, ssl.SSLWantReadError):
        while data := sock.recv(1 << 20):
            count += data.count(LETTER)
    return count


def flood(port: int, members: int, rounds: int, encoding: str) -> None:
    selector = selectors.DefaultSelector()
    socks = [join(port, encoding) for _ in range(members)]
    for sock in socks:
        selector.register(sock, selectors.EVENT_READ)
    for _ in range(rounds):
        expected = members * (members - 1) * LINES * LINE.count(LETTER)  # reads cut lines anywhere
        for sock in socks:
            sock.setblocking(True)
            sock.sendall(LINE * LINES)
            sock.setblocking(False)
        while expected:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                expected -= take(key.fileobj)
    for sock in socks:
        sock.close()


def cpu_per_delivery(members: int, rounds: int, encoding: str) -> float:
    """Seconds of the server process, its start included."""
    command = [sys.executable, "-m", "chatkit", "server", "--port", "0"]
    command += ["--tls-self-signed"] if encoding == "tls" else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        (port,) = re.findall(r":([0-9]+)$", server.stdout.readline())
        with subprocess.Popen(["cat"], stdin=server.stdout, stdout=subprocess.DEVNULL):
            flood(int(port), members, rounds, encoding)
            server.send_signal(signal.SIGTERM)
            _, _, usage = os.wait4(server.pid, 0)
            server.returncode = 0
    return (usage.ru_utime + usage.ru_stime) / (rounds * members * (members - 1) * LINES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encodings", nargs="*", default=["text", "json", "tls"], help="which; default all three")
    parser.add_argument("--members", type=int, default=200, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=60, help="default %(default)s")
    parser.add_argument("--repeat", type=int, default=3, help="take the median of so many; default %(default)s")
    options = parser.parse_args()
    medians = {}
    for encoding in options.encodings:
        costs = [cpu_per_delivery(options.members, options.rounds, encoding) for _ in range(options.repeat)]
        medians[encoding] = statistics.median(costs)
        ratio = f", {medians[encoding] / medians['text']:.2f} of text" if "text" in medians else ""
        print(f"{encoding}: {1e9 * medians[encoding]:.0f} ns per delivery{ratio}")


if __name__ == "__main__":
    main()
