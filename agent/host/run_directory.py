"""The run directory: the agent's lock, its state file, and a directory for each epoch."""

import fcntl
import json
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from agent.core.errors import MachineError, RunDirectoryHeld
from agent.host.fallback_directories import FallbackDirectories
from agent.host.log import log_event
from agent.host.removal import remove

_STATE = "state.json"
_LOCK = "lock"
_HALF_MADE = "~"  # prefix of temporary directories in which sockets are created; leftovers are removed


class RunDirectory:
    """A directory locked by this agent from construction until `close`.

    Its mode is 0700, or 0711 if `traversable`. Raises `RunDirectoryHeld` naming the other agent, `MachineError` if the
    directory cannot be created or belongs to another user.
    """

    def __init__(self, path: Path, *, traversable: bool = False) -> None:
        self.path = path
        self._mode = 0o711 if traversable else 0o700
        _make(path, self._mode)
        _refuse_foreign(path)
        self._lock = _occupy(path, self._mode)
        self._fallbacks = FallbackDirectories(path, self._mode)

    def close(self) -> None:
        """Release the lock; the directory itself stays."""
        self._fallbacks.close()
        os.close(self._lock)

    def _hold_on(self) -> None:
        """Recreate the directory and its lock if they were removed, as when /run is emptied."""
        try:
            if os.path.samestat(os.fstat(self._lock), (self.path / _LOCK).stat()):
                return
        except OSError:
            _make(self.path, self._mode)
        fresh = _occupy(self.path, self._mode)
        os.close(self._lock)
        self._lock = fresh

    # State

    def recall(self, name: str = _STATE) -> dict[str, object]:
        """Return the state written by the last agent; empty if missing or invalid."""
        try:
            state = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def remember(self, state: dict[str, object], name: str = _STATE) -> None:
        """Write a state atomically: readers see the old or the new one. Raises `MachineError`."""
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
        """The directories that may contain epoch directories: this one and its fallbacks."""
        return [self.path, *self._fallbacks.found()]

    def make_epoch(self, number: int, owner: tuple[int, int] | None, links: Mapping[str, str] | None = None) -> Path:
        """Create an epoch's directory, owned by (uid, gid), with these links. Raises `MachineError`.

        If that fails here, it is created in one of the `FallbackDirectories`, because a crash must be followed by a
        restart in any case.
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
        for directory in self._fallbacks.made():
            path = directory / str(number)
            try:
                _fill(path, owner, links)
            except OSError:
                remove(path)
                continue
            log_event(logging.ERROR, "run_directory.unusable", f"{problem}; epoch {number} uses {path}", epoch=number)
            return path
        raise MachineError(problem)

    def epoch(self, number: int) -> Path:
        """Return the path of an epoch's directory."""
        paths = [home / str(number) for home in self.homes]
        return next(filter(os.path.lexists, paths), paths[0])

    def remove_epoch(self, number: int) -> None:
        """Remove an epoch's directory; does nothing if it is missing."""
        for home in self.homes:
            remove(home / str(number))
        self._fallbacks.tidy()


def _fill(path: Path, owner: tuple[int, int] | None, links: Mapping[str, str]) -> None:
    """Create an epoch's directory, and check that sockets can be created beside it."""
    remove(path)
    path.mkdir(mode=0o700)
    for name, target in links.items():
        _put(path, name, target, None)
    Path(tempfile.mkdtemp(prefix=_HALF_MADE, dir=path.parent)).rmdir()
    if owner is not None:  # last: all names in it are created before that user controls it
        os.chown(path, *owner)


def add_tree(home: Path, tree: Mapping[str, str | bytes], owner: tuple[int, int] | None) -> None:
    """Add what an epoch's directory lacks of a tree, see `Copies.tree`. Raises `MachineError`.

    The directory belongs to the proxy's user. So each part is made in a directory of the agent, and then renamed.
    """
    parts = {name.partition("/")[0] for name in tree}
    missing = {part for part in parts if not os.path.lexists(home / part)}
    if not missing:
        return
    private = None
    try:
        private = Path(tempfile.mkdtemp(prefix=_HALF_MADE, dir=home.parent))
        for name, content in tree.items():
            if name.partition("/")[0] in missing:
                _put(private, name, content, owner)
        for part in missing:
            (private / part).rename(home / part)
    except OSError as error:
        message = f"cannot make the files of an epoch in {home}: {error.strerror}"
        raise MachineError(message) from error
    finally:
        if private is not None:
            remove(private)


def _put(path: Path, name: str, content: str | bytes, owner: tuple[int, int] | None) -> None:
    """Make a symbolic link or a file, with the directories below `path` that a proxy of another user goes through."""
    made = path / name
    for parent in reversed([each for each in made.parents if path in each.parents]):
        parent.mkdir(exist_ok=True)
        parent.chmod(0o755)  # whatever the umask
    if isinstance(content, str):
        made.symlink_to(content)
        return
    made.touch(mode=0o600)
    made.write_bytes(content)
    if owner is not None:
        os.chown(made, *owner)


def _make(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            message = (
                f"cannot use the run directory {path}: it is not a directory of this user; choose another --run-dir"
            )
            raise MachineError(message)
        path.chmod(stat.S_IMODE(found.st_mode) & 0o711)  # not yet `mode`: another agent may hold the lock
    except OSError as error:
        message = f"cannot use the run directory {path}: {error.strerror}; choose a writable --run-dir"
        raise MachineError(message) from error


def _refuse_foreign(path: Path) -> None:
    names = {entry.name for entry in path.iterdir()}
    if names and names.isdisjoint({_LOCK, _STATE}):
        message = f"cannot use the run directory {path}: it contains files of other programs; choose another"
        raise MachineError(message)


def _occupy(path: Path, mode: int) -> int:
    """Lock the directory and set its mode; return the lock's descriptor."""
    descriptor = _lock(path / _LOCK)
    path.chmod(mode)
    return descriptor


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
