"""Reopens files that another process holds open by descriptor, if they are still the same.

A process may replace a descriptor that it inherited with anything: a pipe, a device, a file that its user may not read,
a file on a hanging file system. So a descriptor is not opened by its number alone. It is first opened with O_PATH
(open(2)), which does not access the file system, then verified by mount and inode, and only then opened for reading,
through this process's own O_PATH descriptor, which cannot be replaced.
"""

import os
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.core.errors import MachineError
from agent.host.memfds import is_sealed

_MOUNT = "mnt_id:"


@dataclass(frozen=True, slots=True)
class Carried:
    """A descriptor of another process: its number there, and its file. See proc(5), fdinfo."""

    descriptor: int
    mount: int
    inode: int

    @classmethod
    def of(cls, descriptor: int) -> "Carried":
        """Describe a descriptor as it will be in a process that inherits it."""
        return cls(descriptor, _mount(descriptor), os.fstat(descriptor).st_ino)

    @classmethod
    def in_memory(cls, descriptor: int, inode: int | None = None) -> "Carried":
        """Like `of`, for a memfd: all memfds are on one mount, which is read once. `inode`: if it is known."""
        return cls(descriptor, _memory_mount(), os.fstat(descriptor).st_ino if inode is None else inode)

    def is_carried_by(self, pid: int) -> bool:
        """Whether a process has this file open under this number."""
        try:
            os.close(self._grasp(pid))
        except (OSError, ValueError):
            return False
        return True

    def open(self, pid: int, flags: int = os.O_RDONLY) -> int:
        """Open the file, by default for reading; the caller owns the descriptor. Raises `MachineError`."""
        try:
            held = self._grasp(pid)
            try:
                return os.open(f"/proc/self/fd/{held}", flags | os.O_CLOEXEC)
            finally:
                os.close(held)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            message = f"cannot open descriptor {self.descriptor} of the process {pid}: {reason}"
            raise MachineError(message) from error

    def read(self, pid: int) -> bytes:
        """Return the content of a sealed file. Raises `MachineError` if it is not sealed."""
        opened = self.open(pid)
        with os.fdopen(opened, "rb") as file:
            if not is_sealed(opened):
                message = f"cannot trust descriptor {self.descriptor} of the process {pid}: it is not sealed"
                raise MachineError(message)
            return file.read()

    def _grasp(self, pid: int) -> int:
        """Open the file with O_PATH. Raises `OSError`, or `ValueError` if it is another file."""
        held = os.open(f"/proc/{pid}/fd/{self.descriptor}", os.O_PATH | os.O_CLOEXEC)
        if self._is(held):
            return held
        os.close(held)
        message = "it is another file now"
        raise ValueError(message)

    def _is(self, held: int) -> bool:
        if _mount(held) != self.mount:  # first, because fstat may block on a network file system
            return False
        status = os.fstat(held)
        return status.st_ino == self.inode and stat.S_ISREG(status.st_mode)


def _mount(descriptor: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    return next(int(line.removeprefix(_MOUNT)) for line in lines if line.startswith(_MOUNT))


@cache
def _memory_mount() -> int:
    descriptor = os.memfd_create("mount", os.MFD_CLOEXEC)
    try:
        return _mount(descriptor)
    finally:
        os.close(descriptor)
