"""The address of a room as the one argument of `chat-client`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from chatkit.cli.common import Argument

if TYPE_CHECKING:
    from chatkit.net.urls import RoomUrl


def address_argument(command: Any) -> Any:
    """Add the argument for `apply_address` to a command."""
    add = click.argument("address", cls=Argument, required=False, metavar="[ADDRESS]", callback=_checked_address)
    return add(command)


def _checked_address(context: click.Context, parameter: click.Parameter, text: str | None) -> RoomUrl | None:
    if text is None:
        return None
    from chatkit.net.urls import parse_url  # loaded only when it is needed

    try:
        return parse_url(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def apply_address(options: dict[str, Any]) -> None:
    """Put the parts of the argument in place of --host, --port, --tls and --tls-fingerprint.

    Raises:
        UsageError: another option says something else.
    """
    url, context = options.pop("address"), click.get_current_context()
    if not url:
        return
    parts = {"host": url.host, "port": url.port, "tls": url.tls, "tls_fingerprint": url.fingerprint}
    for name, value in parts.items():
        if value is not None:
            is_typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
            if is_typed and options[name] != value:
                raise click.UsageError(f"--{name.replace('_', '-')} and the address {url} exclude each other")
            options[name] = value
            context.set_parameter_source(name, ParameterSource.COMMANDLINE)
    if url.tls is False and any(options[name] for name in ("tls_ca", "tls_fingerprint", "tls_trust")):
        raise click.UsageError("TLS needs chats:// in place of chat://")
