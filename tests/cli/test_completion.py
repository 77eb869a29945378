"""Completion requests, in the form that the shells send."""

import asyncio
import os
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete

from agent.cli.completion import completion
from agent.cli.run import agent
from tests.cli.told import ask

_ENTRY = "from agent.entry import main; main()"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_a_script_is_printed(shell: str) -> None:
    ran = await ask(completion, shell)
    assert ran.code == 0
    assert "agent" in ran.out
    assert f"_AGENT_COMPLETE={shell}_complete" in ran.out


async def test_another_shell_is_a_usage_error() -> None:
    ran = await ask(completion, "tcsh")
    assert ran.code == 2


def test_bash_takes_the_script() -> None:
    ran = asyncio.run(ask(completion, "bash"))
    subprocess.run(["bash", "-n"], input=ran.out, text=True, check=True)


def test_the_console_script_answers_bash() -> None:
    """`agent.entry` inspects the arguments before click: there are none when a shell requests completions."""
    asked = {"COMP_WORDS": "agent dr", "COMP_CWORD": "1", "_AGENT_COMPLETE": "bash_complete"}
    command = [sys.executable, "-c", _ENTRY]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **asked})
    assert (ran.stdout, ran.stderr) == ("plain,drain\n", "")


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        ([], "wa", ["wait"]),
        ([], "rest", ["restart"]),
        (["restart"], "--f", ["--force"]),
        (["--run-dir", "/x", "restart"], "--n", ["--now"]),
        (["--low-memory"], "", ["replace", "wait"]),
        (["drain"], "--", ["--help", "--no-wait", "--run-dir", "--timeout"]),
        (["wait"], "--u", ["--url"]),
    ],
    ids=str,
)
def test_commands_options_and_their_values_are_known(words: list[str], incomplete: str, found: list[str]) -> None:
    assert isinstance(agent, click.Group)
    asked = ShellComplete(agent, {}, "agent", "_AGENT_COMPLETE")
    assert sorted(each.value for each in asked.get_completions(words, incomplete)) == found
