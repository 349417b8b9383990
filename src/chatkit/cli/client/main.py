"""The command `chat-client`."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from chatkit import Client, ConnectionClosed, NameTaken, PasswordRefused, ProtocolError, Refused
from chatkit.cli.client.address import address_argument, apply_address
from chatkit.cli.client.any_server import AnyServerClient, describe_needs
from chatkit.cli.client.conversation import LOST, Conversation
from chatkit.cli.client.cursor import NO_PLACE, Cursor, Place, checked_place
from chatkit.cli.client.front import Look, dropping_typed, look_options, open_front, open_input
from chatkit.cli.client.input import InputSettings
from chatkit.cli.client.output import CursorOutput, JsonOutput, Output, QuietOutput
from chatkit.cli.client.password import PasswordPrompt
from chatkit.cli.client.trust import (
    KnownHosts,
    describe_tls_error,
    make_context,
    tls_error,
    trust_options,
    wrong_certificate,
)
from chatkit.cli.common import (
    CHAT_CLIENT,
    CONTEXT,
    FILE,
    Command,
    abandon,
    fail,
    open_missing_streams,
    option,
    password_option,
    read_password,
    reason,
    version_option,
)
from chatkit.cli.signals import end_by, end_on_signals
from chatkit.client.endpoint import EXIT_SECONDS, NoAnswer
from chatkit.limits import Limits
from chatkit.net.sockets import host_and_port
from chatkit.protocol.names import check_name

if TYPE_CHECKING:
    from pathlib import Path

# Enough for a minute of typing; a script that sends more gets an error soon.
QUEUED_LINES = 100

# The options that lead to a server.
PLACE = ("host", "port", "tls", "tls_ca", "tls_fingerprint", "tls_trust")


def _checked_name(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None:
        try:
            check_name(name)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return name


HELP = """\
Join a chat room: send lines to all other members, and show their lines.

ADDRESS is HOST, HOST:PORT, chat://HOST:PORT, or with TLS chats://HOST:PORT#SHA256, as chat-server prints it for guests.
It stands for --host, --port, --tls and --tls-fingerprint. IPv6: [::1]:PORT.

The line `exit`, or the end of input (Ctrl-D), leaves; so does SIGTERM. `/help` lists the room's commands. Works in a
pipe, too: `echo hi | chat-client`, or `echo deployed | chat-client --once --name ci`.

On a terminal, with the extra `terminal`, there is a line editor: Tab completes, Up and Ctrl-R bring lines back, and
`/help` lists commands of its own, too.

Each option can also be set in the environment, --port as CHATKIT_PORT.

\b
Exit status:
    0  left, and the server confirmed it
    1  could not connect, could not read the input or show the chat
    1  left, but the server did not confirm it in time, or input came after `exit`
    1  with --once, or --reconnect in a pipe: a line was not sent or not confirmed
    2  wrong usage
    3  the connection was lost, or the server ended the conversation
  130  ended by Ctrl-C
