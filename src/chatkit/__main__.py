"""`python -m chatkit server|client|history`, the same as the three commands."""

import click

from chatkit.cli import client, history, server
from chatkit.cli.common import CONTEXT, version_option


@click.group(context_settings=CONTEXT, commands={"server": server.main, "client": client.main, "history": history.main})
@version_option
def main() -> None:
    """A chat room: start one, join one, or read what was said in one."""


if __name__ == "__main__":
    main(prog_name="python -m chatkit")
