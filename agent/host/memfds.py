"""Sealed memfds, which an epoch opens as `/dev/fd/N`: immutable and independent of the disk.

There is one descriptor per content: unchanged files keep theirs across revisions, so that ten thousand certificates of
which one changed cost one new descriptor. See memfd_create(2), and fcntl(2) on F_ADD_SEALS.
"""

import fcntl
import hashlib
import os

from agent.core.errors import MachineError

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_NAME_LIMIT = 249  # bytes, memfd_create(2)


class Memfds:
    """A store of reference-counted memfds, by digest of their content."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._holders: dict[str, int] = {}

    def hold(self, name: str, data: bytes) -> int:
        """Return a descriptor of this content, held until `release`; `name` shows only in /proc."""
        digest = digest_of(data)
        if digest not in self._descriptors:
            self._descriptors[digest] = _seal(name, data)
        self._holders[digest] = self._holders.get(digest, 0) + 1
        return self._descriptors[digest]

    @property
    def descriptors(self) -> frozenset[int]:
        """All open descriptors."""
        return frozenset(self._descriptors.values())

    def close(self) -> None:
        """Close all descriptors, even if held."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._holders.clear()

    def release(self, data: bytes) -> None:
        """Release this content once; the last release closes it."""
        digest = digest_of(data)
        self._holders[digest] -= 1
        if not self._holders[digest]:
            del self._holders[digest]
            os.close(self._descriptors.pop(digest))


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of the content, in hex."""
    return hashlib.sha256(data).hexdigest()


def is_sealed(descriptor: int) -> bool:
    """Whether this is a fully sealed memfd of this user."""
    try:
        return os.fstat(descriptor).st_uid == os.geteuid() and fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == _SEALS
    except OSError:  # only files in memory can have seals
        return False


def _seal(name: str, data: bytes) -> int:
    try:
        shown = os.fsdecode(os.fsencode(name)[-_NAME_LIMIT:])
        descriptor = os.memfd_create(shown, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
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
