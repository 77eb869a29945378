"""`agent check`: validate the operator's files once, as the agent would."""

import asyncio
from typing import Any

import click

from agent.cli.options import INPUTS, apply


@click.command()
@apply(INPUTS)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PROXY_ARGS...]")
def check(arguments: tuple[str, ...], **options: Any) -> int:  # noqa: ANN401  # click's values
    """Check the configuration and the certificates without starting a proxy; exit 1 if any is refused."""
    import tempfile
    from pathlib import Path

    from agent.cli.settings import inputs
    from agent.host.log import configure
    from agent.inputs.settings import Settings
    from agent.processes.configuration_check import inspect

    configure("text", "warning")
    with tempfile.TemporaryDirectory(prefix="agent-check-", dir="/dev/shm") as scratch:  # a short path
        settings = Settings(**inputs(options, arguments), run_directory=Path(scratch), alarm_timeout=0.0)
        report = asyncio.run(inspect(settings))
    for line in report.lines:
        click.echo(line)
    return 0 if report.good else 1
