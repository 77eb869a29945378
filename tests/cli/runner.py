"""Commands in this process, without any variable of the agent."""

import inspect
import os
from typing import Any

import click
from click.testing import CliRunner

from agent.core.errors import AgentError
from tests.cli.agents import Ran

# click before 8.2 mixes stderr into stdout unless this option forbids it; later versions do not have the option.
_APART: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}


def run(command: click.Command, *arguments: object, **variables: str) -> Ran:
    """Run a command to its end; its own errors are raised."""
    unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("AGENT_")}
    runner = CliRunner(env={**unset, **variables}, **_APART)
    result = runner.invoke(command, [*map(str, arguments)], standalone_mode=False)
    if isinstance(result.exception, AgentError | click.ClickException | click.Abort):
        raise result.exception
    if result.exception is not None:
        raise AssertionError(result.output) from result.exception
    return Ran(result.return_value or 0, result.stdout, result.stderr)
