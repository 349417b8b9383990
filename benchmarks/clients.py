"""How many short messages per second a client takes in, on one core: `python benchmarks/clients.py`.

A process of its own plays the server and sends as fast as it is read. docs/performance.md has the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from chatkit import AsyncClient, Client

SERVER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sock = listener.accept()[0]
for _ in range(int(sys.argv[1]) // 1000):
    sock.sendall(b"51044: How are you guys doing?\\n" * 1000)
sock.shutdown(socket.SHUT_WR)
sock.recv(1)
"""


def blocking(port: int) -> int:
    with Client(port=port) as client:
        return sum(1 for _ in client)


def asynchronous(port: int) -> int:
    async def count() -> int:
        async with AsyncClient(port=port) as client:
            return sum([1 async for _ in client])

    return asyncio.run(count())


def rate(count: Callable[[int], int], messages: int) -> float:
    """Messages per second of the processor's time."""
    command = [sys.executable, "-c", SERVER, str(messages)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        begun = time.process_time()
        assert count(port) == messages
        return messages / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=500_000, help="in thousands; default %(default)s")
    parser.add_argument("--repeat", type=int, default=3, help="take the median of so many; default %(default)s")
    options = parser.parse_args()
    for name, count in (("Client", blocking), ("AsyncClient", asynchronous)):
        rates = [rate(count, options.messages) for _ in range(options.repeat)]
        print(f"{name}: {statistics.median(rates):,.0f} messages/s")


if __name__ == "__main__":
    main()
