import json
import os

import pytest

from agent.core.policy import Policy
from agent.core.reconciler import Reconciler
from agent.host.run_directory import RunDirectory
from agent.processes.state_file import StateFile


def remembered(directory: RunDirectory, *epochs: object, **more: object) -> StateFile:
    directory.remember({"format": 1, "epochs": list(epochs), **more})
    return StateFile(directory)


def test_numbers_of_epochs_are_never_used_again(directory: RunDirectory) -> None:
    assert StateFile(directory).first_epoch == 1
    assert remembered(directory, next_epoch=7).first_epoch == 7


@pytest.mark.parametrize("number", [0, -3, "7", None, 1.5, [], True])
def test_a_number_that_makes_no_sense_is_the_first(directory: RunDirectory, number: object) -> None:
    assert remembered(directory, next_epoch=number).first_epoch == 1


def test_the_state_is_written_when_it_is_another_one(directory: RunDirectory) -> None:
    state_file, core = StateFile(directory), Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=7)
    state_file.write(core, [], 1_700_000_000)
    path = directory.path / "state.json"
    first = path.stat().st_ino
    state = json.loads(path.read_text())
    assert state["agent"]["pid"] == os.getpid()
    assert state["next_epoch"] == 7
    assert state["ready"] is False
    state_file.write(core, [], 1_700_000_000)
    assert path.stat().st_ino == first


def test_a_full_disk_is_said_once_and_costs_nothing_else(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    (directory.path / "state.json").mkdir()
    state_file = StateFile(directory)
    for number in (1, 2, 3):
        state_file.write(Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=number), [], 0)
    assert len([record for record in caplog.records if "without saved state" in record.getMessage()]) == 1


def test_what_could_not_be_written_is_written_as_soon_as_that_is_possible(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """Even without a further change: the next agent would read the older state."""
    caplog.set_level("INFO")
    path = directory.path / "state.json"
    state_file, core = StateFile(directory), Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=7)
    path.mkdir()
    state_file.write(core, [], 0)
    behind = [state_file.behind]
    path.rmdir()
    state_file.write(core, [], 0)
    assert [*behind, state_file.behind] == [True, False]
    assert json.loads(path.read_text()) == state_file.last
    assert [record.getMessage() for record in caplog.records][-1] == "the state can be written again"
