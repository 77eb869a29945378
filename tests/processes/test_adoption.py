"""Leftovers of an earlier agent: adopted, terminated, or of other programs; system tests adopt real proxies."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import psutil
import pytest

from agent.handoff.segment import HotRestartVersion, Segment
from agent.host.carried import Carried
from agent.host.memfds import Memfds
from agent.host.processes import created_at
from agent.host.run_directory import RunDirectory
from agent.inputs.revisions import RevisionStore
from agent.metrics.shared_counters import SharedCounters
from agent.processes.adoption import Adoption
from agent.processes.state_file import StateFile
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.system.eventually import PATIENCE

KIND = Envoy(Flags(), 1.0)


@contextmanager
def epoch(carries: tuple[int, ...] = (), deaf_to: str = "HUP") -> "Iterator[subprocess.Popen[bytes]]":
    """Run a process that resembles an epoch which outlived its agent; yield it when it can be identified."""
    program = ["/bin/sh", "-c", f"trap '' {deaf_to}; echo; read line"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, pass_fds=carries) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def memory() -> Iterator[int]:
    """Return a descriptor of sealed memory, as for a manifest."""
    memfds = Memfds()
    yield memfds.hold("epoch 3", b"{}")
    memfds.close()


def entry(process: "subprocess.Popen[bytes]", **more: object) -> dict[str, Any]:
    created = created_at(process.pid)
    return {"number": 3, "pid": process.pid, "created": created, "nonce": "f" * 16, "base_id": None} | more


def come_back(directory: RunDirectory, *entries: object, **more: object) -> StateFile:
    """Start an agent with these entries in its state: none of them can be adopted."""
    directory.remember({"epochs": list(entries)} | more)
    state_file = StateFile(directory)
    adoption = Adoption(KIND, state_file, directory, RevisionStore(), SharedCounters(directory))
    assert list(adoption.epochs()) == []
    adoption.remove_stale(frozenset())
    return state_file


def test_an_epoch_that_outlived_its_agent_is_ended_and_what_it_left_removed(
    directory: RunDirectory, base_id: int
) -> None:
    segment = Segment(base_id)
    assert segment.claim(HotRestartVersion(11, 104))
    home = directory.make_epoch(3, None)
    with epoch() as process:
        come_back(directory, entry(process, base_id=base_id))
        process.wait(PATIENCE)
        assert not psutil.pid_exists(process.pid)
    assert not segment.path.exists()
    assert not home.exists()


def test_a_socket_that_a_killed_agent_had_half_made_is_removed(directory: RunDirectory) -> None:
    half = directory.path / "~abc"
    half.mkdir()
    (half / "s").touch()
    come_back(directory)
    assert not half.exists()


def test_a_process_that_ignores_sigterm_is_killed(directory: RunDirectory) -> None:
    with epoch(deaf_to="TERM") as process:
        come_back(directory, entry(process))
        process.wait(PATIENCE)
        assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize(
    "difference",
    [{"created": 1.0}, {"created": None}, {"pid": "x"}, {"pid": None}, {"pid": None, "manifest": {"inode": 1}}],
    ids=str,
)
def test_a_stranger_with_the_number_of_a_dead_epoch_is_safe(
    directory: RunDirectory, difference: dict[str, object]
) -> None:
    with epoch() as stranger:
        come_back(directory, entry(stranger, **difference))
        assert stranger.poll() is None


def test_a_process_with_the_number_and_the_start_of_one_before_a_reboot_is_a_stranger(directory: RunDirectory) -> None:
    """Machines start the same programs in the same order."""
    with epoch() as stranger:
        come_back(directory, entry(stranger), boot="another")
        assert stranger.poll() is None


def test_an_epoch_whose_pid_could_not_be_noted_any_more_is_found_by_its_manifest(
    directory: RunDirectory, memory: int
) -> None:
    with epoch((memory,)) as process:
        come_back(directory, entry(process, pid=None, manifest=asdict(Carried.of(memory))))
        process.wait(PATIENCE)


def test_a_stranger_with_another_file_under_the_number_of_the_manifest_is_safe(
    directory: RunDirectory, memory: int
) -> None:
    manifest = Carried.of(memory)
    with epoch((memory,)) as stranger:
        different = replace(manifest, inode=manifest.inode + 1)
        come_back(directory, entry(stranger, pid=None, manifest=asdict(different)))
        assert stranger.poll() is None


def test_the_agent_itself_is_no_epoch_though_it_holds_the_manifest(directory: RunDirectory, memory: int) -> None:
    with epoch() as process:
        come_back(directory, entry(process, pid=None, manifest=asdict(Carried.of(memory))))


def test_what_a_dead_epoch_left_is_removed_too(directory: RunDirectory, base_id: int) -> None:
    segment = Segment(base_id)
    assert segment.claim(HotRestartVersion(11, 104))
    with epoch() as process:
        gone = entry(process, base_id=base_id)
    come_back(directory, gone)
    assert not segment.path.exists()


NEGATIVE = pytest.param([{"pid": -1, "created": 1, "base_id": "x"}])


@pytest.mark.parametrize("epochs", ["x", {"a": 1}, None, [1, None, "x", {}], NEGATIVE])
def test_an_invalid_manifest_has_no_effect(directory: RunDirectory, epochs: object) -> None:
    directory.remember({"epochs": epochs})
    list(Adoption(KIND, StateFile(directory), directory, RevisionStore(), SharedCounters(directory)).epochs())


def test_directories_of_epochs_go_and_everything_else_stays(directory: RunDirectory) -> None:
    for name in ("3", "17", "other"):
        (directory.path / name).mkdir()
    come_back(directory)
    assert {path.name for path in directory.path.iterdir()} == {"lock", "other", "state.json"}


def test_a_name_that_only_looks_like_a_number_is_left_alone(directory: RunDirectory) -> None:
    (directory.path / "²").mkdir()
    come_back(directory)


def test_what_was_dealt_with_is_not_remembered_any_more(directory: RunDirectory) -> None:
    with epoch() as process:
        assert come_back(directory, entry(process)).inherited == []


@pytest.mark.parametrize("manifest", [None, 0, 999_999, "x"])
def test_an_epoch_whose_manifest_cannot_be_read_is_ended(directory: RunDirectory, manifest: object) -> None:
    with epoch() as process:
        come_back(directory, entry(process, stage="serving", manifest=manifest, places=[["tcp://127.0.0.1:1", "", 0]]))
        process.wait(PATIENCE)
