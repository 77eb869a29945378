"""The run directory: the agent's lock, its memory of what happened, and a directory for each epoch."""

import fcntl
import json
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from agent.core.errors import MachineError, RunDirectoryHeld
from agent.host.log import log_event
from agent.host.removal import remove
from agent.host.substitutes import Substitutes

_STATE = "state.json"
_LOCK = "lock"
_HALF_MADE = "~"  # how the names of directories begin in which sockets are made; what is left of them is swept


class RunDirectory:
    """A directory that is this agent's alone, mode 0700, from construction until `close`.

    Raises `RunDirectoryHeld` naming the other agent, `MachineError` if the directory cannot be made or is not ours.
    """

    def __init__(self, path: Path, *, traversable: bool = False) -> None:
        self.path = path
        self._mode = 0o711 if traversable else 0o700
        _make(path, self._mode)
        _refuse_foreign(path)
        self._lock = _lock(path / _LOCK)
        self._substitutes = Substitutes(path, self._mode)

    def close(self) -> None:
        """Give the lock up; the directory itself stays."""
        self._substitutes.close()
        os.close(self._lock)

    def _hold_on(self) -> None:
        """Make the directory and its lock anew where somebody emptied /run under us."""
        try:
            if os.path.samestat(os.fstat(self._lock), (self.path / _LOCK).stat()):
                return
        except OSError:
            _make(self.path, self._mode)
        fresh = _lock(self.path / _LOCK)
        os.close(self._lock)
        self._lock = fresh

    # Memory

    def recall(self, name: str = _STATE) -> dict[str, object]:
        """What the last agent here wrote, or nothing. A file that makes no sense counts as none."""
        try:
            state = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def remember(self, state: dict[str, object], name: str = _STATE) -> None:
        """Write a state in one piece: a reader sees the old or the new one. Raises `MachineError`."""
        target = self.path / name
        self._hold_on()
        try:
            with tempfile.NamedTemporaryFile("w", dir=self.path, prefix=".state-", delete=False) as file:
                try:
                    file.write(json.dumps(state) + "\n")
                    file.flush()
                    Path(file.name).rename(target)
                except OSError:
                    Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            message = f"cannot write {target}: {error.strerror}"
            raise MachineError(message) from error

    # Epochs

    @property
    def homes(self) -> list[Path]:
        """The directories in which those of epochs are: this one, and what stands in for it."""
        return [self.path, *self._substitutes.found()]

    def make_epoch(self, number: int, owner: tuple[int, int] | None, links: Mapping[str, str] | None = None) -> Path:
        """A directory for an epoch, owned by (uid, gid), empty but for these links. Raises `MachineError`.

        Where there is no room for it here, it lies elsewhere (see `substitutes`): a crash must be answered even so.
        """
        path = self.path / str(number)
        try:
            self._hold_on()
            _fill(path, owner, links or {})
        except (OSError, MachineError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            remove(path)
            return self._make_elsewhere(number, owner, links or {}, f"cannot make {path}: {reason}")
        return path

    def _make_elsewhere(
        self, number: int, owner: tuple[int, int] | None, links: Mapping[str, str], problem: str
    ) -> Path:
        for directory in self._substitutes.made():
            path = directory / str(number)
            try:
                _fill(path, owner, links)
            except OSError:
                remove(path)
                continue
            log_event(
                logging.ERROR, "run_directory.unusable", f"{problem}; epoch {number} lives in {path}", epoch=number
            )
            return path
        raise MachineError(problem)

    def epoch(self, number: int) -> Path:
        """Where the directory of an epoch is."""
        paths = [home / str(number) for home in self.homes]
        return next(filter(os.path.lexists, paths), paths[0])

    def remove_epoch(self, number: int) -> None:
        """Remove what an epoch left; nothing happens if it is gone."""
        for home in self.homes:
            remove(home / str(number))
        self._substitutes.tidy()


def _fill(path: Path, owner: tuple[int, int] | None, links: Mapping[str, str]) -> None:
    """Make an epoch's directory, and see that sockets can be made beside it."""
    remove(path)
    path.mkdir(mode=0o700)
    for name, target in links.items():
        link = path / name
        link.parent.mkdir(mode=0o755, exist_ok=True)
        link.symlink_to(target)
    Path(tempfile.mkdtemp(prefix=_HALF_MADE, dir=path.parent)).rmdir()
    if owner is not None:  # last: whatever is made in there by name is made before it is his
        os.chown(path, *owner)


def _make(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            message = (
                f"cannot use the run directory {path}: it is not a directory of this user; choose another --run-dir"
            )
            raise MachineError(message)
        path.chmod(mode)
    except OSError as error:
        message = f"cannot use the run directory {path}: {error.strerror}; choose a writable --run-dir"
        raise MachineError(message) from error


def _refuse_foreign(path: Path) -> None:
    names = {entry.name for entry in path.iterdir()}
    if names and names.isdisjoint({_LOCK, _STATE}):
        message = f"cannot use the run directory {path}: there are files in it that are no agent's; choose another"
        raise MachineError(message)


def _lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot lock {path}: {error.strerror}"
        raise MachineError(message) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        message = (
            f"cannot use the run directory {path.parent}: another agent (pid {holder}) does; choose another --run-dir"
        )
        raise RunDirectoryHeld(message) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
