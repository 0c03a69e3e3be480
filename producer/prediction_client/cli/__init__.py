"""The caller's commands: `producer ask` and `producer load`."""

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from prediction_client.cli.ask import ask
from prediction_client.cli.load import load

cli = typer.Typer(
    name="producer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Request predictions from models over RabbitMQ.",
)
cli.command()(ask)
cli.command()(load)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - a command-line flag
    if wanted:
        typer.echo(f"producer {version_of('prediction-responder')}")
        raise typer.Exit


@cli.callback()
def _commands(
    version: Annotated[  # noqa: FBT002 - a command-line flag
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Options before the command."""
