"""The check whether a new program can take over, before the old one exits."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.core.errors import BadInput
from agent.host.processes import created_at
from agent.host.run_directory import RunDirectory
from agent.processes import upgrade_check


def attempt(directory: RunDirectory, *epochs: object) -> str:
    directory.remember({"epochs": list(epochs)})
    settings: Any = SimpleNamespace(proxy="/bin/true", run_directory=Path(directory.path))
    return upgrade_check.dry_run(settings)


def test_where_nothing_runs_it_can(directory: RunDirectory) -> None:
    assert attempt(directory) == "the new program can take over"


def test_a_serving_epoch_with_an_incompatible_entry_is_not_terminated(directory: RunDirectory) -> None:
    """Adoption would terminate it as a leftover, with its clients."""
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        try:
            created = created_at(process.pid)
            older = {"number": 7, "stage": "serving", "pid": process.pid, "created": created, "manifest": 5}
            with pytest.raises(BadInput, match="cannot take over epoch 7"):
                attempt(directory, older)
            assert attempt(directory, older | {"stage": "starting"}) == "the new program can take over"
        finally:
            process.kill()


def test_a_state_that_cannot_be_read_is_said(directory: RunDirectory) -> None:
    settings: Any = SimpleNamespace(proxy="/bin/true", run_directory=Path(directory.path))
    with pytest.raises(BadInput, match="cannot read"):
        upgrade_check.dry_run(settings)
