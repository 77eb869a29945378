"""Reads files again only if their status has changed since.

A file of which device, inode, size and both times are as before is not opened: its value from the last read is
returned, the same object. ctime changes with every write(2) and rename(2), and no program can set it back. Two cases
are not believed, and the file is read:

- The status was seen for the first time less than `SETTLED` before the last read. Clocks of file systems are coarse, so
  a write just after that read might have left the same time ("racy git", technical/racy-git in git's documentation).
- ctime is in whole seconds: the file system may have no finer clock, or, as some FUSE servers, a constant.

A write through a shared mapping changes no time until it is synchronised, mmap(2); no watch reports it either.
"""

import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

from agent.certificates.contents import Unreadable
from agent.host import clock
from agent.host.files import read_file

SETTLED = 2.0
"""Seconds; the coarsest clock of a file system, that of FAT, has steps of two."""

Status = tuple[int, ...]
"""Device, inode, size, mtime and ctime in nanoseconds."""

_SECOND = 1_000_000_000


@dataclass(slots=True)
class _Known:
    status: Status
    since: float  # monotonic: when this status was seen first
    read_at: float  # monotonic: when the value was read
    value: bytes
    round: int  # when it was asked for last
    is_proven: bool = False  # by its status alone, at the last read

    def proves(self, status: Status) -> bool:
        """Return whether a file with this status still has the value."""
        is_fine = bool(status) and status[-1] % _SECOND != 0
        return is_fine and status == self.status and self.read_at - self.since >= SETTLED


class KnownFiles:
    """Returns `of` the content of files; an equal value is the same object as before."""

    def __init__(self, of: Callable[[bytes], bytes] = bytes, now: Callable[[], float] = clock.monotonic) -> None:
        self._of = of
        self._now = now
        self._known: dict[str, _Known] = {}
        self._round = 0

    def read(self, path: str) -> bytes | Unreadable:
        """Return the value of a file, or why it cannot be read."""
        status, known = _status(path), self._known.get(path)
        if known is not None and known.proves(status):
            known.round = self._round
            known.is_proven = True
            return known.value
        now = self._now()
        content = read_file(path)
        if isinstance(content, Unreadable):
            self._known.pop(path, None)
            return content
        value, since = self._of(content), now
        if known is not None:
            value = known.value if known.value == value else value
            since = known.since if known.status == status else now
        self._known[path] = _Known(status, since, now, value, self._round)
        return value

    def opened(self, paths: Collection[str]) -> list[str]:
        """Return those whose last read opened the file, or failed: its status did not prove the value."""
        return [path for path in paths if (known := self._known.get(path)) is None or not known.is_proven]

    def forget_unused(self) -> None:
        """Forget the files that were not read since the last call."""
        self._known = {path: known for path, known in self._known.items() if known.round == self._round}
        self._round += 1


def digests() -> KnownFiles:
    """Return one that keeps the SHA-256 of each content instead of the content."""
    return KnownFiles(lambda content: hashlib.sha256(content).digest())


def _status(path: str) -> Status:
    """Return the status before a read: a later write gives another one. It is empty if there is no file."""
    try:
        status = os.stat(path)  # noqa: PTH116  # a path of ten thousand, as text
    except (OSError, ValueError):  # ValueError for a NUL, which a configuration may contain
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
