"""What a killed agent left is ended and removed; what is another's stays."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.handoff.segment import HotRestartVersion, Segment
from agent.host.processes import boot, created_at
from agent.host.run_directory import RunDirectory
from agent.processes.leftovers import kill_leftovers
from tests.system.eventually import PATIENCE

VERSION = HotRestartVersion(11, 104)


@contextmanager
def process() -> "Iterator[subprocess.Popen[bytes]]":
    """A process that ends only when it is killed."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


def entry(number: object, pid: int | None, **more: object) -> dict[str, Any]:
    created = None if pid is None else created_at(pid)
    return {"number": number, "pid": pid, "created": created, "base_id": None, "stage": "serving"} | more


def left(directory: RunDirectory, *epochs: object, **more: object) -> None:
    directory.remember({"boot": boot(), "epochs": list(epochs)} | more)


def test_an_epoch_that_runs_is_killed_and_told_with_its_pid(directory: RunDirectory, base_id: int) -> None:
    segment = Segment(base_id)
    assert segment.claim(VERSION)
    home = directory.make_epoch(3, None)
    with process() as proxy:
        left(directory, entry(3, proxy.pid, base_id=base_id))
        assert list(kill_leftovers(directory)) == [(3, proxy.pid)]
        assert proxy.wait(PATIENCE) == -9
        assert not psutil.pid_exists(proxy.pid)
    assert not home.exists()
    assert not segment.path.exists()


def test_an_epoch_that_has_exited_leaves_nothing_and_is_not_told(directory: RunDirectory, base_id: int) -> None:
    segment = Segment(base_id)
    assert segment.claim(VERSION)
    home = directory.make_epoch(3, None)
    left(directory, entry(3, None, base_id=base_id))
    assert list(kill_leftovers(directory)) == []
    assert not home.exists()
    assert not segment.path.exists()


@pytest.mark.parametrize("name", ["spare", "upcoming"])
def test_the_memory_that_was_reserved_for_the_next_epoch_is_released(
    directory: RunDirectory, base_id: int, name: str
) -> None:
    segment = Segment(base_id)
    assert segment.claim(VERSION)
    left(directory, **{name: base_id})
    assert list(kill_leftovers(directory)) == []
    assert not segment.path.exists()


def test_a_process_that_reuses_the_pid_is_not_touched(directory: RunDirectory) -> None:
    with process() as stranger:
        left(directory, entry(3, stranger.pid, created=1))
        assert list(kill_leftovers(directory)) == []
        assert stranger.poll() is None


def test_the_leftovers_of_another_agent_are_not_touched(tmp_path: Path, directory: RunDirectory, base_id: int) -> None:
    """It has a run directory, a state and memory of its own."""
    other = RunDirectory(tmp_path / "other")
    segment = Segment(base_id)
    assert segment.claim(VERSION)
    home = other.make_epoch(3, None)
    try:
        with process() as proxy:
            left(other, entry(3, proxy.pid, base_id=base_id))
            left(directory, entry(3, None))
            assert list(kill_leftovers(directory)) == []
            assert proxy.poll() is None
        assert home.exists()
        assert segment.path.exists()
    finally:
        segment.release()
        other.close()


def test_what_is_from_before_a_reboot_is_another_machines(directory: RunDirectory, base_id: int) -> None:
    segment = Segment(base_id)
    assert segment.claim(VERSION)
    with process() as stranger:
        left(directory, entry(3, stranger.pid, base_id=base_id), boot="another", spare=base_id)
        assert list(kill_leftovers(directory)) == []
        assert stranger.poll() is None
    assert segment.path.exists()
    segment.release()


def test_directories_that_the_state_does_not_name_stay(directory: RunDirectory) -> None:
    kept = [directory.make_epoch(number, None) for number in (1, 33)]
    directory.make_epoch(3, None)
    left(directory, entry(3, None))
    assert list(kill_leftovers(directory)) == []
    assert [home.exists() for home in kept] == [True, True]


@pytest.mark.parametrize("number", [None, "three", [3], 3.5])
def test_an_entry_without_a_number_keeps_no_other_one_alive(directory: RunDirectory, number: object) -> None:
    with process() as odd, process() as proxy:
        left(directory, entry(number, odd.pid), entry(3, proxy.pid))
        assert list(kill_leftovers(directory)) == [(3, proxy.pid)]
        assert [each.wait(PATIENCE) for each in (odd, proxy)] == [-9, -9]


@pytest.mark.parametrize("epochs", [None, "x", {"3": {}}, [None, 3, "3", {}]])
def test_a_state_that_makes_no_sense_harms_nobody(directory: RunDirectory, epochs: object) -> None:
    directory.remember({"boot": boot(), "epochs": epochs, "spare": "x"})
    assert list(kill_leftovers(directory)) == []


def test_without_a_state_there_is_nothing_to_do(directory: RunDirectory) -> None:
    assert list(kill_leftovers(directory)) == []
    assert (directory.path / "lock").read_text() == f"{os.getpid()}\n"
