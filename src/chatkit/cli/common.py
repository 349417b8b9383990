"""What both commands share: options, standard streams, one-line errors."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from chatkit import __version__

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

version_option = click.version_option(__version__, "--version", prog_name="chatkit", message="%(prog)s %(version)s")


def option(name: str, **kwargs: Any) -> Callable[[Any], Any]:
    """A Click option that can also be set as CHATKIT_<NAME> in the environment."""
    envvar = "CHATKIT" + name.removeprefix("-").replace("-", "_").upper()
    return click.option(name, envvar=envvar, show_default=True, **kwargs)


def fail(command: str, problem: str, hint: str = "", *, status: int = 1) -> NoReturn:
    """End the command with one line on stderr."""
    complain(command, f"{problem} ({hint})" if hint else problem)
    sys.exit(status)


def complain(command: str, problem: str) -> None:
    click.echo(f"{command}: {problem}", err=True)


def reason(error: OSError) -> str:
    """An OSError's reason in plain words, without its number."""
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return os.strerror(error.errno) if error.errno else str(error)


def open_missing_streams() -> None:
    """Fill descriptors 0 to 2 where they are closed, else a socket takes such a number and gets what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
