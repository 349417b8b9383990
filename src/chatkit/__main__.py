"""`python -m chatkit server|client|history`, the same as the three commands."""

from importlib import import_module

import click

from chatkit.cli.common import CONTEXT, version_option

PLACES = {"client": "chatkit.cli.client.main", "history": "chatkit.cli.history", "server": "chatkit.cli.server.main"}


class Commands(click.Group):
    """Each is loaded when it is asked for: a server needs no client."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(PLACES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in PLACES:
            return None
        command: click.Command = import_module(PLACES[name]).main
        return command


@click.command(cls=Commands, context_settings=CONTEXT)
@version_option
def main() -> None:
    """A chat room: start one, join one, or read what was said in one."""


if __name__ == "__main__":
    main(prog_name="python -m chatkit")
