"""Reading files that others write: whole, at rest, and without ever waiting for one that is not a file."""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Collection

from agent.certificates.contents import Contents, Unreadable
from agent.certificates.findings import Fault
from agent.host.path_resolver import visible_entries

LARGEST = 16 * 1024 * 1024
"""Bytes read of one file at most: no certificate or configuration comes near, only an accident goes beyond."""

_PIECE = 64 * 1024
"""Bytes asked for at once; what a file says of its size is not believed, it may be growing."""

_BATCH = 100
"""Files read before the loop gets its turn: some 4 ms."""

_PASSING = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EINTR,
        errno.EREMOTEIO,
        errno.EHOSTDOWN,
    }
)
"""Errors of the machine or of a file server, which pass, and tell nothing of the file."""

_HURRIED_READS = 4
"""Reads in search of two that agree, once there is no more time to wait for a writer."""


async def read_stable(
    paths: Collection[str], *, settled: Callable[[Collection[str]], Awaitable[None]], settle_timeout: float
) -> Contents:
    """Read until two reads agree and `settled` has returned in between, for `settle_timeout` seconds at most.

    `settled` is the watcher's, and waits for writers. After the timeout what two reads agree on is taken although a
    writer has not closed its file, and in the end whatever was read last. A file that is not to be had is a value, and
    no error.
    """
    contents = await _read_all(paths)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settle_timeout):
            while True:
                await settled(paths)
                before, contents = contents, await _read_all(paths)
                if contents == before:
                    return contents
    for _ in range(_HURRIED_READS):
        before, contents = contents, await _read_all(paths)
        if contents == before:
            break
    return contents


def list_directory(path: str) -> list[str] | Unreadable:
    """List the regular files in a directory, and the links to such, in order; no hidden ones, no sub-directories."""
    try:
        return sorted(entry.path for entry in visible_entries(path) if _is_file(entry))
    except (OSError, ValueError) as error:
        return _missing(path, error)


async def _read_all(paths: Collection[str]) -> Contents:
    contents: dict[str, bytes | Unreadable] = {}
    for number, path in enumerate(paths):
        if number % _BATCH == 0:
            await asyncio.sleep(0)  # also lets the watcher hear of writers before the next read
        contents[path] = read_file(path)
    return contents


def read_file(path: str) -> bytes | Unreadable:
    """Read a regular file; O_NONBLOCK because opening a fifo would wait for its writer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        return _missing(path, error)
    try:
        return _read_regular(descriptor)
    except OSError as error:
        return _missing(path, error)
    finally:
        os.close(descriptor)


def _read_regular(descriptor: int) -> bytes | Unreadable:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        return Unreadable("a directory, not a file", Fault.UNREADABLE)
    if not stat.S_ISREG(status.st_mode):
        return Unreadable("not a regular file", Fault.UNREADABLE)
    content = bytearray()
    while len(content) <= LARGEST:
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return bytes(content)
        content += piece
    return Unreadable(f"larger than {LARGEST // 1024**2} MiB", Fault.UNREADABLE)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in circles, or into a place that may not be entered
        return False


def _missing(path: str, error: OSError | ValueError) -> Unreadable:
    """Say why there are no bytes; a ValueError is Python's word for a NUL in a name, which configurations may hold."""
    if isinstance(error, ValueError):
        return Unreadable("its name contains a NUL byte")  # Python's wording differs from version to version
    reason = (error.strerror or str(error)).lower()
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Unreadable(_why_not_there(path) or reason)
    return Unreadable(reason, Fault.UNREADABLE, passes=error.errno in _PASSING)


def _why_not_there(path: str) -> str:
    """Tell where a link leads that leads nowhere; return nothing for anything else."""
    try:
        return f"it is a link to {os.readlink(path)}, and there is no such file"  # noqa: PTH115  # as it is written
    except OSError:
        return ""
