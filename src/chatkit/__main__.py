"""`python -m chatkit server|client`, the same as the two commands."""

import click

from chatkit.cli import client, server
from chatkit.cli.common import CONTEXT, version_option


@click.group(context_settings=CONTEXT, commands={"server": server.main, "client": client.main})
@version_option
def main() -> None:
    """A chat room: start one, or join one."""


if __name__ == "__main__":
    main(prog_name="python -m chatkit")
