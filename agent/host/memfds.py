"""Files without a name: sealed memory that an epoch opens as `/dev/fd/N`; no disk can spoil it, nobody can change it.

One descriptor per content: files that did not change keep theirs from revision to revision, so that ten thousand
certificates of which one changed cost one new descriptor. See memfd_create(2), and fcntl(2) on F_ADD_SEALS.
"""

import fcntl
import hashlib
import os

from agent.core.errors import MachineError

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_NAME_LIMIT = 249  # bytes, memfd_create(2)


class Memfds:
    """A store of contents by digest, each kept for as long as somebody holds it."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._holders: dict[str, int] = {}

    def hold(self, name: str, data: bytes) -> int:
        """Return a descriptor of this content and hold it until `release`. `name` is only seen in /proc."""
        digest = digest_of(data)
        if digest not in self._descriptors:
            self._descriptors[digest] = _seal(name, data)
        self._holders[digest] = self._holders.get(digest, 0) + 1
        return self._descriptors[digest]

    @property
    def descriptors(self) -> frozenset[int]:
        """Every descriptor that is held."""
        return frozenset(self._descriptors.values())

    def close(self) -> None:
        """Let go of everything, whoever holds it."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._holders.clear()

    def release(self, data: bytes) -> None:
        """Hold this content once less; the last release closes it."""
        digest = digest_of(data)
        self._holders[digest] -= 1
        if not self._holders[digest]:
            del self._holders[digest]
            os.close(self._descriptors.pop(digest))


def digest_of(data: bytes) -> str:
    """The content's name."""
    return hashlib.sha256(data).hexdigest()


def is_sealed(descriptor: int) -> bool:
    """Whether this is such a file, made by this user, and nobody can change it."""
    try:
        return os.fstat(descriptor).st_uid == os.geteuid() and fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == _SEALS
    except OSError:  # only what lies in memory can have seals
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
        message = f"cannot keep {name} in memory: {error.strerror}"
        raise MachineError(message) from error
    return descriptor


def _fill(descriptor: int, data: bytes) -> None:
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
