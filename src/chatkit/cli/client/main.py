"""The command `chat-client`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from chatkit import (
    ChatError,
    Client,
    ConnectionClosed,
    NameTaken,
    Notice,
    PasswordRefused,
    ProtocolError,
    Refused,
    Unconfirmed,
)
from chatkit.cli.client.address import address_argument, apply_address
from chatkit.cli.client.cursor import NO_PLACE, Cursor, Place, checked_place
from chatkit.cli.client.front import Look, dropping_typed, look_options, open_front, open_input
from chatkit.cli.client.input import InputThread
from chatkit.cli.client.output import CursorOutput, JsonOutput, Output, OutputLost, QuietOutput
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
    complain,
    fail,
    open_missing_streams,
    option,
    password_option,
    read_password,
    reason,
    version_option,
)
from chatkit.cli.signals import end_on_signals
from chatkit.limits import Limits
from chatkit.net.sockets import host_and_port
from chatkit.protocol.names import check_name
from chatkit.protocol.replies import CUT_OFF, NOT_ADMITTED

if TYPE_CHECKING:
    from pathlib import Path

# Enough for a minute of typing; a script that sends more gets an error soon.
QUEUED_LINES = 100

# The options that lead to a server.
PLACE = ("host", "port", "tls", "tls_ca", "tls_fingerprint", "tls_trust")

LEFT, CANNOT_SHOW, NOT_SENT, LOST, INTERRUPTED = 0, 1, 1, 3, 130


def _checked_name(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None:
        try:
            check_name(name)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return name


@click.command(CHAT_CLIENT, cls=Command, context_settings=CONTEXT)
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
    place: Place,
    cursor: Path | None,
    plain: bool,
    color: str,
    timestamps: str | None,
    no_bell: bool,
    **options: Any,
) -> None:
    """Join a chat room: send lines to all other members, and show their lines.

    ADDRESS is HOST, HOST:PORT, chat://HOST:PORT, or with TLS chats://HOST:PORT#SHA256, as chat-server prints it for
    guests. It stands for --host, --port, --tls and --tls-fingerprint. IPv6: [::1]:PORT.

    The line `exit`, or the end of input (Ctrl-D), leaves; `/help` lists the room's commands. Works in a pipe, too:
    `echo hi | chat-client`, or `echo deployed | chat-client --once --name ci`.

    On a terminal, with the extra `terminal`, there is a line editor: Tab completes, Up and Ctrl-R bring lines back, and
    `/help` lists commands of its own, too.

    Each option can also be set in the environment, --port as CHATKIT_PORT.

    Exit status: 0 left, 1 could not connect (or, with --once or --reconnect, a line was not sent or not confirmed),
    2 wrong usage, 3 the connection was lost, 130 Ctrl-C.
    """
    if once and reconnect:
        raise click.UsageError("--once and --reconnect exclude each other: --once doesn't wait for a server.")
    if (cursor or place != NO_PLACE) and (once or not as_json):
        raise click.UsageError("--after and --cursor need --json, without --once")
    apply_address(options)
    open_missing_streams()
    if sys.stdout is None:
        fail(CHAT_CLIENT, "cannot show the chat: standard output is closed")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    follower = Cursor(cursor, place) if cursor else None
    options["after"], options["epoch"] = follower.place if follower else place
    end_on_signals("SIGINT")
    try:
        queue = QUEUED_LINES if reconnect else 0
        client = _join(events=as_json or once, reconnect=reconnect, queue=queue, **options)
        is_scripted = reconnect and not os.isatty(0)
        output: Output
        if once or as_json:
            probe = f"/{os.urandom(3).hex()}"[: options["max_line_bytes"]] if once else ""
            input_thread = open_input(client, options["max_line_bytes"], probe, waits_for_return=is_scripted)
            output = QuietOutput(probe) if once else CursorOutput(follower) if follower else JsonOutput()
        else:
            look = Look(plain, color, timestamps, no_bell)
            output, input_thread = open_front(
                client, look, name=options["name"], reconnect=reconnect, max_line_bytes=options["max_line_bytes"]
            )
        status = _chat(client, input_thread, output)
        has_refusal = output.has_refusal or (input_thread.has_refused_line and (once or is_scripted))
        status = NOT_SENT if status == LEFT and has_refusal else status
    except KeyboardInterrupt:
        abandon(sys.stdout)
        status = INTERRUPTED
    sys.exit(status)


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
            return _connect(host, port, tls=context or False, password=password, **options)
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
            return Client(host, port, **options)
    except wrong_certificate():
        raise
    except tls_error() as error:
        fail(CHAT_CLIENT, f"cannot join {where}: {describe_tls_error(error)}", about=PLACE)
    except (OSError, UnicodeError) as error:
        hint = "is chat-server running there?" if isinstance(error, ConnectionRefusedError) else ""
        fail(CHAT_CLIENT, f"cannot connect to {where}: {reason(error)}", hint, about=PLACE)
    except ValueError as error:
        fail(CHAT_CLIENT, str(error))
    except (NameTaken, Refused) as error:
        fail(CHAT_CLIENT, str(error), "choose another with --name", about=["name"])
    except (ConnectionClosed, ProtocolError) as error:
        fail(CHAT_CLIENT, f"disconnected: {error}", about=PLACE, status=LOST)


def _chat(client: Client, input_thread: InputThread, output: Output) -> int:
    """Show events until the conversation ends. Return the exit status."""
    last = ""
    try:
        output.begin()
        input_thread.start()
        try:
            for event in output.events(client):
                last = event.text if isinstance(event, Notice) else ""
                output.has_refusal |= isinstance(event, Unconfirmed)
                if not input_thread.receive(event):
                    output.show(event)
        finally:
            input_thread.stop()
        queued = input_thread.count_queued()
        is_forced = last.startswith((*NOT_ADMITTED, CUT_OFF))
        if input_thread.has_left and output.is_confirmed and not is_forced and not queued:
            output.end()
            return LEFT
        lost = "left while disconnected" if queued else "the server ended the conversation"
    except ChatError as error:
        lost = str(error)
    except tls_error() as error:  # a restarted server has another certificate
        lost = describe_tls_error(error)
    except KeyboardInterrupt:
        if queued := input_thread.count_queued():
            complain(CHAT_CLIENT, f"{queued} lines of input were not sent")
        raise
    except OutputLost as error:
        abandon(sys.stdout)
        if error.problem:
            complain(CHAT_CLIENT, error.problem)
        return CANNOT_SHOW if error.problem else LEFT
    finally:
        output.close()
        client.close(grace=0.2)
    unsent = "" if last.startswith(NOT_ADMITTED) else input_thread.describe_unsent()
    complain(CHAT_CLIENT, f"disconnected: {lost}{unsent}")
    return LOST
