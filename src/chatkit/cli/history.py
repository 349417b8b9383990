"""`chat-history`: print and search the history of a chat-server."""

from __future__ import annotations

import re
import select
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from chatkit import Message
from chatkit.cli import pager
from chatkit.cli.common import (
    CONTEXT,
    FILE,
    Argument,
    Command,
    abandon,
    fail,
    option,
    reason,
    version_option,
    write_out,
)
from chatkit.cli.pager import PagerError
from chatkit.cli.times import checked_time
from chatkit.history.base import HistoryError
from chatkit.history.search import browse
from chatkit.protocol.formats import encode_json
from chatkit.protocol.sanitize import visible

COMMAND = "chat-history"
INTERRUPTED = 130
BLOCK_LINES = 500  # are written at once

HELP = """\
Print the messages in FILE, the history of a chat-server, which may be running.

\b
chat-history chat.db                            everything, oldest first
chat-history chat.db --last 20                  the last 20 messages
chat-history chat.db --since 2h --from ada      messages from ada in the last two hours
chat-history chat.db --since yesterday --until today
chat-history chat.db --last 10 --follow         the last 10, and each new one
chat-history chat.db --grep deploy --last 1     the last message with "deploy" in it
chat-history chat.db --json | jq -r .text       for scripts

TIME is 12:00 (today), yesterday, 'yesterday 18:00', 2026-11-22, '2026-11-22 08:00', 2026-11-22T08:00:00Z, or a while
ago: 90m, 2h, 3d. Times are local, unless they end with Z or a zone, and in JSON UTC. The output is UTF-8 in any locale.

On a terminal, output that doesn't fit the screen is shown by $PAGER, else less. FILE is only read.

FILE can also be set in the environment as CHATKIT_HISTORY, each option too, --since as CHATKIT_SINCE.

Exit status: 0 a message was found, 1 none was found or FILE can't be read, 2 wrong usage, 130 Ctrl-C.
"""

# Between two looks for new messages: soon for an eye, at a quarter of a percent of a core.
FOLLOW_SECONDS = 0.25

_UTF_16_UNIT = re.compile("....")
_UNSAFE = re.compile("[^ -~]+")


def _check_text(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Return `text` if it is valid Unicode."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("not valid UTF-8") from None
    return text


@click.command(COMMAND, cls=Command, context_settings=CONTEXT, help=HELP)
@click.argument("file", cls=Argument, type=FILE, envvar="CHATKIT_HISTORY")
@option("--last", type=click.IntRange(min=1), metavar="N", help="Print only the newest N matches.")
@option("--since", metavar="TIME", callback=checked_time, help="Print only messages since TIME.")
@option("--until", metavar="TIME", callback=checked_time, help="Print only messages before TIME.")
@option("--from", "sender", metavar="NAME", help="Print only messages from NAME; ada is Ada.")
@option(
    "--grep", "text", metavar="TEXT", callback=_check_text, help="Print only messages with TEXT in them, ignoring case."
)
@option("--follow", is_flag=True, help="Go on with new messages, until Ctrl-C, or until TIME. Without a pager.")
@option("--json", "as_json", is_flag=True, help="For scripts: print JSON Lines, like chat-client --json.")
@version_option
def main(file: Path, as_json: bool, follow: bool, **criteria: Any) -> None:
    """Print the messages of a history that match the options; exit with 0 if there is one, else 1."""
    if sys.stdout is None:
        fail(COMMAND, "cannot show the history: standard output is closed")
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if follow:
            criteria["wait"] = partial(_wait, criteria["until"])
        messages = browse(file, **criteria)
        first = next(messages, None)
        if not first:
            fail(COMMAND, f"nothing found in {file}", about=["file", *criteria])
        _show(chain([first], messages), as_json, follow)
    except HistoryError as error:
        fail(COMMAND, str(error), about=["file"])
    except BrokenPipeError:  # a reader like `head` has seen enough
        abandon(sys.stdout)
    except OSError as error:
        abandon(sys.stdout)
        fail(COMMAND, f"cannot show the history: {reason(error)}")
    except PagerError as error:
        fail(COMMAND, f"cannot run the pager in $PAGER: {error}")
    except KeyboardInterrupt:
        abandon(sys.stdout)
        sys.exit(INTERRUPTED)


def _show(messages: Iterator[Message], as_json: bool, follow: bool) -> None:
    """Print messages. On a terminal, lines that don't fit the screen go through a pager, unless more may follow."""
    lines = map(_json_line if as_json else _text_line, messages)
    if not as_json and not follow and sys.stdin and sys.stdin.isatty() and sys.stdout.isatty():
        pager.show(lines)
        return
    at_once = 1 if follow else BLOCK_LINES
    while block := "".join(f"{line}\n" for line in islice(lines, at_once)):
        write_out(block)


def _wait(until: float | None) -> bool:
    """Wait a moment for new messages. Returns whether some that were said before `until` may come.

    Raises:
        BrokenPipeError: nobody reads the output any more.
    """
    if until is not None and time.time() >= until:
        return False
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(sys.stdout, 0)  # for the end of a reader alone
        if poller.poll(FOLLOW_SECONDS * 1000):
            raise BrokenPipeError
    else:
        time.sleep(FOLLOW_SECONDS)
    return True


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
