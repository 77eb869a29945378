"""The examples with a sidecar are what `agent inject` makes of their inputs, by the command in their first comment."""

import re
import shlex
from pathlib import Path

import pytest

from agent.cli.inject import inject, uninject
from tests.cli.runner import run
from tests.examples.manifests import DIRECTORY

INPUTS = sorted((DIRECTORY / "inputs").glob("*.yaml"))


def command(text: str) -> list[str]:
    """Return the words of the command in the comment of a file."""
    (found,) = re.findall(r"^#   agent inject ((?:.*\\\n)*.*)", text, re.MULTILINE)
    return shlex.split(found.replace("\\\n#", ""))


def test_there_is_an_input_for_each() -> None:
    assert [each.name for each in INPUTS] == sorted(each.name for each in DIRECTORY.glob("*.yaml"))


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.stem)
def test_the_example_is_the_output_of_its_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DIRECTORY)
    ran = run(inject, *command(path.read_text(encoding="utf-8")))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (DIRECTORY / path.name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.stem)
def test_a_removal_restores_the_input(path: Path) -> None:
    assert run(uninject, "-f", DIRECTORY / path.name).out == path.read_text(encoding="utf-8")
