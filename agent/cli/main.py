"""Runs the command line: errors become a line on standard error and an exit code."""

import sys

import click

from agent.cli.run import agent
from agent.cli.start import exit_code
from agent.core.errors import AgentError

_FAILED = 1


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = agent.main(prog_name="agent", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = _FAILED
    except AgentError as error:
        click.echo(f"agent: {error}", err=True)
        code = exit_code(error)
    sys.exit(code)
