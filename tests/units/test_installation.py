import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.units import UNITS
from agent.units.installation import Change, UnitDirectory
from agent.units.unit_files import all_names, unit_files

FILES = unit_files(Path("/opt/a/bin/agent"), notify_reload=False)
MOVED = unit_files(Path("/opt/b/bin/agent"), notify_reload=False)
ALL = unit_files(Path("/opt/a/bin/agent"), notify_reload=True)


@pytest.fixture
def units(tmp_path: Path) -> UnitDirectory:
    return UnitDirectory(tmp_path / "etc/systemd/system", tmp_path)


def changes(units: UnitDirectory, files: list[object] | None = None, *, force: bool = False) -> list[Change]:
    return [change for _, change in units.install(files or FILES, force=force)]  # type: ignore[arg-type]


def tree(units: UnitDirectory) -> list[str]:
    return sorted(str(path.relative_to(units.path)) for path in units.path.rglob("*"))


def test_the_files_are_written_once(units: UnitDirectory) -> None:
    assert [path for path, _ in units.install(FILES, force=False)] == [units.path / name for name in UNITS]
    assert changes(units) == [Change.UNCHANGED] * 3
    assert [(units.path / file.name).read_text() for file in FILES] == [file.signed for file in FILES]
    assert tree(units) == sorted(UNITS)


def test_all_may_read_them_whatever_the_umask(units: UnitDirectory) -> None:
    before = os.umask(0o077)
    try:
        changes(units, list(ALL))
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in units.path.rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in (units.path, units.path / "agent.service.d")}
    assert (modes, folders) == ({0o644}, {0o755})


def test_a_program_that_moved_updates_them(units: UnitDirectory) -> None:
    changes(units)
    assert changes(units, list(MOVED)) == [Change.UPDATED, Change.UPDATED, Change.UNCHANGED], (
        "the socket has no program"
    )
    assert "/opt/b/bin/agent" in (units.path / "agent.service").read_text()


def test_a_copy_from_the_repository_is_updated(units: UnitDirectory) -> None:
    units.path.mkdir(parents=True)
    shipped = unit_files(Path("/usr/local/bin/agent"), notify_reload=False)
    (units.path / "agent.service").write_text(shipped[0].text)
    assert changes(units)[0] == Change.UPDATED


def edited(path: Path) -> None:
    path.write_text(path.read_text() + "LimitCORE=0\n")


def masked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def not_utf8(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"# \xff\n")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (edited, r"it has been edited.*systemctl edit agent@\.service.*--force"),
        (masked, r"the unit is masked; systemctl unmask agent@\.service"),
        (linked, r"it is a link to .*--force"),
        (a_directory, "it has been edited, or is not the agent's"),
        (not_utf8, "it has been edited"),
    ],
)
def test_what_an_operator_changed_stops_everything(
    units: UnitDirectory, damage: Callable[[Path], None], reason: str
) -> None:
    changes(units)
    damage(units.path / "agent@.service")
    before = [(units.path / name).lstat().st_mtime_ns for name in UNITS]
    with pytest.raises(MachineError, match=f"cannot write .*agent@.service: .*{reason}"):
        changes(units, list(MOVED))
    assert [(units.path / name).lstat().st_mtime_ns for name in UNITS] == before, (
        "nothing is written, not the first either"
    )


@pytest.mark.parametrize("damage", [edited, masked, linked])
def test_force_replaces_it(units: UnitDirectory, damage: Callable[[Path], None]) -> None:
    changes(units)
    damage(units.path / "agent@.service")
    assert changes(units, force=True)[1] == Change.UPDATED
    assert not (units.path / "agent@.service").is_symlink()
    assert changes(units) == [Change.UNCHANGED] * 3
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("place", ["usr/lib/systemd/system", "lib/systemd/system"])
def test_the_unit_of_a_package_is_not_shadowed(units: UnitDirectory, tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "agent.service").touch()
    with pytest.raises(MachineError, match=f"a package has installed {tmp_path}/{place}/agent.service"):
        changes(units)
    assert not units.path.exists()
    assert changes(units, force=True) == [Change.WRITTEN] * 3
    assert changes(UnitDirectory(tmp_path / place, tmp_path), force=True)[0] == Change.UPDATED


def test_the_directory_of_packages_itself_can_be_filled(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/systemd/system").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    units = UnitDirectory(tmp_path / "lib/systemd/system", tmp_path)
    assert (changes(units), changes(units)) == ([Change.WRITTEN] * 3, [Change.UNCHANGED] * 3)


def test_a_file_in_the_way_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"cannot read .*: Not a directory"):
        changes(UnitDirectory(tmp_path / "file"))


def test_all_that_was_written_is_removed(units: UnitDirectory) -> None:
    changes(units, list(ALL))
    assert [change for _, change in units.uninstall(force=False)] == [Change.REMOVED] * len(all_names())
    assert tree(units) == []
    assert list(units.uninstall(force=False)) == []


def test_what_is_not_ours_stays(units: UnitDirectory) -> None:
    changes(units, list(ALL))
    edited(units.path / "agent.socket")
    (units.path / "agent.service.d/here.conf").write_text("[Service]\n")
    (units.path / "other.service").touch()
    found = dict(units.uninstall(force=False))
    assert found[units.path / "agent.socket"] == Change.KEPT
    assert tree(units) == ["agent.service.d", "agent.service.d/here.conf", "agent.socket", "other.service"]
    assert list(units.uninstall(force=True)) == [(units.path / "agent.socket", Change.REMOVED)]


def test_links_that_enable_units_are_found(units: UnitDirectory) -> None:
    changes(units)
    assert units.enabled() == []
    for name in ("agent.service", "agent@edge.service", "agent-of-another.service", "agentx.service"):
        wants = units.path / "multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / name).symlink_to(units.path / name)
    (units.path / "sockets.target.requires").mkdir()
    (units.path / "sockets.target.requires/agent.socket").symlink_to(units.path / "agent.socket")
    assert units.enabled() == ["agent.service", "agent.socket", "agent@edge.service"]
