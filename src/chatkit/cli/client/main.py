"""`chat-client`"""

from __future__ import annotations

import os
import secrets
import ssl
import sys
from pathlib import Path
from typing import Any

import click

from chatkit import ChatError, Client, ConnectionClosed, NameTaken, Notice, PasswordRefused, ProtocolError, Unconfirmed
from chatkit.cli.client.input import InputThread
from chatkit.cli.client.output import JsonOutput, OutputLost, QuietOutput, ReconnectOutput, TextOutput
from chatkit.cli.client.trust import KnownHosts, tls_fault, trust, trust_options
from chatkit.cli.common import (
    CHAT_CLIENT,
    CONTEXT,
    abandon,
    complain,
    fail,
    open_missing_streams,
    option,
    password_option,
    read_password,
    reason,
    version_option,
)
from chatkit.limits import Limits
from chatkit.net.sockets import host_and_port
from chatkit.protocol.names import check_name
from chatkit.protocol.replies import CUT_OFF, NOT_ADMITTED
from chatkit.tls import WrongCertificate

# What somebody types in a minute; a script that sends more finds out soon that nobody listens.
QUEUED_LINES = 100

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
@trust_options
@password_option
@option("--name", metavar="NAME", callback=_checked_name, help="What to be called; else it is a number, your port.")
@option(
    "--json", "as_json", is_flag=True, help="For scripts: print what happens as JSON JsonOutput, with ids and times."
)
@option("--once", is_flag=True, help="For scripts: send standard input, wait until the room has it, print no chat.")
@option(
    "--reconnect",
    is_flag=True,
    help=f"If the connection is lost, come back: under your name, told what you missed. Up to {QUEUED_LINES} lines that "
    "you type meanwhile are sent then.",
)
@option(
    "--max-line-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    default=Limits().max_line_bytes,
    help="Longest line to send; as the server's option.",
)
@version_option
def main(as_json: bool, once: bool, reconnect: bool, **options: Any) -> None:
    """Join a chat room: what you type goes to everyone else, what they say is shown.

    The line `exit`, or the end of input (Ctrl-D), leaves; `/help` lists what else there is. Works in a pipe as well:
    `echo hi | chat-client`, or `echo deployed | chat-client --once --name ci`.

    Each option can also be set in the environment, --port as CHATKIT_PORT.

    Exit status: 0 left, 1 could not connect (or, with --once or --reconnect, a line was not sent, or perhaps not
    heard), 2 wrong usage, 3 the connection was lost, 130 Ctrl-C.
    """
    if once and reconnect:
        raise click.UsageError("--once and --reconnect exclude each other: what is sent once has no time to wait.")
    open_missing_streams()
    if sys.stdout is None:
        fail(CHAT_CLIENT, "cannot show the chat: standard output is closed")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sign = f"/{secrets.token_hex(3)}"[: options["max_line_bytes"]]  # no command: told so, the room has heard all before
    output = (
        QuietOutput(sign)
        if once
        else JsonOutput()
        if as_json
        else ReconnectOutput(sys.stdin is not None and sys.stdin.isatty())
        if reconnect
        else TextOutput()
    )
    try:
        queue = QUEUED_LINES if reconnect else 0
        client = _join(events=as_json or once, reconnect=reconnect, queue=queue, **options)
        patient = reconnect and not os.isatty(0)
        typed = InputThread(client, options["max_line_bytes"], last=sign if once else "", patient=patient)
        status = _chat(client, typed, output)
        refused = output.refused or (typed.refused and (once or patient))
        status = NOT_TAKEN if status == LEFT and refused else status
    except KeyboardInterrupt:
        abandon(sys.stdout)
        status = INTERRUPTED
    sys.exit(status)


def _join(
    host: str, port: int, tls: bool, tls_ca: Path | None, tls_fingerprint: str | None, tls_trust: bool, **options: Any
) -> Client:
    """Become a member; ask about the server's certificate if that is wanted."""
    password = read_password(CHAT_CLIENT, options.pop("password_file"))
    hosts = KnownHosts(CHAT_CLIENT, (host, port)) if tls_trust else None
    while True:
        context = trust(CHAT_CLIENT, tls, tls_ca, tls_fingerprint, hosts.fingerprint if hosts else None)
        try:
            return _connect(host, port, tls=context or False, password=password, **options)
        except WrongCertificate as error:
            if not hosts:
                fail(CHAT_CLIENT, f"cannot trust {host_and_port((host, port))}: {error.args[0]}")
            hosts.ask(error.fingerprint)


def _connect(host: str, port: int, **options: Any) -> Client:
    where = host_and_port((host, port))
    try:
        return Client(host, port, **options)
    except WrongCertificate:
        raise
    except ssl.SSLError as error:
        fail(CHAT_CLIENT, f"cannot join {where}: {tls_fault(error)}")
    except (OSError, UnicodeError) as error:
        hint = "is chat-server running there?" if isinstance(error, ConnectionRefusedError) else ""
        fail(CHAT_CLIENT, f"cannot connect to {where}: {reason(error)}", hint)
    except ValueError as error:
        fail(CHAT_CLIENT, str(error))
    except NameTaken as error:
        fail(CHAT_CLIENT, str(error), "choose another with --name")
    except PasswordRefused as error:
        fail(CHAT_CLIENT, str(error), "--password-file FILE, or CHATKIT_PASSWORD", status=LOST)
    except (ConnectionClosed, ProtocolError) as error:
        fail(CHAT_CLIENT, f"disconnected: {error}", status=LOST)


def _chat(client: Client, typed: InputThread, output: TextOutput) -> int:
    """Show what others say until the conversation ends; the exit status."""
    last = ""
    try:
        output.begin()
        typed.start()
        for event in client:
            last = event.text if isinstance(event, Notice) else ""
            output.refused |= isinstance(event, Unconfirmed)
            if not typed.receive(event):
                output.show(event)
        if typed.left and not last.startswith((*NOT_ADMITTED, CUT_OFF)) and output.taken and not typed.kept():
            output.end()
            return LEFT
        lost = "left while away" if typed.kept() else "the server ended the conversation"
    except ChatError as error:
        lost = str(error)
    except ssl.SSLError as error:  # the certificate that a restarted server shows
        lost = tls_fault(error)
    except KeyboardInterrupt:
        if kept := typed.kept():
            complain(CHAT_CLIENT, f"{kept} lines of input were not sent")
        raise
    except OutputLost as error:
        abandon(sys.stdout)
        if error.reason:
            complain(CHAT_CLIENT, f"cannot show the chat: {error.reason}")
        return CANNOT_SHOW if error.reason else LEFT
    finally:
        client.close(grace=0.2)
    unsent = "" if last.startswith(NOT_ADMITTED) else typed.unsent()
    complain(CHAT_CLIENT, f"disconnected: {lost}{unsent}")
    return LOST
