"""The segment file: created empty by the agent, sized by the writer, opened by a reader.

Links are never followed.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.stats.errors import InvalidSegment, Unwritable


def reserve(path: Path, owner: tuple[int, int] | None = None) -> None:
    """Create an empty file for a proxy to fill, mode 0600, owned by `owner` (uid, gid).

    Raises `Unwritable` if a file exists or the kernel refuses; a partly prepared file is removed.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise Unwritable(f"cannot create {path}: {_why(error)}") from error
    try:
        os.fchmod(descriptor, 0o600)  # regardless of the umask
        if owner is not None:
            os.fchown(descriptor, *owner)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise Unwritable(f"cannot give {path} to {owner}: {_why(error)}") from error
    finally:
        os.close(descriptor)


@contextmanager
def claimed(path: Path, size: int) -> Iterator[int]:
    """Yield a descriptor of the empty file at `path`, grown to `size` bytes of allocated space.

    A page that is missing on a full disk would kill the writer by SIGBUS in the middle of a request: therefore the
    blocks are allocated here (posix_fallocate(3)), where failure is an error. Raises `Unwritable`, also if another
    writer uses or used the file: the workers of one server inherit one name. If the file is mapped within this block,
    the lock (flock(2)) lasts as long as the writer, because Python's mmap keeps a duplicate of the descriptor.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unwritable(f"cannot write statistics to {path}: {_why(error)}") from error
    try:
        _grow(descriptor, path, size)
        yield descriptor
    finally:
        os.close(descriptor)


def _grow(descriptor: int, path: Path, size: int) -> None:
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unwritable(f"cannot write statistics to {path}: not a regular file")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_size:
            raise Unwritable(f"cannot write statistics to {path}: another writer used it, each needs its own")
        os.posix_fallocate(descriptor, 0, size)
    except BlockingIOError as error:
        raise Unwritable(f"cannot write statistics to {path}: another writer uses it, each needs its own") from error
    except OSError as error:
        raise Unwritable(f"cannot write statistics to {path}, {size} bytes: {_why(error)}") from error


def opened(path: Path) -> int:
    """Open for reading; raise `InvalidSegment` unless it is a regular file with private mode."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise InvalidSegment(path, _why(error)) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) and not mode & 0o077:
        return descriptor
    os.close(descriptor)
    raise InvalidSegment(
        path, f"mode {stat.S_IMODE(mode):04o}, not 0600" if stat.S_ISREG(mode) else "not a regular file"
    )


def _why(error: OSError | ValueError) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error)).lower()
