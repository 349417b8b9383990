"""The choice of an input and an output for `chat-client`: a script, lines on a terminal, or an editor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from chatkit import Client, Event
from chatkit.cli.client.input import InputSettings, InputThread
from chatkit.cli.client.output import LineBatch, Lines, Output, ReconnectOutput, TextOutput
from chatkit.cli.client.roster import Roster
from chatkit.cli.client.screen import Painter
from chatkit.cli.common import option

TIME_FORMAT = "%H:%M"
_DUMB = ("", "dumb", "unknown")


@dataclass(frozen=True, slots=True)
class Look:
    """The options for the screen.

    Attributes:
        plain: whether lines are edited by the terminal itself.
        color: `auto`, `always` or `never`.
        timestamps: the format of the times in front of lines, or None.
        no_bell: whether the bell stays silent.
    """

    plain: bool
    color: str
    timestamps: str | None
    no_bell: bool


def look_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for `Look` to a command."""
    times = "Put the time in front of each line, as strftime writes it."
    colors = click.Choice(["auto", "always", "never"])
    for add in (
        option("--no-bell", is_flag=True, help="Don't ring the terminal's bell for your name and private lines."),
        option(
            "--timestamps",
            is_flag=False,
            flag_value=TIME_FORMAT,
            metavar="[FORMAT]",
            callback=_checked_format,
            help=times,
        ),
        option(
            "--color", type=colors, default="auto", help="Color names; `auto`: with the line editor, unless NO_COLOR."
        ),
        option("--plain", is_flag=True, help="On a terminal: no line editor, no colors. For screen readers."),
    ):
        command = add(command)
    return command


def _checked_format(context: click.Context, parameter: click.Parameter, time_format: str | None) -> str | None:
    if time_format is not None and "%" not in time_format:
        raise click.BadParameter(f"{time_format!r} holds no time, such as {TIME_FORMAT}")
    return time_format


def open_front(
    client: Client, look: Look, settings: InputSettings, *, name: str | None, reconnect: bool
) -> tuple[Output, InputThread]:
    """Return the output for people, and the input that belongs to it.

    Args:
        client: the client, which has joined.
        settings: the manners of the input.
        name: the name that it took, if any.
        reconnect: whether it comes back.
    """
    has_editor = settings.is_wanted and not look.plain and _may_edit()
    color = look.color == "always" or (look.color == "auto" and has_editor and not os.environ.get("NO_COLOR"))
    roster = Roster(name or str(client.address[1]))
    bell = has_editor and not look.no_bell
    painter = Painter(roster, color=color, time_format=look.timestamps or "", bell=bell)
    input_thread: InputThread
    lines: Lines
    instead: Callable[[Event], list[Event]] | None
    if has_editor:
        from chatkit.cli.client.editor_input import EditorInput

        editor_input = EditorInput(client, settings, painter, roster, introduces=bool(name) and not reconnect)
        input_thread, lines, instead = editor_input, editor_input.scrollback, editor_input.show_instead
    else:
        input_thread = open_input(client, settings)
        lines, instead = LineBatch(), roster.follow if color else None
    if reconnect:
        explains_queue = settings.is_wanted and os.isatty(0)
        return ReconnectOutput(painter, lines, instead, explains_queue=explains_queue), input_thread
    return TextOutput(painter, lines, instead), input_thread


def open_input(client: Client, settings: InputSettings) -> InputThread:
    """Return the input of lines, from a script or from a terminal."""
    if not settings.is_wanted or not is_at_terminal():
        return InputThread(client, settings)
    from chatkit.cli.client.line_input import LineInput

    return LineInput(client, settings)


def is_at_terminal() -> bool:
    """Tell whether standard input is a terminal whose modes can be set: not on Windows."""
    return os.isatty(0) and _has_module("termios")


def _has_module(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@contextmanager
def dropping_typed() -> Iterator[None]:
    """When an error leaves `with`, drop what was typed at the terminal meanwhile, so that no shell runs it."""
    try:
        yield
    except BaseException:
        if is_at_terminal():
            from chatkit.cli.client.line_input import drop_typed

            drop_typed()
        raise


def _may_edit() -> bool:
    """Tell whether there is a terminal that an editor can use, and the extra `terminal`."""
    is_terminal = is_at_terminal() and os.isatty(1) and os.environ.get("TERM", "").lower() not in _DUMB
    return is_terminal and _has_module("prompt_toolkit")
