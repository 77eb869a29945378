"""`agent check`: validate the operator's files once, as the agent would."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import INPUTS, apply

if TYPE_CHECKING:
    from agent.processes.configuration_check import Report


@click.command()
@apply(INPUTS)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PROXY_ARGS...]")
def check(arguments: tuple[str, ...], **options: Any) -> int:  # noqa: ANN401  # click's values
    """Check the configuration and the certificates without starting a proxy; exit 1 if any is refused."""
    report = checked(options, arguments)
    for line in report.lines:
        click.echo(line)
    return 0 if report.good else 1


def checked(options: Mapping[str, Any], arguments: Sequence[str]) -> "Report":
    """Return what is found in the files that the options name. Raises `UsageError`."""
    import tempfile
    from pathlib import Path

    from agent.cli.settings import inputs
    from agent.host.log import configure
    from agent.inputs.settings import Settings
    from agent.processes.configuration_check import inspect

    configure("text", "warning")
    with tempfile.TemporaryDirectory(prefix="agent-check-", dir="/dev/shm") as scratch:  # a short path
        settings = Settings(**inputs(options, arguments), run_directory=Path(scratch), alarm_timeout=0.0)
        return asyncio.run(inspect(settings))
