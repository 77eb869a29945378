"""Reads files that other programs write: completely, when stable, without blocking on fifos."""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from agent.certificates.contents import Contents, Unreadable
from agent.certificates.findings import Fault
from agent.host.path_resolver import visible_entries

LARGEST = 16 * 1024 * 1024
"""Maximum size of a file in bytes: far above that of any real certificate or configuration."""

_PIECE = 64 * 1024
"""Bytes per read; the file's reported size is not used, because it may be growing."""

_BATCH = 100
"""Files read before control returns to the loop: about 4 ms."""

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
"""Transient errors of the machine or of a file server, not of the file."""

_HURRIED_READS = 4
"""Reads after the timeout, until two in a row agree."""

Read = Callable[[str], bytes | Unreadable]


async def read_stable(
    paths: Collection[str],
    *,
    settled: Callable[[Collection[str]], Awaitable[None]],
    settle_timeout: float,
    read: Read | None = None,
    again: Callable[[], Collection[str]] | None = None,
) -> Contents:
    """Read files until two reads agree and `settled` has returned in between.

    `read` reads one, by default `read_file`. `settled` is the watcher's, and waits for writers; `again` returns the
    files to read after it, by default all: the others are known not to have changed. After `settle_timeout`
    seconds, contents on which two reads agree are accepted although a writer has not closed its file, and finally the
    last read. An unreadable file is an `Unreadable` value, not an error.
    """
    read = read or read_file
    contents: dict[str, bytes | Unreadable] = await _read_all(paths, read)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settle_timeout):
            while True:
                await settled(paths)
                repeated = await _read_all(paths if again is None else again(), read)
                before, contents = contents, contents | repeated
                if contents == before:
                    return contents
    for _ in range(_HURRIED_READS):
        before, contents = contents, await _read_all(paths, read)
        if contents == before:
            break
    return contents


def list_directory(path: str) -> list[str] | Unreadable:
    """Return the sorted regular files in a directory, and links to such, without hidden ones."""
    try:
        return sorted(entry.path for entry in visible_entries(path) if _is_file(entry))
    except (OSError, ValueError) as error:
        return _missing(path, error)


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory with those below it: all `files` and `directories` by path, and why some of these are unreadable."""

    files: list[str]
    directories: list[str]
    unreadable: dict[str, str]


def matching(pattern: str) -> list[str]:
    """Return the paths that match a shell wildcard, in order; a directory's ends with a slash.

    One with a line feed or bytes that are not UTF-8 is left out: a list is a text with a path a line.
    """
    found = sorted(path for path in glob(pattern) if _is_a_line(path))  # noqa: PTH207  # absolute
    return [f"{path}/" if _is_directory_at(path) else path for path in found]


def _is_a_line(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\n" not in path


def _is_directory_at(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # a link loop
        return False


def list_tree(path: str, levels: int, without: str = "") -> Tree | Unreadable:
    """Return the regular files, and links to such, in a tree of directories, without hidden names.

    `levels`: how many directories deep, 1 for this one alone. Links to directories are followed. `without`: a directory
    to leave out.
    """
    top = list_directory(path)
    if isinstance(top, Unreadable):
        return top
    tree = Tree(top, [path], {})
    below = [path]
    for _ in range(levels - 1):
        below = [each for directory in below for each in _directories_in(directory) if each != without]
        for directory in below:
            files = list_directory(directory)
            tree.directories.append(directory)
            if isinstance(files, Unreadable):
                tree.unreadable[directory] = files.reason
            else:
                tree.files.extend(files)
    return tree


def _directories_in(path: str) -> list[str]:
    try:
        return sorted(entry.path for entry in visible_entries(path) if _is_directory(entry))
    except (OSError, ValueError):
        return []


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


async def _read_all(paths: Collection[str], read: Read) -> dict[str, bytes | Unreadable]:
    contents: dict[str, bytes | Unreadable] = {}
    for number, path in enumerate(paths):
        if number % _BATCH == 0:
            await asyncio.sleep(0)  # also lets the watcher process events before the next read
        contents[path] = read(path)
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
    except OSError:  # a link loop, or a link into an inaccessible directory
        return False


def _missing(path: str, error: OSError | ValueError) -> Unreadable:
    """Return the reason for a failed read; a ValueError means a NUL in the file name."""
    if isinstance(error, ValueError):
        return Unreadable("its name contains a NUL byte")  # Python's wording differs from version to version
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.EACCES:
        reason += f" to uid {os.geteuid()}{_owner(path)}"
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Unreadable(_why_not_there(path) or reason)
    return Unreadable(reason, Fault.UNREADABLE, passes=error.errno in _PASSING)


def _owner(path: str) -> str:
    """Describe who may read a file; return an empty string if its directory does not tell."""
    try:
        status = Path(path).stat()
    except OSError:
        return ", which may not enter its directory"
    return f" (mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid}:{status.st_gid})"


def _why_not_there(path: str) -> str:
    """Describe a dangling link; return an empty string for anything else."""
    try:
        return f"it is a link to {os.readlink(path)}, and there is no such file"  # noqa: PTH115  # as it is written
    except OSError:
        return ""
