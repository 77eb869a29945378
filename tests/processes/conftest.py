"""The rules of tests/host, and a run directory of the test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.certificates.contents import Contents
from agent.host.processes import Process
from agent.host.run_directory import RunDirectory
from agent.processes import epoch_process
from agent.processes.epoch_process import EpochProcess
from agent.processes.survivor import Survivor
from tests.handoff.conftest import base_id
from tests.host.conftest import no_descriptor_leaks, ordinary, pytest_pyfunc_call
from tests.processes.fakes import Calls, FakeProcess, Kernel, Revisions

MakeEpoch = Callable[..., EpochProcess]

__all__ = ["base_id", "no_descriptor_leaks", "ordinary", "pytest_pyfunc_call"]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    """A run directory of the test's own."""
    made = RunDirectory(tmp_path / "run")
    yield made
    made.close()


@pytest.fixture
def revisions(no_descriptor_leaks: None) -> Iterator[Revisions]:
    """A revision store, and a program that is never executed."""
    made = Revisions()
    yield made
    made.close()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that starts no process."""
    made = Kernel()
    monkeypatch.setattr(Process, "start", made.start)
    monkeypatch.setattr(Process, "adopt", made.adopt)
    monkeypatch.setattr(epoch_process, "run", made.run)
    return made


@pytest.fixture
def make_epoch(directory: RunDirectory, revisions: Revisions) -> Iterator[MakeEpoch]:
    """Make epoch processes without a process; what is theirs is removed at the end."""
    made: list[EpochProcess] = []

    def make(
        text: str = "{}",
        contents: Contents | None = None,
        *,
        number: int = 1,
        pid: int | None = None,
        found: Survivor | None = None,
        calls: Calls | None = None,
    ) -> EpochProcess:
        access = (calls or Calls()).access
        epoch = EpochProcess(number, revisions.load(text, contents), directory, None, access, found)
        made.append(epoch)
        if pid is not None:
            epoch.process = FakeProcess(pid=pid)  # type: ignore[assignment]
        return epoch

    yield make
    for each in made:
        if each.home.exists():
            each.clear()
