"""Fallback directories for epochs, for when the run directory is full, read-only or missing.

That must not prevent a restart of the proxy. So in each of a few standard places for temporary files there is a
directory with a name derived from the run directory's, created when needed and removed when empty. One that another
user has created, or another agent has locked, is skipped.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

PLACES = tuple(map(Path, ("/dev/shm", "/run", "/tmp", "/var/tmp")))  # noqa: S108  # see `_hold`
"""Envoy cannot start without the first one."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = 0o022


class FallbackDirectories:
    """The fallback directories of one run directory; reuses those of an earlier agent."""

    def __init__(self, path: Path, mode: int) -> None:
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        self._paths = [place / f"proxy-agent-{digest[:12]}" for place in PLACES]
        self._mode = mode
        self._held: dict[Path, int] = {}
        for each in self._paths:
            self._hold(each)

    def found(self) -> list[Path]:
        """Return the existing directories."""
        return list(self._held)

    def made(self) -> Iterator[Path]:
        """Yield the directories, creating missing ones; skips those that cannot be created."""
        for path in self._paths:
            if path not in self._held:
                with contextlib.suppress(OSError):
                    path.mkdir(self._mode)
                    path.chmod(self._mode)
                self._hold(path)
            if path in self._held:
                yield path

    def _hold(self, path: Path) -> None:
        """Lock a directory if only this user can have created and filled it, and it is not locked."""
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
        """Remove empty directories."""
        for path in self.found():
            with contextlib.suppress(OSError):
                path.rmdir()
                os.close(self._held.pop(path))

    def close(self) -> None:
        """Remove empty directories and unlock the others."""
        self.tidy()
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
