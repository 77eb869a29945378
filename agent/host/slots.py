"""Rewritable memfds of an epoch: how new certificates reach a running process without storage.

A process inherits two slots for each file that may change, beside the immutable one that it starts with. A new content
is written to a slot that is not in use, so that the one in use stays complete until the process is known to have left
it. See memfd_create(2).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.errors import MachineError
from agent.host import memfds


@dataclass(slots=True)
class _File:
    """One file. `numbers`: its descriptors in the process, the immutable one first; `own`: ours of the two slots.

    `used` and `offered` are indices into `numbers`: what the process is known to use, and what it is to use next.
    """

    numbers: tuple[int, int, int]
    own: tuple[int, int]
    used: int = 0
    offered: int = 0


class Slots:
    """The slots of one process, by path."""

    def __init__(self, files: Mapping[str, _File]) -> None:
        self._files = files

    @classmethod
    def make(cls, first: Mapping[str, int]) -> "Slots":
        """Make slots for files; `first` has the immutable descriptor of each. Raises `MachineError`."""
        made: list[int] = []
        files = {}
        try:
            for path, number in first.items():
                own = (_make(path, made), _make(path, made))
                files[path] = _File((number, *own), own)
        except OSError as error:
            for descriptor in made:
                os.close(descriptor)
            message = f"cannot make memory for {len(first)} files that may be pushed: {error.strerror}"
            raise MachineError(message) from error
        return cls(files)

    @classmethod
    def regain(cls, files: Mapping[str, tuple[tuple[int, int, int], tuple[int, int], int]]) -> "Slots":
        """Take over an earlier agent's: the numbers in the process, our descriptors, and which one is used."""
        return cls({path: _File(numbers, own, used, used) for path, (numbers, own, used) in files.items()})

    @property
    def descriptors(self) -> frozenset[int]:
        """Our descriptors of all slots; a process that is started inherits them under the same numbers."""
        return frozenset(number for file in self._files.values() for number in file.own)

    @property
    def used(self) -> dict[str, int]:
        """Which of its three descriptors the process uses for each path."""
        return {path: file.used for path, file in self._files.items()}

    @property
    def offered(self) -> dict[str, int]:
        """The number in the process of the descriptor that it is to use for each path."""
        return {path: file.numbers[file.offered] for path, file in self._files.items()}

    def of(self, path: str) -> tuple[int, int]:
        """Return our descriptors of a path's slots."""
        return self._files[path].own

    @property
    def paths(self) -> dict[int, str]:
        """The path of each descriptor of the process."""
        return {number: path for path, file in self._files.items() for number in file.numbers}

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write new contents to slots that are not in use, and offer these. Raises `MachineError`."""
        self.restore()
        for path, data in contents.items():
            file = self._files[path]
            slot = 2 if file.used == 1 else 1
            try:
                _fill(file.own[slot - 1], data)
            except OSError as error:
                self.restore()
                message = f"cannot store {path} in memory: {error.strerror}"
                raise MachineError(message) from error
            file.offered = slot

    def commit(self) -> None:
        """Record that the process uses what is offered."""
        for file in self._files.values():
            file.used = file.offered

    def restore(self) -> None:
        """Offer what the process is known to use."""
        for file in self._files.values():
            file.offered = file.used

    def close(self) -> None:
        """Close our descriptors."""
        for number in self.descriptors:
            os.close(number)
        self._files = {}


def _make(path: str, made: list[int]) -> int:
    made.append(memfds.create(path))
    return made[-1]


def _fill(descriptor: int, data: bytes) -> None:
    """Replace the content. An open of /dev/fd/N has an offset of its own, so the shared one does not matter."""
    os.ftruncate(descriptor, 0)
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], written)
