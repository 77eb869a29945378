"""The command line: parses arguments and passes them on.

Each command imports what it needs when it runs, so that the quick ones start fast.
"""

import sys

import click

from agent.cli.bootstrap import bootstrap
from agent.cli.certs import certs
from agent.cli.check import check
from agent.cli.completion import completion
from agent.cli.control import COMMANDS
from agent.cli.demo import demo
from agent.cli.history import history
from agent.cli.request import request
from agent.cli.run import agent
from agent.cli.status import status
from agent.cli.sweep import sweep
from agent.cli.systemd import systemd
from agent.cli.version import version
from agent.core.errors import AgentError, BadInput, UsageError

_USAGE, _UNUSABLE, _FAILED = 2, 78, 1

for _command in (
    bootstrap,
    certs,
    check,
    completion,
    demo,
    history,
    request,
    status,
    sweep,
    systemd,
    version,
    *COMMANDS,
):
    agent.add_command(_command)


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
        code = _exit_code(error)
    sys.exit(code)


def _exit_code(error: AgentError) -> int:
    if isinstance(error, UsageError):
        return _USAGE
    return _UNUSABLE if isinstance(error, BadInput) else _FAILED
