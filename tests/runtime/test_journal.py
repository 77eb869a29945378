import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from agent.core.policy import Policy
from agent.core.reconciler import Reconciler
from agent.handoff.segment import HotRestartVersion, Segment
from agent.host.processes import created_at
from agent.host.run_directory import RunDirectory
from agent.runtime.counting import Counting
from agent.runtime.journal import Journal

NONCE = "0123456789abcdef"
BASE_ID = 99_999_123


@contextmanager
def epoch(nonce: str = NONCE, program: str = "exec sleep 1000") -> "Iterator[subprocess.Popen[bytes]]":
    """Run something that could be an epoch which outlived its agent."""
    process = subprocess.Popen(["/bin/sh", "-c", program], env={"PROXY_AGENT_NONCE": nonce})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def remembered(directory: RunDirectory, *epochs: object, **more: object) -> Journal:
    directory.remember({"format": 1, "epochs": list(epochs), **more})
    return Journal(directory)


def entry(process: "subprocess.Popen[bytes]", **more: object) -> dict[str, Any]:
    created = created_at(process.pid)
    return {"number": 3, "pid": process.pid, "created": created, "nonce": NONCE, "base_id": BASE_ID} | more


def test_numbers_of_epochs_are_never_used_again(directory: RunDirectory) -> None:
    assert Journal(directory).first_epoch == 1
    assert remembered(directory, next_epoch=7).first_epoch == 7


@pytest.mark.parametrize("number", [0, -3, "7", None, 1.5, [], True])
def test_a_number_that_makes_no_sense_is_the_first(directory: RunDirectory, number: object) -> None:
    assert remembered(directory, next_epoch=number).first_epoch == 1


def test_an_epoch_that_outlived_its_agent_is_ended_and_what_it_left_removed(directory: RunDirectory) -> None:
    segment = Segment(BASE_ID)
    assert segment.claim(HotRestartVersion(11, 104))
    home = directory.make_epoch(3, None)
    with epoch() as process:
        remembered(directory, entry(process)).clear_leftovers(Counting(directory))
        process.wait(5)
        assert not psutil.pid_exists(process.pid)
    assert not segment.path.exists()
    assert not home.exists()


def test_one_that_does_not_go_when_asked_is_killed(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.runtime.journal._END_TIMEOUT", 0.1)
    with epoch(program="trap '' TERM; echo; while :; do sleep 0.01; done") as process:
        remembered(directory, entry(process)).clear_leftovers(Counting(directory))
        process.wait(5)
        assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize(
    "difference",
    [{"created": 1.0}, {"created": None}, {"nonce": "f" * 16}, {"nonce": None}, {"pid": "x"}],
    ids=str,
)
def test_a_stranger_with_the_number_of_a_dead_epoch_is_safe(
    directory: RunDirectory, difference: dict[str, object]
) -> None:
    with epoch() as stranger:
        remembered(directory, entry(stranger, **difference)).clear_leftovers(Counting(directory))
        assert stranger.poll() is None


def test_an_epoch_whose_pid_could_not_be_noted_any_more_is_found_by_its_nonce(directory: RunDirectory) -> None:
    with epoch() as process:
        remembered(directory, entry(process, pid=None)).clear_leftovers(Counting(directory))
        process.wait(5)


def test_a_stranger_whose_environment_merely_contains_the_nonce_is_safe(directory: RunDirectory) -> None:
    with epoch(nonce=f"{NONCE}0") as stranger:
        remembered(directory, entry(stranger)).clear_leftovers(Counting(directory))
        assert stranger.poll() is None


def test_what_a_dead_epoch_left_is_removed_too(directory: RunDirectory) -> None:
    segment = Segment(BASE_ID)
    assert segment.claim(HotRestartVersion(11, 104))
    with epoch() as process:
        gone = entry(process)
    remembered(directory, gone).clear_leftovers(Counting(directory))
    assert not segment.path.exists()


NEGATIVE = pytest.param([{"pid": -1, "created": 1, "base_id": "x"}])


@pytest.mark.parametrize("epochs", ["x", {"a": 1}, None, [1, None, "x", {}], NEGATIVE])
def test_a_memory_that_makes_no_sense_harms_nobody(directory: RunDirectory, epochs: object) -> None:
    directory.remember({"epochs": epochs})
    Journal(directory).clear_leftovers(Counting(directory))


def test_directories_of_epochs_go_and_everything_else_stays(directory: RunDirectory) -> None:
    for name in ("3", "17", "other"):
        (directory.path / name).mkdir()
    Journal(directory).clear_leftovers(Counting(directory))
    assert {path.name for path in directory.path.iterdir()} == {"lock", "other"}


def test_a_name_that_only_looks_like_a_number_is_left_alone(directory: RunDirectory) -> None:
    (directory.path / "²").mkdir()
    Journal(directory).clear_leftovers(Counting(directory))


def test_the_state_is_written_when_it_is_another_one(directory: RunDirectory) -> None:
    journal, core = Journal(directory), Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=7)
    journal.write(core, [])
    path = directory.path / "state.json"
    first = path.stat().st_ino
    state = json.loads(path.read_text())
    assert state["agent"]["pid"] == os.getpid()
    assert state["next_epoch"] == 7
    assert state["ready"] is False
    journal.write(core, [])
    assert path.stat().st_ino == first


def test_a_full_disk_is_said_once_and_costs_nothing_else(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    (directory.path / "state.json").mkdir()
    journal = Journal(directory)
    for number in (1, 2, 3):
        journal.write(Reconciler(Policy(), jitter=lambda: 0.5, first_epoch=number), [])
    assert len([record for record in caplog.records if "without a memory" in record.getMessage()]) == 1
