"""The shared-memory file of a chain: a flag whether one of its processes is still starting.

Epoch 0 creates the file anew, every later one opens it. The layout is that of `agent.handoff.segment`. Envoy never
removes the file, and leaves the flag set if it dies while it starts; this epoch clears its flag, and the last one of a
chain removes the file.
"""

import os
import sys
from dataclasses import dataclass

from agent.core.errors import MachineError
from agent.handoff.segment import HotRestartVersion, Segment

_INITIALIZING = 1
_WORD = 8


@dataclass
class SharedMemory:
    """One process's handle on the file."""

    segment: Segment
    _descriptor: int
    _flags_at: int
    _is_starting: bool = False

    @classmethod
    def attach(cls, base_id: int, version: HotRestartVersion, *, first: bool) -> "SharedMemory":
        """Create (as the first of a chain) or open the file; set the flag: this process is starting.

        Raises `MachineError` if it is missing, of another version, or if another process is starting.
        """
        segment = Segment(base_id)
        if first:
            _make(segment, version)
        memory = cls(segment, _open(segment), version.size - _WORD)
        try:
            memory._check(version)
            memory._begin()
        except (MachineError, OSError):
            memory.close()
            raise
        return memory

    def started(self) -> None:
        """Clear the flag: this process has started, and the next one may start."""
        if self._is_starting:
            self._is_starting = False
            self._write(self._read() & ~_INITIALIZING)

    def close(self) -> None:
        """Close the file, and clear the flag if this process set it; safe to repeat."""
        if self._descriptor != -1:
            self.started()
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Remove the file, if it still is the one that was attached: the chain ends here."""
        try:
            same = os.path.samestat(os.fstat(self._descriptor), self.segment.path.lstat())
        except OSError:
            return
        if same:
            self.segment.release()

    def _check(self, version: HotRestartVersion) -> None:
        header = os.pread(self._descriptor, 2 * _WORD, 0)
        size, major = (int.from_bytes(header[start : start + _WORD], sys.byteorder) for start in (0, _WORD))
        if (major, size) != (version.major, version.size) or os.fstat(self._descriptor).st_size < size:
            message = (
                f"cannot join the chain of {self.segment.path}: its hot-restart version is {major}.{size}, this "
                f"program's is {version}; start as --restart-epoch 0 of another --base-id"
            )
            raise MachineError(message)

    def _begin(self) -> None:
        flags = self._read()
        if flags & _INITIALIZING:
            message = (
                f"cannot join the chain of {self.segment.path}: another process of it is still starting; try again "
                "when it has, or, if none runs, start as --restart-epoch 0 of another --base-id"
            )
            raise MachineError(message)
        self._write(flags | _INITIALIZING)
        self._is_starting = True

    def _read(self) -> int:
        return int.from_bytes(os.pread(self._descriptor, _WORD, self._flags_at), sys.byteorder)

    def _write(self, flags: int) -> None:
        os.pwrite(self._descriptor, flags.to_bytes(_WORD, sys.byteorder), self._flags_at)


def _make(segment: Segment, version: HotRestartVersion) -> None:
    segment.release()
    if not segment.claim(version):
        message = f"cannot create {segment.path}: a file of another user exists; choose another --base-id"
        raise MachineError(message)


def _open(segment: Segment) -> int:
    try:
        return os.open(segment.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        message = f"cannot join a chain: {segment.path} does not exist; the first process is --restart-epoch 0"
        raise MachineError(message) from None
    except OSError as error:
        message = f"cannot join a chain: cannot open {segment.path}: {error.strerror}"
        raise MachineError(message) from error
