"""`python -m chatkit server|client|history`, the same as the three commands."""

from importlib import import_module

import click

from chatkit.cli.common import CONTEXT, version_option

MODULES = {"client": "chatkit.cli.client.main", "history": "chatkit.cli.history", "server": "chatkit.cli.server.main"}


class Commands(click.Group):
    """The three commands. Only the chosen one is loaded: a server needs no client."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(MODULES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Load a command."""
        if name not in MODULES:
            return None
        command: click.Command = import_module(MODULES[name]).main
        return command


@click.command(cls=Commands, context_settings=CONTEXT)
@version_option
def main() -> None:
    """Start a chat room, join one, or read its history."""


if __name__ == "__main__":
    main(prog_name="python -m chatkit")
