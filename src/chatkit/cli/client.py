"""`chat-client`"""

from __future__ import annotations

import os
import selectors
import sys
import threading
from collections import deque

import click

from chatkit import Client, ConnectionClosed, Notice, ProtocolError
from chatkit.addresses import host_and_port
from chatkit.cli.common import CONTEXT, abandon, complain, fail, open_missing_streams, option, reason, version_option
from chatkit.limits import Limits
from chatkit.protocol import BadLine, Line, LineDecoder, visible

COMMAND = "chat-client"
READ_BYTES = 64 * 1024

# The last word of a server that ends a conversation against its client's will.
REFUSALS = ("the room is full", "too many members", "the server has no descriptor", "you were cut off")

LEFT, CANNOT_SHOW, LOST, INTERRUPTED = 0, 1, 3, 130


@click.command(context_settings=CONTEXT)
@option("--host", metavar="HOST", default="127.0.0.1", help="Address or name of the server.")
@option("--port", type=click.IntRange(1, 65535), metavar="PORT", default=12345, help="Port of the server.")
@option(
    "--max-line-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    default=Limits().max_line_bytes,
    help="Longest line to send; as the server's option.",
)
@version_option
def main(host: str, port: int, max_line_bytes: int) -> None:
    """Join a chat room: what you type goes to everyone else, what they say is shown.

    The line `exit`, or the end of input (Ctrl-D), leaves. Works in a pipe as well: `echo hi | chat-client`.

    Each option can also be set in the environment, --port as CHATKIT_PORT.

    Exit status: 0 left, 1 could not connect, 2 wrong usage, 3 the connection was lost, 130 Ctrl-C.
    """
    open_missing_streams()
    if sys.stdout is None:
        fail(COMMAND, "cannot show the chat: standard output is closed")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        client = _connect(host, port, max_line_bytes)
        status = _chat(client, Typing(client, max_line_bytes))
    except KeyboardInterrupt:
        abandon(sys.stdout)
        status = INTERRUPTED
    sys.exit(status)


def _connect(host: str, port: int, max_line_bytes: int) -> Client:
    try:
        return Client(host, port, max_line_bytes=max_line_bytes)
    except (OSError, UnicodeError) as error:
        hint = "is chat-server running there?" if isinstance(error, ConnectionRefusedError) else ""
        fail(COMMAND, f"cannot connect to {host_and_port((host, port))}: {reason(error)}", hint)


def _chat(client: Client, typing: Typing) -> int:
    """Show what others say until the conversation ends; the exit status."""
    try:
        _show("Connected to chat server. Type 'exit' to leave.")
        typing.start()
        refused = False
        for event in client:
            refused = isinstance(event, Notice) and event.text.startswith(REFUSALS)
            _show(visible(str(event)))
        if typing.left and not refused:
            _show("Disconnected from server.")
            return LEFT
        lost = "the server ended the conversation"
    except (ConnectionClosed, ProtocolError) as error:
        lost = str(error)
    except _OutputLost as error:
        abandon(sys.stdout)
        if error.reason:
            complain(COMMAND, f"cannot show the chat: {error.reason}")
        return CANNOT_SHOW if error.reason else LEFT
    finally:
        client.close(grace=0.2)
    complain(COMMAND, f"disconnected: {lost}{typing.unsent()}")
    return LOST


class _OutputLost(Exception):
    """Standard output takes no more. reason: None when who read it has seen enough (`chat-client | head`)."""

    def __init__(self, error: OSError) -> None:
        self.reason = None if isinstance(error, BrokenPipeError) else reason(error)


def _show(line: str) -> None:
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError as error:
        raise _OutputLost(error) from None


class Typing(threading.Thread):
    """Sends what is typed, line by line, from a thread of its own, so that others' lines show at any time.

    left: whether the end is ours: the line `exit`, or the end of input.

    Daemonic, and reads its descriptor directly: when the server ends first, the process leaves at once,
    even while this thread waits for input, and what is typed after that belongs to the shell.
    """

    def __init__(self, client: Client, max_line_bytes: int) -> None:
        super().__init__(daemon=True)
        self.left = False
        self._client = client
        self._decoder = LineDecoder(max_line_bytes, finds_foreign=False)
        self._lines = deque[Line]()
        self._number = 0

    def run(self) -> None:
        try:
            while not self.left:
                data = self._read()
                self._lines += self._decoder.receive_data(data) if data else self._decoder.receive_eof()
                self._send_lines()
                if not data and not self.left:
                    self.left = True
                    self._client.send_eof()
        except ConnectionClosed:
            pass  # whoever receives hears it too

    def unsent(self) -> str:
        """What to say about lines that were read but can't be sent any more. Only after the client is closed."""
        self.join(0.1)  # it may wait for input for ever
        return f"; {len(self._lines)} lines of input were not sent" if self._lines else ""

    def _read(self) -> bytes:
        try:
            while True:
                try:
                    return os.read(0, READ_BYTES)
                except BlockingIOError:  # somebody made it non-blocking
                    with selectors.DefaultSelector() as selector:
                        selector.register(0, selectors.EVENT_READ)
                        selector.select()
        except OSError as error:
            complain(COMMAND, f"cannot read the input: {reason(error)}")
            return b""

    def _send_lines(self) -> None:
        while self._lines and not self.left:
            line = self._lines[0]
            self._number += 1
            try:
                if isinstance(line, BadLine):
                    raise ValueError(f"not sent: {line.reason}")
                assert isinstance(line, str)
                self.left = line.strip() == "exit"
                self._client.send(line)
            except ValueError as error:
                complain(COMMAND, f"line {self._number} of the input was {error}")
            self._lines.popleft()
