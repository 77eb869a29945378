"""The mount table, and notification of its changes. The format is proc_pid_mountinfo(5)."""

import re
import select
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MOUNTINFO = Path("/proc/self/mountinfo")

_NETWORK = {"afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs"}
_SILENT = _NETWORK | {"smb3", "smbfs", "fuse", "fuseblk", "9p", "virtiofs", "prl_fs", "vboxsf", "vmhgfs"}
"""File systems written to by other hosts: they accept an inotify watch and send no events."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system and its resolved mount point."""

    point: str
    kind: str

    @property
    def is_silent(self) -> bool:
        """Whether changes made by other hosts cause no inotify event."""
        return self.kind in _SILENT or self.kind.startswith("fuse.")


class MountTable:
    """A snapshot of the mounts in this process's namespace."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._by_point = {mount.point: mount for mount in mounts}  # the last mount on a point hides the earlier ones

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a mountinfo file."""
        return cls(_parse_line(line) for line in text.splitlines())

    @property
    def points(self) -> Iterable[str]:
        """The mount points: directories, and single files too."""
        return self._by_point.keys()

    def under(self, path: str) -> Mount | None:
        """Return the mount of a resolved, absolute path; None if the table lacks it (a chroot)."""
        while path not in self._by_point:
            if path in {"", "/"}:
                return None
            path = path.rpartition("/")[0] or "/"
        return self._by_point[path]


def read_mounts() -> MountTable:
    """Read the current mount table; an empty one without /proc."""
    try:
        return MountTable.parse(MOUNTINFO.read_text(errors="surrogateescape"))
    except OSError:
        return MountTable(())


class MountEvents:
    """A descriptor that is readable after a mount or unmount. Raises `OSError` without /proc.

    The kernel signals an exceptional condition on mountinfo, which is always readable; asyncio waits for readable
    descriptors only, so an epoll instance translates.
    """

    def __init__(self) -> None:
        self._mountinfo = MOUNTINFO.open("rb")
        self._epoll = select.epoll()
        self._epoll.register(self._mountinfo, select.EPOLLPRI)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._epoll.fileno()

    def acknowledge(self) -> None:
        """Consume the event, so that only the next change makes the descriptor readable."""
        self._epoll.poll(0)

    def close(self) -> None:
        """Close both descriptors."""
        self._epoll.close()
        self._mountinfo.close()


def _parse_line(line: str) -> Mount:
    """Parse the mount point, the fifth field, and the type, the first field after the dash."""
    before, _, after = line.partition(" - ")
    return Mount(_unescape(before.split(" ")[4]), after.split(" ")[0])


def _unescape(field: str) -> str:
    r"""Decode the kernel's octal escapes: a space is written as ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
