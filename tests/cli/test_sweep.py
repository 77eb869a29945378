import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.sweep import sweep
from agent.core.errors import RunDirectoryHeld
from agent.host.run_directory import RunDirectory
from agent.processes import leftovers
from tests.cli.runner import run


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two proxies that outlived their agent; the directories that were swept."""
    swept: list[Path] = []

    def kill(directory: RunDirectory) -> Iterator[tuple[int, int]]:
        swept.append(directory.path)
        yield from ((7, 4242), (8, 4243))

    monkeypatch.setattr(leftovers, "kill_leftovers", kill)
    return swept


def test_each_process_that_is_ended_is_named(tmp_path: Path, killed: list[Path]) -> None:
    ran = run(sweep, "--run-dir", tmp_path)
    assert [[word in line for word in numbers] for line, numbers in zip(
        ran.out.splitlines(), (("7", "4242"), ("8", "4243")), strict=True
    )] == [[True, True]] * 2  # fmt: skip
    assert (ran.code, ran.err, killed) == (0, "", [tmp_path])


def test_the_directory_is_free_afterwards(tmp_path: Path, killed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run(sweep, "--run-dir", tmp_path)
    RunDirectory(tmp_path).close()

    def fail(_: RunDirectory) -> Iterator[tuple[int, int]]:
        raise RuntimeError

    monkeypatch.setattr(leftovers, "kill_leftovers", fail)
    with pytest.raises(AssertionError):
        run(sweep, "--run-dir", tmp_path)
    RunDirectory(tmp_path).close()


def test_the_variable_names_the_directory(tmp_path: Path, killed: list[Path]) -> None:
    run(sweep, AGENT_RUN_DIR=str(tmp_path))
    run(sweep, RUNTIME_DIRECTORY=f"{tmp_path}:/none")
    run(sweep, "--run-dir", tmp_path / "none", AGENT_RUN_DIR=str(tmp_path))
    assert killed == [tmp_path, tmp_path]


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_is_no_directory_is_left_as_it_is(name: str, tmp_path: Path, killed: list[Path]) -> None:
    (tmp_path / "file").touch()
    ran = run(sweep, "--run-dir", tmp_path / name)
    assert (ran.code, ran.out, killed, (tmp_path / "none").exists()) == (0, "", [], False)


def test_nothing_happens_where_an_agent_runs(tmp_path: Path, killed: list[Path]) -> None:
    agent = RunDirectory(tmp_path)
    try:
        with pytest.raises(RunDirectoryHeld, match=str(tmp_path)):
            run(sweep, "--run-dir", tmp_path)
    finally:
        agent.close()
    assert killed == []


@pytest.mark.parametrize("state", ["", "{", "[]", "{}", json.dumps({"epochs": []})])
def test_a_directory_without_leftovers_is_swept_in_silence(state: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(state)
    ran = run(sweep, "--run-dir", tmp_path)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
