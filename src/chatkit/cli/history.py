"""`chat-history`: print and search the history of a chat-server."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import click

from chatkit import Message
from chatkit.cli.common import CONTEXT, FILE, Command, abandon, fail, option, reason, version_option
from chatkit.history.base import HistoryError
from chatkit.history.search import browse
from chatkit.protocol.formats import encode_json
from chatkit.protocol.sanitize import visible

COMMAND = "chat-history"
INTERRUPTED = 130

HELP = """\
Print the messages in FILE, the history of a chat-server, which may be running.

\b
chat-history chat.db                            everything, oldest first
chat-history chat.db --last 20                  the last 20 messages
chat-history chat.db --since 2h --from ada      messages from ada in the last two hours
chat-history chat.db --grep deploy --last 1     the last message with "deploy" in it
chat-history chat.db --json | jq -r .text       for scripts

On a terminal $PAGER shows the messages, else less. Times are local, in JSON UTC. FILE is only read.

Each option can also be set in the environment, --since as CHATKIT_SINCE.

Exit status: 0 a message was found, 1 none was found or FILE can't be read, 2 wrong usage, 130 Ctrl-C.
"""

_AGO = re.compile(r"([0-9]{1,9})([mhd])")
_UTF_16_UNIT = re.compile("....")
_UNSAFE = re.compile("[^ -~]+")
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}


def _parse_time(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """Return the Unix time that `text` says, in seconds."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        return time.time() - int(ago[1]) * _UNIT_SECONDS[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):
        examples = "2026-11-22, '2026-11-22 08:00', 2026-11-22T08:00:00Z, 90m, 2h or 3d"
        raise click.BadParameter(f"{text!r} is not a time; write it as {examples}") from None


def _check_text(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Return `text` if it is valid Unicode."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("not valid UTF-8") from None
    return text


@click.command(COMMAND, cls=Command, context_settings=CONTEXT, help=HELP)
@click.argument("file", type=FILE)
@option("--last", type=click.IntRange(min=1), metavar="N", help="Print only the newest N matches.")
@option(
    "--since",
    metavar="TIME",
    callback=_parse_time,
    help="Print only messages since TIME: 2026-11-22, '2026-11-22 08:00', 2026-11-22T08:00:00Z "
    "(local time without the Z), or a while ago: 90m, 2h, 3d.",
)
@option("--from", "sender", metavar="NAME", help="Print only messages from NAME; ada is Ada.")
@option(
    "--grep", "text", metavar="TEXT", callback=_check_text, help="Print only messages with TEXT in them, ignoring case."
)
@option("--json", "as_json", is_flag=True, help="For scripts: print JSON Lines, like chat-client --json.")
@version_option
def main(file: Path, as_json: bool, **criteria: Any) -> None:
    """Print the messages of a history that match the options; exit with 0 if there is one, else 1."""
    if sys.stdout is None:
        fail(COMMAND, "cannot show the history: standard output is closed")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        messages = browse(file, **criteria)
        first = next(messages, None)
        if not first:
            fail(COMMAND, f"nothing found in {file}")
        _show(chain([first], messages), as_json)
    except HistoryError as error:
        fail(COMMAND, str(error))
    except BrokenPipeError:  # a reader like `head` has seen enough
        abandon(sys.stdout)
    except OSError as error:
        abandon(sys.stdout)
        fail(COMMAND, f"cannot show the history: {reason(error)}")
    except KeyboardInterrupt:
        abandon(sys.stdout)
        sys.exit(INTERRUPTED)


def _show(messages: Iterator[Message], as_json: bool) -> None:
    """Print messages, lines on a terminal through a pager."""
    lines = map(_json_line if as_json else _text_line, messages)
    if not as_json and sys.stdout.isatty():
        _check_pager()
        click.echo_via_pager(_without_last_newline(lines))
        return
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _check_pager() -> None:
    """End the command if $PAGER can't be parsed."""
    try:
        shlex.split(os.environ.get("PAGER", ""))
    except ValueError as error:
        fail(COMMAND, f"cannot run the pager: {str(error).lower()} in $PAGER")


def _without_last_newline(lines: Iterator[str]) -> Iterator[str]:
    """Yield text in which every line but the last ends with a newline: Click adds that one."""
    yield next(lines)
    for line in lines:
        yield f"\n{line}"


def _text_line(message: Message) -> str:
    """Return a message as people read it."""
    assert message.time is not None
    return f"{_local_time(int(message.time))} {visible(str(message))}"


@lru_cache(maxsize=2)
def _local_time(seconds: int) -> str:
    """Return a Unix time as local date and time."""
    return datetime.fromtimestamp(seconds).isoformat(" ")


def _json_line(message: Message) -> str:
    """Return a message as JSON in ASCII, like chat-client: the same in every locale, and harmless on a terminal."""
    line = encode_json(message).decode().rstrip("\n")
    return _UNSAFE.sub(lambda found: _UTF_16_UNIT.sub(r"\\u\g<0>", found[0].encode("utf-16-be").hex()), line)
