"""The command `chat-server`."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any, NoReturn

import click

from chatkit import Limits, Server
from chatkit.cli.common import (
    CONTEXT,
    Command,
    fail,
    open_missing_streams,
    option,
    password_option,
    reason,
    version_option,
)
from chatkit.cli.server.options import (
    Protection,
    history_options,
    limit_options,
    make_history,
    make_protection,
    tls_options,
)
from chatkit.cli.server.transcript import LogPrinter, Printer, Transcript
from chatkit.cli.signals import end_on_signals, reload_on_hangup
from chatkit.history.base import HistoryError
from chatkit.net.descriptors import EXHAUSTED, raise_fd_limit
from chatkit.net.sockets import host_and_port

logger = logging.getLogger("chatkit")

COMMAND = "chat-server"
# The machine or the process has no more of these: the address isn't at fault.
LACKING = {*EXHAUSTED, errno.ENOMEM, errno.ENOBUFS}
# Together with Python's own exit, below the 5 s that an end may take.
GRACE_SECONDS = 4.0
END_SECONDS = 5.0  # then the process ends whatever hangs
PRINT_SECONDS = 0.3  # for the last lines, on each of stdout and stderr


@click.command(COMMAND, cls=Command, context_settings=CONTEXT)
@option(
    "--host", metavar="HOST", default="127.0.0.1", help="Address or name to listen on; 0.0.0.0 or :: for all networks."
)
@option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=12345,
    help="Port to listen on; 0 takes a free one.",
)
@option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    help="Worker threads; more than one is rarely faster.",
)
@option("--announce", is_flag=True, help="Announce joins, leaves and new names to members: `*** ada joined`.")
@tls_options
@password_option
@history_options
@limit_options
@version_option
def main(host: str, port: int, **options: Any) -> None:
    """Start a chat room, and print its messages.

    Join it with `chat-client`, or with plain `nc 127.0.0.1 12345`: each line goes to all other members, the line
    `exit` leaves, `/help` lists the room's commands. If others can reach it, standard error has the address for
    guests. Ctrl-C, SIGTERM, or the end of its terminal ends the room after every message has been delivered; SIGHUP
    otherwise reloads the certificate.

    Each option can also be set in the environment, --max-clients as CHATKIT_MAX_CLIENTS.
    """
    open_missing_streams()
    protecting = {name: options.pop(name) for name in ("tls_cert", "tls_key", "tls_self_signed", "password_file")}
    protection = make_protection(COMMAND, options["max_line_bytes"], **protecting)
    out, err = _printers()
    log = LogPrinter(err, COMMAND)
    try:
        options["history"] = make_history(COMMAND, options)
        server = _server(host, port, Transcript(out, protection.tell_operator), protection, **options)
        logger.addHandler(log)
        end = end_on_signals("SIGINT", "SIGTERM", "SIGBREAK", at_first=_start_watchdog)
        reload_on_hangup(partial(protection.reload, server), end)
        raise_fd_limit()
        server.serve_forever(GRACE_SECONDS)
    except KeyboardInterrupt:
        pass
    except MemoryError:
        fail(COMMAND, "not enough memory")
    except (OSError, UnicodeError) as error:
        _fail_to_listen(host, port, error)
    except HistoryError as error:
        fail(COMMAND, str(error), about=["history"])
    except RuntimeError as error:
        fail(COMMAND, str(error))
    finally:
        out.close(PRINT_SECONDS)
        if out.dropped:
            logger.warning("up to %d lines of the transcript were not printed", out.dropped)
        logger.removeHandler(log)
        err.close(PRINT_SECONDS)


def _printers() -> tuple[Printer, Printer]:
    """Return the printers of stdout and stderr, or end the command with one line."""
    try:
        return Printer(sys.stdout), Printer(sys.stderr)
    except RuntimeError as error:  # no thread is left
        fail(COMMAND, str(error))


def _fail_to_listen(host: str, port: int, error: OSError | UnicodeError) -> NoReturn:
    """End the command with one line that says why the server can't listen, or can't start at all."""
    code = error.errno if isinstance(error, OSError) else None
    if code in LACKING:
        fail(COMMAND, f"cannot start: {reason(error)}")
    hint = "is a server running already? --port 0 takes a free one" if code == errno.EADDRINUSE else ""
    fail(COMMAND, f"cannot listen on {host_and_port((host, port))}: {reason(error)}", hint, about=["host", "port"])


def _server(host: str, port: int, handler: Transcript, protection: Protection, **options: Any) -> Server:
    limits = {limit.name: options.pop(limit.name) for limit in fields(Limits)}
    try:
        bounds = Limits(**limits)
        return Server(
            host, port, handler=handler, limits=bounds, tls=protection.tls, password=protection.password, **options
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _end_by_force() -> None:
    """End the process whatever hangs; say so, unless standard error is full."""
    words = f"{COMMAND}: the end took longer than {END_SECONDS:g} seconds, so it was forced\n".encode()
    try:
        writer = threading.Thread(target=_write_words, args=(words,), daemon=True)
        writer.start()
        writer.join(PRINT_SECONDS)
    finally:
        os._exit(1)


def _write_words(words: bytes) -> None:
    with suppress(OSError):
        os.write(2, words)


def _start_watchdog() -> None:
    watchdog = threading.Timer(END_SECONDS, _end_by_force)
    watchdog.daemon = True
    watchdog.start()
