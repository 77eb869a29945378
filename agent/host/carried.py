"""Files without a usable name that another process carries for this one: opened only if they are still the same files.

A process may put anything under the number of a descriptor that it was given: a pipe, a device, a file that its user
may not read, a file of a file system whose server never answers. So nothing there is opened for what its number says.
It is taken hold of without being opened (O_PATH, open(2), which asks no file system), known by its mount and inode, and
only then opened, through this process's own descriptor, which cannot be exchanged any more.
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
    """One descriptor of another process: its number there, and which file it was given for. See proc(5), fdinfo."""

    descriptor: int
    mount: int
    inode: int

    @classmethod
    def of(cls, descriptor: int) -> "Carried":
        """As it will be in a process that inherits this one."""
        return cls(descriptor, _mount(descriptor), os.fstat(descriptor).st_ino)

    @classmethod
    def in_memory(cls, descriptor: int) -> "Carried":
        """The same for a file that lies in memory: all those lie on one mount, which is asked for once."""
        return cls(descriptor, _memory_mount(), os.fstat(descriptor).st_ino)

    def is_carried_by(self, pid: int) -> bool:
        """Whether a process has that very file open under this number."""
        try:
            os.close(self._grasp(pid))
        except (OSError, ValueError):
            return False
        return True

    def open(self, pid: int) -> int:
        """Open the file for reading; the caller owns the descriptor. Raises `MachineError`."""
        try:
            held = self._grasp(pid)
            try:
                return os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                os.close(held)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            message = f"cannot open descriptor {self.descriptor} of the process {pid}: {reason}"
            raise MachineError(message) from error

    def read(self, pid: int) -> bytes:
        """All of it, if nobody can have changed it since this program sealed it. Raises `MachineError`."""
        opened = self.open(pid)
        with os.fdopen(opened, "rb") as file:
            if not is_sealed(opened):
                message = f"cannot believe descriptor {self.descriptor} of the process {pid}: it is not sealed"
                raise MachineError(message)
            return file.read()

    def _grasp(self, pid: int) -> int:
        """Take hold of the file; raise `OSError`, or `ValueError` if it is another one."""
        held = os.open(f"/proc/{pid}/fd/{self.descriptor}", os.O_PATH | os.O_CLOEXEC)
        if self._is(held):
            return held
        os.close(held)
        message = "it is another file by now"
        raise ValueError(message)

    def _is(self, held: int) -> bool:
        if _mount(held) != self.mount:  # first: to ask for the inode may wait for whoever serves its file system
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
