"""`agent bootstrap`: print the default bootstrap, as a start for your own."""

import asyncio
from pathlib import Path
from typing import Any

import click

from agent.cli.options import INPUTS, apply


@click.command()
@apply(INPUTS)
def bootstrap(**options: Any) -> None:  # noqa: ANN401  # click's values
    """Print the bootstrap that the agent generates without --config."""
    from agent.cli.settings import inputs
    from agent.inputs.settings import Settings
    from agent.processes.configuration_check import small_bootstrap

    settings = Settings(**inputs({**options, "config": None}, ()), run_directory=Path())
    click.echo(asyncio.run(small_bootstrap(settings)), nl=False)
