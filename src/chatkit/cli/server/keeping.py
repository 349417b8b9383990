"""What `chat-server` keeps of what is said, and tells newcomers."""

from __future__ import annotations

from typing import Any

import click

from chatkit.cli.common import FILE, option
from chatkit.history.base import History


def history_options(command: Any) -> Any:
    """The options for `history_of`, and `history_required` and `replay`."""
    for add in (
        option(
            "--replay",
            type=click.IntRange(min=0),
            metavar="N",
            default=0,
            help="Tell newcomers the last N messages first.",
        ),
        option(
            "--history-required",
            is_flag=True,
            help="Refuse messages while they can't be kept (full disk ...); else the chat goes on without.",
        ),
        option(
            "--history-days", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Keep messages for N days."
        ),
        option("--history-keep", type=click.IntRange(min=1), metavar="N", help="Keep the newest N messages; else all."),
        option(
            "--history-sync",
            type=click.Choice(["normal", "full"]),
            default="normal",
            help="normal: a crash of the server loses nothing that anyone has seen, a power failure at most the last 10 seconds. "
            "full: that neither, but each message waits for the disk.",
        ),
        option(
            "--history",
            type=FILE,
            metavar="FILE",
            help="Keep what is said in this file (SQLite); read it with chat-history. Nobody is shown a message before it is kept.",
        ),
    ):
        command = add(command)
    return command


def history_of(options: dict[str, Any]) -> History | None:
    """What is to be kept where, taken from the options. UsageError: options for a history, but no history."""
    path, sync, keep, days = (options.pop(f"history{name}") for name in ("", "_sync", "_keep", "_days"))
    if path:
        from chatkit.history.sqlite.store import SqliteHistory  # sqlite3 is loaded when it is needed

        try:
            return SqliteHistory(path, keep=keep, days=days, sync=sync)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    if keep or days or sync != "normal" or options["history_required"]:
        raise click.UsageError(
            "--history-sync, --history-keep, --history-days and --history-required need --history FILE"
        )
    return None
