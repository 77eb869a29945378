"""Sealed memfds, which an epoch opens as `/dev/fd/N`: immutable and independent of the disk.

There is one descriptor per content: unchanged files keep theirs across revisions, so that ten thousand certificates of
which one changed cost one new descriptor. See memfd_create(2), and fcntl(2) on F_ADD_SEALS.
"""

import fcntl
import hashlib
import os
from dataclasses import dataclass

from agent.core.errors import MachineError

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_NAME_LIMIT = 249  # bytes, memfd_create(2)


@dataclass(slots=True)
class _Held:
    descriptor: int
    inode: int
    digest: str
    holders: int = 0


class Memfds:
    """A store of reference-counted memfds, by their content.

    A content that is held is found by the hash that its object remembers, so the same object costs next to nothing.
    """

    def __init__(self) -> None:
        self._held: dict[bytes, _Held] = {}
        self._sealed: list[int] = []

    def hold(self, name: str, data: bytes) -> int:
        """Return a descriptor of this content, held until `release`; `name` shows only in /proc."""
        held = self._held.get(data)
        if held is None:
            descriptor = _seal(name, data)
            held = self._held[data] = _Held(descriptor, os.fstat(descriptor).st_ino, digest_of(data))
        held.holders += 1
        return held.descriptor

    def seal(self, name: str, data: bytes) -> int:
        """Return a new descriptor of this content, held until `close`; the content itself is not kept."""
        self._sealed.append(_seal(name, data))
        return self._sealed[-1]

    def holds(self, data: bytes) -> bool:
        """Return whether this content is held."""
        return data in self._held

    def digest(self, data: bytes) -> str:
        """Return the SHA-256 of a content, in hex, computed once while it is held."""
        held = self._held.get(data)
        return digest_of(data) if held is None else held.digest

    def inode(self, data: bytes) -> int:
        """Return the inode of a content that is held."""
        return self._held[data].inode

    @property
    def descriptors(self) -> frozenset[int]:
        """All open descriptors."""
        return frozenset([*(held.descriptor for held in self._held.values()), *self._sealed])

    def close(self) -> None:
        """Close all descriptors, even if held."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self._held.clear()
        self._sealed.clear()

    def release(self, data: bytes) -> None:
        """Release this content once; the last release closes it."""
        held = self._held[data]
        held.holders -= 1
        if not held.holders:
            os.close(self._held.pop(data).descriptor)


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of the content, in hex."""
    return hashlib.sha256(data).hexdigest()


def create(name: str, flags: int = 0) -> int:
    """Create an empty memfd; /proc shows the end of `name`. Raises `OSError`."""
    return os.memfd_create(os.fsdecode(os.fsencode(name)[-_NAME_LIMIT:]), os.MFD_CLOEXEC | flags)


def is_sealed(descriptor: int) -> bool:
    """Whether this is a fully sealed memfd of this user."""
    try:
        return os.fstat(descriptor).st_uid == os.geteuid() and fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == _SEALS
    except OSError:  # only files in memory can have seals
        return False


def _seal(name: str, data: bytes) -> int:
    try:
        descriptor = create(name, os.MFD_ALLOW_SEALING)
        try:
            _fill(descriptor, data)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        message = f"cannot store {name} in memory: {error.strerror}"
        raise MachineError(message) from error
    return descriptor


def _fill(descriptor: int, data: bytes) -> None:
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
