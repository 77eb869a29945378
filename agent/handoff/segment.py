"""The shared-memory file in which a proxy expects its predecessor's state.

Envoy 1.40 on x86-64: `/dev/shm/envoy_shared_memory_<base id x 10>`, 104 bytes: u64 size, u64 version, two pthread
mutexes of 40 bytes, u64 flags. `--hot-restart-version` prints `<version>.<size>`; mutexes have another size on other
machines, so the layout is computed from that output. Envoy never removes the file, and a flag that a dead candidate
left set blocks every later restart: therefore each epoch gets its own file, and the agent removes it.
"""

import contextlib
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import BadInput, MachineError

KNOWN_MAJOR = 11
_HEADER = struct.Struct("=QQ")
_FLAGS_SIZE = 8
_KIND_OFFSET = 16  # of __kind in a glibc pthread_mutex_t
_SMALLEST, _LARGEST = 24 + 2 * 20, 4096  # a header, flags and two mutexes that at least include __kind; a page
_SHARED_AND_ROBUST = 0x90  # PTHREAD_MUTEX_PSHARED_BIT 0x80 | PTHREAD_MUTEX_ROBUST_NORMAL_NP 0x10


@dataclass(frozen=True, slots=True)
class HotRestartVersion:
    """The output of `--hot-restart-version`: protocol version and shared-memory size in bytes."""

    major: int
    size: int

    @classmethod
    def parse(cls, text: str) -> "HotRestartVersion":
        """Parse `11.104`, the last line of the output; raise `BadInput` with a reason for anything else."""
        text = text.strip().rpartition("\n")[2]
        match = re.fullmatch(r"(\d+)\.(\d+)", text.strip())
        if match is None:
            why = ": it was built without hot restart" if text.strip() == "disabled" else ", not N.N"
            message = f"cannot hand sockets over to this proxy: --hot-restart-version printed {text.strip()!r}{why}"
            raise BadInput(message)
        version = cls(int(match[1]), int(match[2]))
        if not _SMALLEST <= version.size <= _LARGEST or version.size % 2:
            message = f"cannot hand sockets over to this proxy: a shared memory of {version.size} bytes is implausible"
            raise BadInput(message)
        if version.major != KNOWN_MAJOR:
            message = f"cannot hand sockets over to this proxy: it has version {version}, the agent {KNOWN_MAJOR}"
            raise BadInput(message)
        return version

    def __str__(self) -> str:
        return f"{self.major}.{self.size}"

    def image(self) -> bytes:
        """Return the bytes of a fresh segment: no flags, both mutexes unlocked, shared, robust."""
        image = bytearray(self.size)
        _HEADER.pack_into(image, 0, self.size, self.major)
        mutex_size = (self.size - _HEADER.size - _FLAGS_SIZE) // 2
        for start in (_HEADER.size, _HEADER.size + mutex_size):
            image[start + _KIND_OFFSET] = _SHARED_AND_ROBUST
        return bytes(image)


@dataclass(frozen=True, slots=True)
class Segment:
    """One epoch's file in /dev/shm; it claims its base id for as long as it exists."""

    base_id: int
    directory: Path = Path("/dev/shm")  # noqa: S108  # the directory that shm_open(3) uses

    @property
    def path(self) -> Path:
        """The path at which Envoy opens it."""
        return self.directory / f"envoy_shared_memory_{self.base_id * 10}"

    def claim(self, version: HotRestartVersion, owner: tuple[int, int] | None = None) -> bool:
        """Create the file, owned by `owner` (uid, gid); return False if the base id is taken.

        Raises `MachineError`.
        """
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags, 0o600)
        except FileExistsError:
            return False
        except OSError as error:
            message = f"cannot create {self.path}: {error.strerror}; Envoy needs a writable /dev/shm"
            raise MachineError(message) from error
        try:
            self._fill(descriptor, version, owner)
        except OSError as error:
            self.release()
            message = f"cannot fill {self.path}: {error.strerror}"
            raise MachineError(message) from error
        finally:
            os.close(descriptor)
        return True

    @staticmethod
    def _fill(descriptor: int, version: HotRestartVersion, owner: tuple[int, int] | None) -> None:
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.write(descriptor, version.image())

    def release(self) -> None:
        """Remove the file and with it the claim; errors are ignored."""
        with contextlib.suppress(OSError):
            self.path.unlink()
