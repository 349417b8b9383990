"""A client for servers of any kind, which know plain text alone."""

from __future__ import annotations

import click

from chatkit import Client

# Long for a person who waits, and enough for a room on a bad mobile link.
ANSWER_SECONDS = 3.0
# Shorter than a person waits before a question without a line end, longer than most networks pause within a line.
QUIET_SECONDS = 0.5

# By the names of the parameters.
_NEED_A_ROOM = {"name": "--name", "as_json": "--json", "once": "--once", "reconnect": "--reconnect"}


class AnyServerClient(Client):
    """A client that notices soon whether the server knows its commands, and takes text without a line end for a line.

    The latter happens after a quiet time, or at the end of the stream, and never with events.
    """

    _answer_seconds = ANSWER_SECONDS
    _quiet_seconds = QUIET_SECONDS


def describe_needs(password: str | None) -> str:
    """Return in words which of the given options need a server of chatkit."""
    given = click.get_current_context().params
    words = [option for name, option in _NEED_A_ROOM.items() if given[name]]
    return " and ".join([*words, "passwords"] if password else words)