"""


@click.command(CHAT_CLIENT, cls=Command, context_settings=CONTEXT, help=HELP)
@address_argument
@option("--host", metavar="HOST", default="127.0.0.1", help="Address or name of the server.")
@option("--port", type=click.IntRange(1, 65535), metavar="PORT", default=12345, help="Port of the server.")
@trust_options
@password_option
@option("--name", metavar="NAME", callback=_checked_name, help="Your name in the room; by default your TCP port.")
@option("--json", "as_json", is_flag=True, help="For scripts: print events as JSON Lines, with ids and times.")
@option(
    "--after",
    "place",
    metavar="ID[@EPOCH]",
    callback=checked_place,
    help="With --json: first the messages after this one; if the room's ids began anew since EPOCH, all that it keeps.",
)
@option(
    "--cursor",
    type=FILE,
    metavar="FILE",
    help="With --json: go on after the last message that was printed, which FILE keeps; the first time, after --after.",
)
@option("--once", is_flag=True, help="For scripts: send standard input, wait until the room has it, print no chat.")
@option(
    "--no-input", is_flag=True, help="Read no input, for cron, nohup or a script's `&`: stay until a signal or the end."
)
@option("--count", type=click.IntRange(min=1), metavar="N", help="Leave after N messages of members, private ones too.")
@option(
    "--exit-seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=EXIT_SECONDS,
    help="How long to wait for the server after `exit`, Ctrl-D or the end of input, and with --once for each line.",
)
@option(
    "--reconnect",
    is_flag=True,
    help="Come back when the connection is lost, under your name, and show the messages that you missed. Up to "
    f"{QUEUED_LINES} lines that you type meanwhile are sent after the return.",
)
@option(
    "--max-line-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    default=Limits().max_line_bytes,
    help="Longest line to send; set it as on the server.",
)
@look_options
@version_option
def main(
    as_json: bool,
    once: bool,
    reconnect: bool,
    no_input: bool,
    count: int | None,
    exit_seconds: float,
    place: Place,
    cursor: Path | None,
    plain: bool,
    color: str,
    timestamps: str | None,
    no_bell: bool,
    **options: Any,
) -> None:
    """Join a chat room; end the process with an exit status."""
    if once:
        _check_once(reconnect, no_input or bool(count))
    if (cursor or place != NO_PLACE) and (once or not as_json):
        raise click.UsageError("--after and --cursor need --json, without --once")
    apply_address(options)
    _check_streams()
    follower = Cursor(cursor, place) if cursor else None
    options["after"], options["epoch"] = follower.place if follower else place
    look = Look(plain, color, timestamps, no_bell)
    is_scripted = reconnect and not os.isatty(0)
    probe = f"/{os.urandom(3).hex()}"[: options["max_line_bytes"]] if once else ""
    settings = InputSettings(options["max_line_bytes"], exit_seconds, probe, is_scripted, not no_input)
    try:
        end_on_signals("SIGINT", "SIGTERM", "SIGHUP")
        client = _join(events=as_json or once, reconnect=reconnect, queue=QUEUED_LINES if reconnect else 0, **options)
        output: Output
        if once or as_json:
            input_thread = open_input(client, settings)
            output = QuietOutput(probe) if once else CursorOutput(follower) if follower else JsonOutput()
        else:
            output, input_thread = open_front(client, look, settings, name=options["name"], reconnect=reconnect)
        sys.exit(Conversation(client, input_thread, output, count).run())
    except KeyboardInterrupt as error:
        abandon(sys.stdout)
        end_by(error)


def _check_once(reconnect: bool, shows: bool) -> None:
    if reconnect:
        raise click.UsageError("--once and --reconnect exclude each other: --once doesn't wait for a server.")
    if shows:
        raise click.UsageError("--once excludes --no-input and --count: it sends its input, and shows nothing.")


def _check_streams() -> None:
    """Open missing standard streams, and end the command if the chat can't be shown."""
    open_missing_streams()
    if sys.stdout is None:
        fail(CHAT_CLIENT, "cannot show the chat: standard output is closed")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _join(
    host: str, port: int, tls: bool, tls_ca: Path | None, tls_fingerprint: str | None, tls_trust: bool, **options: Any
) -> Client:
    """Connect. Ask about an unknown certificate (--tls-trust) or for a missing password, and connect again."""
    password = read_password(CHAT_CLIENT, options.pop("password_file"), options["max_line_bytes"])
    prompt = None if password else PasswordPrompt(options["max_line_bytes"])
    hosts = KnownHosts(CHAT_CLIENT, (host, port)) if tls_trust else None
    while True:
        context = make_context(CHAT_CLIENT, tls, tls_ca, tls_fingerprint, hosts.fingerprint if hosts else None)
        try:
            # A line before `exit` may still wait to be sent: `Conversation` counts the time, not the client.
            return _connect(host, port, tls=context or False, password=password, exit_seconds=math.inf, **options)
        except PasswordRefused as error:
            if not prompt or not prompt.can_ask:
                fail(CHAT_CLIENT, str(error), "--password-file FILE, or CHATKIT_PASSWORD", status=LOST)
            password = prompt.ask(error)
        except wrong_certificate() as error:
            if not hosts:
                fail(CHAT_CLIENT, f"cannot trust {host_and_port((host, port))}: {error.args[0]}", about=PLACE)
            hosts.ask(error.fingerprint)


def _connect(host: str, port: int, **options: Any) -> Client:
    """Connect, or end the command with one line.

    Raises:
        WrongCertificate: the server's certificate isn't the trusted one.
        PasswordRefused: the password is wrong or missing.
    """
    where = host_and_port((host, port))
    try:
        with dropping_typed():
            return AnyServerClient(host, port, **options)
    except wrong_certificate():
        raise
    except tls_error() as error:
        fail(CHAT_CLIENT, f"cannot join {where}: {describe_tls_error(error)}", about=PLACE)
    except NoAnswer:
        problem = f"the server at {where} doesn't know {describe_needs(options['password'])}: it hasn't answered"
        fail(CHAT_CLIENT, problem, "without options chat-client talks to any server of lines", about=PLACE)
    except (OSError, UnicodeError) as error:
        hint = "is chat-server running there?" if isinstance(error, ConnectionRefusedError) else ""
        fail(CHAT_CLIENT, f"cannot connect to {where}: {reason(error)}", hint, about=PLACE)
    except ValueError as error:
        fail(CHAT_CLIENT, str(error))
    except (NameTaken, Refused) as error:
        fail(CHAT_CLIENT, str(error), "choose another with --name", about=["name"])
    except ProtocolError as error:
        hint = f"only a server of chatkit knows {describe_needs(options['password'])}"
        fail(CHAT_CLIENT, f"disconnected: {error}", hint, about=PLACE, status=LOST)
    except ConnectionClosed as error:
        fail(CHAT_CLIENT, f"disconnected: {error}", about=PLACE, status=LOST)
