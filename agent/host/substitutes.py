"""Where an epoch lives while the run directory takes nothing: its disk is full, read-only or gone.

That must not keep a proxy from being started again. So there is a directory by a name that follows from the run
directory's in each of a few places that a machine has for files of the moment, made when it is needed and removed when
it is empty. One that somebody else has made there, or holds, is passed over.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

PLACES = tuple(map(Path, ("/dev/shm", "/run", "/tmp", "/var/tmp")))  # noqa: S108  # see `_hold`
"""Envoy starts nowhere without the first one."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = 0o022


class Substitutes:
    """The directories that stand in for one run directory; those that an earlier agent left are taken over."""

    def __init__(self, path: Path, mode: int) -> None:
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        self._paths = [place / f"proxy-agent-{digest[:12]}" for place in PLACES]
        self._mode = mode
        self._held: dict[Path, int] = {}
        for each in self._paths:
            self._hold(each)

    def found(self) -> list[Path]:
        """Those that are there."""
        return list(self._held)

    def made(self) -> Iterator[Path]:
        """Give one after the other, made where it was not there; those that cannot be made are passed over."""
        for path in self._paths:
            if path not in self._held:
                with contextlib.suppress(OSError):
                    path.mkdir(self._mode)
                    path.chmod(self._mode)
                self._hold(path)
            if path in self._held:
                yield path

    def _hold(self, path: Path) -> None:
        """Take a directory for ours if only this user can have made and filled it, and nobody holds it."""
        try:
            descriptor = os.open(path, _DIRECTORY)
        except OSError:
            return
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
                raise PermissionError
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return
        self._held[path] = descriptor

    def tidy(self) -> None:
        """Remove those that are empty."""
        for path in self.found():
            with contextlib.suppress(OSError):
                path.rmdir()
                os.close(self._held.pop(path))

    def close(self) -> None:
        """Remove those that are empty, and let go of the others."""
        self.tidy()
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
