"""`agent bootstrap`: print the bootstrap that the agent makes, as a start for your own."""

import asyncio
from pathlib import Path
from typing import Any

import click

from agent.cli.options import INPUTS, apply


@click.command()
@apply(INPUTS)
@click.option(
    "--istio", is_flag=True, help="The one that `pilot-agent proxy` makes, and check it; its flags follow --."
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- FLAGS...]")
def bootstrap(arguments: tuple[str, ...], *, istio: bool, **options: Any) -> int:  # noqa: ANN401  # click's values
    """Print the bootstrap that the agent generates without --config."""
    from agent.cli.settings import inputs
    from agent.inputs.settings import Settings
    from agent.processes.configuration_check import small_bootstrap

    if istio:
        return _of_istio(arguments)
    if arguments:
        message = f"cannot use {arguments[0]}: flags after -- are those of pilot-agent, for --istio"
        raise click.UsageError(message)
    settings = Settings(**inputs({**options, "config": None}, ()), run_directory=Path())
    click.echo(asyncio.run(small_bootstrap(settings)), nl=False)
    return 0


def _of_istio(arguments: tuple[str, ...]) -> int:
    """Print the bootstrap of a pod, and to standard error what is wrong with it; return the exit code."""
    from agent.cli.check import checked
    from agent.cli.pilot_agent import translated

    invocation = translated(arguments)
    for text in invocation.unused:
        click.echo(text, err=True)
    document = invocation.options.get("document")
    if document is not None:
        click.echo(document)
    report = checked(invocation.options, invocation.arguments)
    for line in () if report.good else report.lines:
        click.echo(line, err=True)
    return 0 if report.good else 1
