"""`chat-server`"""

from __future__ import annotations

import errno
import logging
import signal
import sys
from dataclasses import fields
from typing import Any

import click

from chatkit import Limits, Server
from chatkit.addresses import host_and_port
from chatkit.cli.common import CONTEXT, fail, open_missing_streams, option, reason, version_option
from chatkit.cli.printer import LogPrinter, Printer, Transcript

logger = logging.getLogger("chatkit")

COMMAND = "chat-server"
PRINT_SECONDS = 0.3  # for the last lines, of the 5 s in which the server ends


def _limit_options(command: Any) -> Any:
    """One option for each of `Limits`."""
    for limit in reversed(fields(Limits)):
        kind = click.IntRange(min=1) if isinstance(limit.default, int) else click.FloatRange(min=0, min_open=True)
        name, unit = "--" + limit.name.replace("_", "-"), limit.name.rpartition("_")[2].upper()
        command = option(name, type=kind, metavar=unit, default=limit.default, help=limit.metadata["help"])(command)
    return command


@click.command(context_settings=CONTEXT)
@option(
    "--host", metavar="HOST", default="127.0.0.1", help="Address or name to listen on; 0.0.0.0 or :: for every network."
)
@option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=12345,
    help="Port to listen on; 0 takes a free one.",
)
@option("--threads", type=click.IntRange(min=1), metavar="N", default=1, help="Workers; more than 1 rarely pays.")
@_limit_options
@version_option
def main(host: str, port: int, threads: int, **limits: Any) -> None:
    """Start a chat room and print what is said in it.

    Join it with `chat-client`, or with nothing but `nc 127.0.0.1 12345`: each line goes to everyone else, the line
    `exit` leaves. Ctrl-C ends the room, after everybody got what was said.

    Each option can also be set in the environment, --max-clients as CHATKIT_MAX_CLIENTS.
    """
    open_missing_streams()
    out, err = Printer(sys.stdout), Printer(sys.stderr)
    log = LogPrinter(err, COMMAND)
    logger.addHandler(log)
    server = Server(host, port, handler=Transcript(out), limits=Limits(**limits), threads=threads)
    try:
        _end_on_signals()
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        hint = "is a server running already? --port 0 takes a free one" if error.errno == errno.EADDRINUSE else ""
        fail(COMMAND, f"cannot listen on {host_and_port((host, port))}: {reason(error)}", hint)
    except RuntimeError as error:
        fail(COMMAND, str(error))
    finally:
        out.close(PRINT_SECONDS)
        if out.dropped:
            logger.warning("%d lines of the transcript were not printed", out.dropped)
        logger.removeHandler(log)
        err.close(PRINT_SECONDS)


def _end_on_signals() -> None:
    """The first Ctrl-C or SIGTERM raises KeyboardInterrupt; a second one kills at once."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def end(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt

    for each in signals:
        signal.signal(each, end)
