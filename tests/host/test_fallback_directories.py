"""An epoch's directory lies elsewhere if the run directory is not writable, but only where no other user interferes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.host import fallback_directories
from agent.host.fallback_directories import FallbackDirectories
from agent.host.run_directory import RunDirectory

wants_root = pytest.mark.skipif(os.geteuid() != 0, reason="wants root")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two candidate directories."""
    found = (tmp_path / "one", tmp_path / "two")
    for each in found:
        each.mkdir()
    monkeypatch.setattr(fallback_directories, "PLACES", found)
    return found


def only_in(*allowed: Path) -> Callable[..., None]:
    """Creating a directory fails elsewhere: every other disk is full."""
    mkdir = Path.mkdir

    def refuse(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if not any(self.is_relative_to(each) for each in allowed):
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(self, mode, parents, exist_ok)

    return refuse


def test_an_epoch_uses_another_directory_while_there_is_no_space_and_removes_it(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", only_in(*places))
        home = directory.make_epoch(7, None, {"bin/proxy": "/proc/self/fd/3"})
    assert home.is_relative_to(places[0])
    assert (home / "bin/proxy").readlink() == Path("/proc/self/fd/3")
    assert home.parent.stat().st_mode & 0o777 == 0o700
    assert directory.epoch(7) == home
    assert "no space left" in caplog.text.lower()
    assert str(home) in caplog.text
    assert directory.make_epoch(8, None).parent == directory.path, "the next one lives where it should"
    directory.remove_epoch(7)
    assert list(places[0].iterdir()) == []
    directory.close()


def test_the_next_agent_finds_it_there(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", only_in(*places))
        home = directory.make_epoch(7, None)
    directory.close()
    after = RunDirectory(tmp_path / "run")
    assert after.epoch(7) == home
    assert after.homes == [after.path, home.parent]
    after.remove_epoch(7)
    after.close()
    assert list(places[0].iterdir()) == []


def test_the_first_place_may_be_as_full(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", only_in(places[1]))
        assert directory.make_epoch(7, None).is_relative_to(places[1])
        patch.setattr(Path, "mkdir", only_in(tmp_path / "nowhere"))
        with pytest.raises(MachineError, match=r"cannot make .*/run/8: No space left"):
            directory.make_epoch(8, None)
    directory.remove_epoch(7)
    directory.close()


@wants_root
def test_a_directory_that_another_user_has_made_is_skipped(places: tuple[Path, Path], tmp_path: Path) -> None:
    (name,) = {path.name for path in _made(tmp_path / "run")}
    squatted, link = places[0] / name, places[1] / name
    squatted.mkdir()
    os.chown(squatted, 65534, 65534)
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    assert _made(tmp_path / "run") == []
    os.chown(squatted, 0, 0)
    squatted.chmod(0o777)
    assert _made(tmp_path / "run") == [], "anybody may have filled it"


def _made(run: Path) -> list[Path]:
    made = FallbackDirectories(run, 0o700)
    try:
        return list(made.made())
    finally:
        made.close()


def test_one_that_another_agent_holds_is_passed_over(places: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = FallbackDirectories(tmp_path / "run", 0o700), FallbackDirectories(tmp_path / "run", 0o700)
    assert [path.parent for path in first.made()] == [*places]
    assert list(second.made()) == []
    first.close()
    second.close()
    assert [path for place in places for path in place.iterdir()] == []
