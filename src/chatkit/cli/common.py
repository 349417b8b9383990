"""The common parts of the commands: options, standard streams, one-line errors."""

from __future__ import annotations

import os
import re
import selectors
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click
from click.core import ParameterSource

from chatkit import __version__
from chatkit.net.sockets import SIGNAL_SECONDS, Selector
from chatkit.protocol.lines import check_password
from chatkit.protocol.sanitize import visible

if TYPE_CHECKING:
    from pathlib import Path

CHAT_CLIENT = "chat-client"


class FileType(click.Path):
    """The type of a file's name, as a `Path`. To load pathlib takes longer than to connect."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check a name."""
        from pathlib import Path

        return Path(os.fsdecode(super().convert(value, param, ctx)))


FILE = FileType(dir_okay=False)

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

version_option = click.version_option(__version__, "--version", prog_name="chatkit", message="%(prog)s %(version)s")

NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


# For a service named chatkit, Kubernetes sets CHATKIT_PORT=tcp://10.96.0.12:12345 in every container beside it.
_SERVICE = re.compile(r"(tcp|udp|sctp)://.*")


class _FromEnvironment(click.Parameter):
    """A parameter that can also be set in the environment. Errors name its variable then."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the variable's value, but pass over one that describes a service."""
        value = super().resolve_envvar_value(ctx)
        if value is not None and _SERVICE.fullmatch(value):
            if not ctx.resilient_parsing:
                words = f"{self.envvar}={value} is passed over: it describes a service (Kubernetes)"
                complain(str(ctx.command.name), words)
            return None
        return value

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the name of the parameter, or of its variable, for an error."""
        is_variable = ctx is not None and _is_from_environment(ctx, self)
        return f"{self.envvar} in the environment" if is_variable else super().get_error_hint(ctx)


class Option(_FromEnvironment, click.Option):
    """An option of the commands."""


class Argument(_FromEnvironment, click.Argument):
    """An argument of the commands."""


class Command(click.Command):
    """A command whose errors name variables of the environment and missing modules."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            found = _name_variables(ctx, self.params)
            raise click.UsageError(f"{error.format_message()}{f' ({found})' if found else ''}", ctx) from None
        except ImportError as error:  # modules that some Pythons are built without are loaded when they are needed
            fail(str(ctx.command.name), f"this Python lacks a module: {error}")


def _is_from_environment(ctx: click.Context, parameter: click.Parameter) -> bool:
    """Tell whether a parameter's value comes from its variable."""
    return ctx.get_parameter_source(str(parameter.name)) is ParameterSource.ENVIRONMENT


def _name_variables(ctx: click.Context, parameters: Iterable[click.Parameter]) -> str:
    """Return words about the variables that set some of these parameters, or ""."""
    found = sorted(str(each.envvar) for each in parameters if _is_from_environment(ctx, each))
    return f"in the environment: {', '.join(found)}" if found else ""


def option(name: str, *names: str, **kwargs: Any) -> Callable[[Any], Any]:
    """Return a Click option that can also be set as CHATKIT_<NAME> in the environment."""
    envvar = "CHATKIT" + name.removeprefix("-").replace("-", "_").upper()
    return click.option(name, *names, cls=Option, envvar=envvar, show_default=True, **kwargs)


password_option = option(
    "--password-file",
    type=FILE,
    metavar="FILE",
    help="Read the room's password from the first line of FILE; or set CHATKIT_PASSWORD in the environment.",
)


def fail(command: str, problem: str, hint: str = "", *, about: Sequence[str] = (), status: int = 1) -> NoReturn:
    """End the command with one line on stderr.

    Args:
        hint: a remedy.
        about: the names of the parameters whose values may be at fault. Those set in the environment are named.
        status: the exit status.
    """
    ctx = click.get_current_context(silent=True)
    variables = _name_variables(ctx, [each for each in ctx.command.params if each.name in about]) if ctx else ""
    remarks = "; ".join(filter(None, (hint, variables)))
    complain(command, f"{problem} ({remarks})" if remarks else problem)
    sys.exit(status)


