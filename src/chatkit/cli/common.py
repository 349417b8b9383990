"""The common parts of the commands: options, standard streams, one-line errors."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from chatkit import __version__
from chatkit.protocol.sanitize import visible

CHAT_CLIENT = "chat-client"

FILE = click.Path(dir_okay=False, path_type=Path)

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

version_option = click.version_option(__version__, "--version", prog_name="chatkit", message="%(prog)s %(version)s")

NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def option(name: str, *names: str, **kwargs: Any) -> Callable[[Any], Any]:
    """Return a Click option that can also be set as CHATKIT_<NAME> in the environment."""
    envvar = "CHATKIT" + name.removeprefix("-").replace("-", "_").upper()
    return click.option(name, *names, envvar=envvar, show_default=True, **kwargs)


password_option = option(
    "--password-file",
    type=FILE,
    metavar="FILE",
    help="Read the room's password from the first line of FILE; or set CHATKIT_PASSWORD in the environment.",
)


def fail(command: str, problem: str, hint: str = "", *, status: int = 1) -> NoReturn:
    """End the command with one line on stderr."""
    complain(command, f"{problem} ({hint})" if hint else problem)
    sys.exit(status)


def complain(command: str, problem: str) -> None:
    """Print one line on stderr, if it accepts one. The problem may hold words of a stranger: they are made visible."""
    try:
        click.echo(visible(f"{command}: {problem}"), err=True)
    except OSError:
        abandon(sys.stderr)


def abandon(stream: TextIO) -> None:
    """Discard the stream's buffer. At its exit Python would try to write it once more, and perhaps wait for ever."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def reason(error: OSError | UnicodeError) -> str:
    """Return the reason of an error in plain words, without its number."""
    if isinstance(error, UnicodeError) or (isinstance(error, socket.gaierror) and error.errno in NO_SUCH_HOST):
        return "no such host"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return os.strerror(error.errno) if error.errno else str(error)


def open_missing_streams() -> None:
    """Open descriptors 0 to 2 where they are closed. Else a socket gets such a number, and the output with it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def data_folder() -> Path:
    """Return the folder for files that the commands make: `$XDG_DATA_HOME/chatkit`, else `~/.local/share/chatkit`."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "chatkit"


def read_password(command: str, path: Path | None) -> str | None:
    """Return the password of the file or the environment, or None. The command line is no place: others can see it."""
    if path is None:
        if (password := os.environ.get("CHATKIT_PASSWORD")) == "":
            fail(command, "CHATKIT_PASSWORD is empty", "unset it for a room without a password")
        return password
    try:
        password = path.read_bytes().partition(b"\n")[0].removesuffix(b"\r").decode()
    except OSError as error:
        fail(command, f"cannot read {path}: {reason(error)}")
    except UnicodeError:
        fail(command, f"cannot read {path}: not valid UTF-8")
    if not password:
        fail(command, f"{path} has no password in its first line")
    return password
