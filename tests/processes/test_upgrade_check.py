"""The check whether a new program can take over, before the old one exits."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.core.errors import BadInput, MachineError, UsageError
from agent.host.processes import created_at
from agent.host.run_directory import RunDirectory
from agent.processes import upgrade_check
from tests.handoff.epochs import leaked_since, open_descriptors
from tests.processes.fakes import KIND, Kernel, Revisions
from tests.processes.test_adoption import Left, whole


def attempt(directory: RunDirectory, *epochs: object, proxy: str = "/bin/true") -> str:
    directory.remember({"epochs": list(epochs)})
    settings: Any = SimpleNamespace(proxy=proxy, kind=KIND, run_directory=Path(directory.path))
    before = open_descriptors()
    try:
        return upgrade_check.dry_run(settings)
    finally:
        leaked_since(before)  # what was read is the process's until it ends


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


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "{}", '{"epochs": [{"number"', "\udcff"], ids=repr)
def test_a_state_that_is_half_written_or_of_another_form_is_told(directory: RunDirectory, text: str) -> None:
    path = directory.path / "state.json"
    path.write_bytes(os.fsencode(text))
    settings: Any = SimpleNamespace(proxy="/bin/true", run_directory=Path(directory.path))
    with pytest.raises(BadInput, match=str(path)):
        upgrade_check.dry_run(settings)


@pytest.mark.parametrize("entry", [None, 7, "x", [], {}, {"number": 3}])
def test_an_entry_that_names_no_process_is_no_obstacle(directory: RunDirectory, entry: object) -> None:
    assert "epoch" not in attempt(directory, entry)


def test_a_program_that_is_not_there_is_told(directory: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=str(tmp_path / "gone")):
        attempt(directory, proxy=str(tmp_path / "gone"))


@contextmanager
def carrying(left: Left, manifest: int) -> "Iterator[subprocess.Popen[bytes]]":
    """An epoch that serves with these files."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=left.carries(manifest)) as process:
        yield process
        process.kill()


@pytest.fixture
def left(revisions: Revisions) -> Iterator[Left]:
    made = Left(revisions)
    yield made
    made.close()


def test_the_epochs_that_can_be_taken_over_are_named_and_go_on(directory: RunDirectory, left: Left) -> None:
    manifest = left.held()
    with carrying(left, manifest) as nine, carrying(left, manifest) as ten:
        entries = [whole(ten, manifest, number=10), whole(nine, manifest, number=9, stage="draining")]
        state = directory.path / "state.json"
        assert attempt(directory, *entries).endswith("epoch 9 and 10")
        before = state.read_bytes()
        assert attempt(directory, entries[0]).endswith("epoch 10")
        assert state.read_bytes() != before, "written by the test"
        assert (nine.poll(), ten.poll()) == (None, None)


def test_an_epoch_whose_files_cannot_be_read_is_not_given_up(directory: RunDirectory, left: Left) -> None:
    manifest = left.held(identity=(1, 2, 3, 4))
    with carrying(left, manifest) as process:
        with pytest.raises(BadInput, match=str(process.pid)):
            attempt(directory, whole(process, manifest))
        assert process.poll() is None


@pytest.mark.parametrize("stage", ["opening", "serving", "draining"])
def test_an_epoch_with_clients_that_is_told_of_in_another_way_is_an_obstacle(
    directory: RunDirectory, stage: str
) -> None:
    own = {"number": 7, "stage": stage, "pid": os.getpid(), "created": created_at(os.getpid()), "manifest": 5}
    with pytest.raises(BadInput, match="epoch 7"):
        attempt(directory, own)


@pytest.mark.parametrize("stage", ["starting", "waiting", "leaving", "gone", None])
def test_an_epoch_without_clients_is_no_obstacle(directory: RunDirectory, stage: object) -> None:
    own = {"number": 7, "stage": stage, "pid": os.getpid(), "created": created_at(os.getpid()), "manifest": 5}
    assert "epoch" not in attempt(directory, own)


# The program on disk


@pytest.fixture
def program(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Answers in place of the program on disk."""
    monkeypatch.setattr(upgrade_check, "run", kernel.run)
    return kernel


async def test_the_program_on_disk_is_asked_with_this_agents_command_line(
    program: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "agent", "--certs", "/c"])
    monkeypatch.setenv("AGENT_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("UNRELATED", "1")
    program.results = [(3, "cannot take over epoch 7")]
    assert await upgrade_check.run_program_on_disk() == (3, "cannot take over epoch 7")
    [(command, timeout)] = program.ran
    assert command.arguments == ["python", "-m", "agent", "--certs", "/c"]
    assert command.executable == sys.executable
    assert command.environment["AGENT_LISTEN"] == "127.0.0.1:1"
    assert command.environment["AGENT_TRIAL"] == "1", "it only tries"
    assert "UNRELATED" not in command.environment, "the rest is every command's"
    assert timeout == 30.0


async def test_the_interpreter_that_was_opened_is_this_one_and_is_closed_again(
    program: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []

    async def run(command: Any, _: float) -> tuple[int, str]:  # noqa: ANN401
        seen.append((os.fstat(command.binary).st_ino, os.get_inheritable(command.binary)))
        return 0, ""

    monkeypatch.setattr(upgrade_check, "run", run)
    await upgrade_check.run_program_on_disk()
    assert seen == [(Path(sys.executable).stat().st_ino, False)]


async def test_a_program_that_does_not_end_is_the_machines_error(program: Kernel) -> None:
    program.results = [MachineError("it did not end within 30 s")]
    with pytest.raises(MachineError):
        await upgrade_check.run_program_on_disk()
