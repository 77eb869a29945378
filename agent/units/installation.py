"""Writes unit files into a directory and removes them, without touching a file that an operator has changed."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.core.errors import MachineError
from agent.units.unit_files import UnitFile, all_names, is_unchanged

DIRECTORY = Path("/etc/systemd/system")
"""The default: the administrator's units, systemd.unit(5)."""

_OF_PACKAGES = (Path("usr/lib/systemd/system"), Path("lib/systemd/system"))
_FORCE = "remove it, or replace it with --force"
_UNREADABLE = "\0"  # is in no unit file


class Change(StrEnum):
    """The result for one file."""

    WRITTEN = "written"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    KEPT = "kept, because it has been edited; remove it yourself, or with --force"


@dataclass(frozen=True, slots=True)
class UnitDirectory:
    """A directory of units. `root`: the root of the system that will use it, `/` for this one."""

    path: Path
    root: Path = Path("/")

    def install(self, files: Sequence[UnitFile], *, force: bool) -> Iterator[tuple[Path, Change]]:
        """Write the files; yield each path with what happened. Checks all before it writes the first.

        Raises `MachineError`. `force`: also replace files that were edited or belong to something else.
        """
        present = {file.name: _read(self.path / file.name) for file in files}
        if not force:
            for file in files:
                self._check(file, present[file.name])
        for file in files:
            yield self.path / file.name, self._write(file, present[file.name])

    def uninstall(self, *, force: bool) -> Iterator[tuple[Path, Change]]:
        """Remove what `install` wrote; yield each path with what happened. Raises `MachineError`."""
        for name in all_names():
            path, text = self.path / name, _read(self.path / name)
            if text is None:
                continue
            if not force and not is_unchanged(name, text):
                yield path, Change.KEPT
                continue
            with _explained("remove", path):
                path.unlink()
                if path.parent != self.path:
                    with contextlib.suppress(OSError):  # it has other drop-ins
                        path.parent.rmdir()
            yield path, Change.REMOVED

    def enabled(self) -> list[str]:
        """Return the units of ours that a link in this directory enables."""
        links = [*self.path.glob("*.wants/agent*"), *self.path.glob("*.requires/agent*")]
        names = {path.name for path in links}
        return sorted(name for name in names if name in all_names() or name.startswith("agent@"))

    def _check(self, file: UnitFile, present: str | None) -> None:
        path = self.path / file.name
        if path.is_symlink() and os.readlink(path) == os.devnull:  # noqa: PTH115  # as it is written
            message = f"cannot write {path}: the unit is masked; systemctl unmask {file.name}"
            raise MachineError(message)
        if path.is_symlink():
            message = f"cannot write {path}: it is a link to {path.readlink()}; {_FORCE}"
            raise MachineError(message)
        if present is not None and not is_unchanged(file.name, present):
            message = (
                f"cannot write {path}: it has been edited, or is not the agent's; move the changes to a drop-in"
                f" (systemctl edit {file.unit}), then {_FORCE}"
            )
            raise MachineError(message)
        if present is None and (other := self._of_a_package(file.name)) is not None:
            message = (
                f"cannot write {path}: a package has installed {other}, and the new file would replace it; use that"
                " unit, or replace it with --force"
            )
            raise MachineError(message)

    def _of_a_package(self, name: str) -> Path | None:
        places = (self.root / each / name for each in _OF_PACKAGES)
        return next((each for each in places if each.exists() and each.parent.resolve() != self.path.resolve()), None)

    def _write(self, file: UnitFile, present: str | None) -> Change:
        path = self.path / file.name
        if present == file.signed and not path.is_symlink():
            return Change.UNCHANGED
        beside = path.with_name(f".{path.name}.new")
        with _explained("write", path):
            _make_directory(path.parent)
            beside.write_text(file.signed, encoding="utf-8")
            beside.chmod(0o644)
            beside.replace(path)
        return Change.WRITTEN if present is None else Change.UPDATED


def _make_directory(path: Path) -> None:
    """Create a directory that everybody can read, whatever the umask."""
    if not path.exists():
        _make_directory(path.parent)
        path.mkdir()
        path.chmod(0o755)


def _read(path: Path) -> str | None:
    """Return the content of a file; None if there is none, a text that is no unit if it is not a plain file."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return _UNREADABLE
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise MachineError(message) from error


@contextlib.contextmanager
def _explained(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        message = f"cannot {verb} {path}: {str(error.strerror).lower()}; run this command as root"
        raise MachineError(message) from error
    except OSError as error:
        message = f"cannot {verb} {path}: {str(error.strerror).lower()}; --directory names another directory"
        raise MachineError(message) from error
