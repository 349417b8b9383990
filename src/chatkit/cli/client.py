"""`chat-client`"""

from __future__ import annotations

import sys
from typing import Any

import click

from chatkit import Client, ConnectionClosed, NameTaken, Notice, ProtocolError
from chatkit.addresses import host_and_port
from chatkit.cli.common import (
    CHAT_CLIENT,
    CONTEXT,
    abandon,
    complain,
    fail,
    open_missing_streams,
    option,
    reason,
    version_option,
)
from chatkit.cli.screen import Lines, Nothing, OutputLost, Screen
from chatkit.cli.stdin import Typing
from chatkit.limits import Limits
from chatkit.names import check_name

# The last word of a server that ends a conversation against its client's will.
REFUSALS = ("the room is full", "too many members", "the server has no descriptor", "you were cut off")

LEFT, CANNOT_SHOW, NOT_TAKEN, LOST, INTERRUPTED = 0, 1, 1, 3, 130


def _checked_name(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None:
        try:
            check_name(name)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return name


@click.command(context_settings=CONTEXT)
@option("--host", metavar="HOST", default="127.0.0.1", help="Address or name of the server.")
@option("--port", type=click.IntRange(1, 65535), metavar="PORT", default=12345, help="Port of the server.")
@option("--name", metavar="NAME", callback=_checked_name, help="What to be called; else it is a number, your port.")
@option("--json", "as_json", is_flag=True, help="For scripts: print what happens as JSON Lines, with ids and times.")
@option("--once", is_flag=True, help="For scripts: send standard input, wait until the room has it, print no chat.")
@option(
    "--max-line-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    default=Limits().max_line_bytes,
    help="Longest line to send; as the server's option.",
)
@version_option
def main(host: str, port: int, name: str | None, as_json: bool, once: bool, max_line_bytes: int) -> None:
    """Join a chat room: what you type goes to everyone else, what they say is shown.

    The line `exit`, or the end of input (Ctrl-D), leaves; `/help` lists what else there is. Works in a pipe as well:
    `echo hi | chat-client`, or `echo deployed | chat-client --once --name ci`.

    Each option can also be set in the environment, --port as CHATKIT_PORT.

    Exit status: 0 left, 1 could not connect (or, with --once, the room didn't take a line), 2 wrong usage, 3 the
    connection was lost, 130 Ctrl-C.
    """
    open_missing_streams()
    if sys.stdout is None:
        fail(CHAT_CLIENT, "cannot show the chat: standard output is closed")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    screen = Nothing() if once else Lines() if as_json else Screen()
    try:
        client = _connect(host, port, name=name, events=as_json or once, max_line_bytes=max_line_bytes)
        typing = Typing(client, max_line_bytes, last="/json" if once else "")
        status = _chat(client, typing, screen)
        status = NOT_TAKEN if once and status == LEFT and (typing.refused or screen.refused) else status
    except KeyboardInterrupt:
        abandon(sys.stdout)
        status = INTERRUPTED
    sys.exit(status)


def _connect(host: str, port: int, **options: Any) -> Client:
    try:
        return Client(host, port, **options)
    except (OSError, UnicodeError) as error:
        hint = "is chat-server running there?" if isinstance(error, ConnectionRefusedError) else ""
        fail(CHAT_CLIENT, f"cannot connect to {host_and_port((host, port))}: {reason(error)}", hint)
    except NameTaken as error:
        fail(CHAT_CLIENT, str(error), "choose another with --name")
    except (ConnectionClosed, ProtocolError) as error:
        fail(CHAT_CLIENT, f"disconnected: {error}", status=LOST)


def _chat(client: Client, typing: Typing, screen: Screen) -> int:
    """Show what others say until the conversation ends; the exit status."""
    try:
        screen.begin()
        typing.start()
        refused = False
        for event in client:
            refused = isinstance(event, Notice) and event.text.startswith(REFUSALS)
            screen.show(event)
        if typing.left and not refused and screen.taken:
            screen.end()
            return LEFT
        lost = "the server ended the conversation"
    except (ConnectionClosed, ProtocolError) as error:
        lost = str(error)
    except OutputLost as error:
        abandon(sys.stdout)
        if error.reason:
            complain(CHAT_CLIENT, f"cannot show the chat: {error.reason}")
        return CANNOT_SHOW if error.reason else LEFT
    finally:
        client.close(grace=0.2)
    complain(CHAT_CLIENT, f"disconnected: {lost}{typing.unsent()}")
    return LOST