def complain(command: str, problem: str) -> None:
    """Print one line on stderr, if it accepts one. The problem may hold words of a stranger: they are made visible."""
    try:
        click.echo(visible(f"{command}: {problem}"), err=True)
    except OSError:
        abandon(sys.stderr)


def write_out(text: str) -> None:
    """Write all of a text to standard output. Another process may have made it non-blocking.

    Python's own streams lose something of a text that such an output doesn't take at once.

    Raises:
        OSError: standard output accepts no more.
    """
    out = sys.stdout
    raw = getattr(out.buffer, "raw", out.buffer)
    data = memoryview(text.replace("\n", os.linesep).encode(out.encoding, out.errors or "strict"))
    while data:
        if (size := raw.write(data)) is None:
            with Selector() as selector:
                selector.register(out.fileno(), selectors.EVENT_WRITE)
                selector.select(SIGNAL_SECONDS)
        data = data[size or 0 :]


def abandon(stream: TextIO) -> None:
    """Discard the stream's buffer. At its exit Python would try to write it once more, and perhaps wait for ever."""
    _, writer = os.pipe()  # which takes more than a buffer, while its reader is open; a container may lack /dev/null
    os.dup2(writer, stream.fileno())
    os.close(writer)


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
    """Open descriptors 0 to 2 where they are closed. Else a socket gets such a number, and the output with it.

    They read as empty and accept nothing.
    """
    descriptor = 0
    while descriptor <= 2:
        descriptor, writer = os.pipe()
        os.close(writer)
    os.close(descriptor)


def data_folder(command: str) -> Path:
    """Return the folder for files that the commands make: `$XDG_DATA_HOME/chatkit`, else `~/.local/share/chatkit`.

    It ends the command with one line if there is no absolute path for it: the current folder is nobody's home.
    """
    if folder := _user_folder("XDG_DATA_HOME", "share"):
        return folder
    fail(command, "this user has no home folder", "set HOME or XDG_DATA_HOME")


def state_folder() -> Path | None:
    """Return the folder for files that grow by use: `$XDG_STATE_HOME/chatkit`, else `~/.local/state/chatkit`.

    None if there is no absolute path for it.
    """
    return _user_folder("XDG_STATE_HOME", "state")


def _user_folder(variable: str, name: str) -> Path | None:
    from pathlib import Path

    home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""
    for folder in (Path(os.environ.get(variable, "")), Path(home, ".local", name)):
        if folder.is_absolute():
            return folder / "chatkit"
    return None


def read_password(command: str, path: Path | None, max_line_bytes: int) -> str | None:
    """Return the password of the file or the environment, or None. The command line is no place: others can see it.

    Args:
        max_line_bytes: the longest line that can send it.
    """
    variable = os.environ.get("CHATKIT_PASSWORD")
    if path is None and variable is None:
        return None
    if path is None and not variable:
        fail(command, "CHATKIT_PASSWORD is empty", "unset it for a room without a password")
    password = variable if path is None else _read_first_line(command, path)
    assert password is not None
    try:
        return check_password(password, max_line_bytes)
    except ValueError as error:
        fail(command, f"{path or 'CHATKIT_PASSWORD'}: {error}", about=["password_file"])


def _read_first_line(command: str, path: Path) -> str:
    """Return the first line of a file for a password. Warn if others can read it."""
    try:
        mode = path.stat().st_mode
        line = path.read_bytes().partition(b"\n")[0].removesuffix(b"\r").decode()
    except OSError as error:
        fail(command, f"cannot read {path}: {reason(error)}", about=["password_file"])
    except UnicodeError:
        fail(command, f"cannot read {path}: not valid UTF-8", about=["password_file"])
    if not line:
        fail(command, f"{path} has no password in its first line", about=["password_file"])
    has_owner = stat.S_ISREG(mode) and hasattr(os, "chown")  # where files have none (Windows), the mode says nothing
    if has_owner and mode & (stat.S_IRGRP | stat.S_IROTH):
        complain(command, f"others can read the password in {path} (chmod 600 {path})")
    return line
