"""Mounts: which file systems lie under a path, and when that changes. The format is proc_pid_mountinfo(5)'s."""

import re
import select
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MOUNTINFO = Path("/proc/self/mountinfo")

_NETWORK = {"afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs"}
_SILENT = _NETWORK | {"smb3", "smbfs", "fuse", "fuseblk", "9p", "virtiofs", "prl_fs", "vboxsf", "vmhgfs"}
"""File systems that others write to behind this kernel's back: they accept an inotify watch and send nothing."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system and the place where it is mounted, in resolved form."""

    point: str
    kind: str

    @property
    def is_silent(self) -> bool:
        """Whether changes made elsewhere arrive here without an event."""
        return self.kind in _SILENT or self.kind.startswith("fuse.")


class MountTable:
    """The mounts of this process's namespace at one time."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._by_point = {
            mount.point: mount for mount in mounts
        }  # the last one mounted on a place is what is seen there

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a mountinfo file."""
        return cls(_parse_line(line) for line in text.splitlines())

    @property
    def points(self) -> Iterable[str]:
        """The places where something is mounted: directories, and single files too."""
        return self._by_point.keys()

    def under(self, path: str) -> Mount | None:
        """Find the mount that a resolved, absolute path lies on; None where the table does not say (a chroot)."""
        while path not in self._by_point:
            if path in {"", "/"}:
                return None
            path = path.rpartition("/")[0] or "/"
        return self._by_point[path]


def read_mounts() -> MountTable:
    """Read the mount table as it is now; an empty one where /proc is not to be had."""
    try:
        return MountTable.parse(MOUNTINFO.read_text(errors="surrogateescape"))
    except OSError:
        return MountTable(())


class MountEvents:
    """A descriptor that is readable whenever something was mounted or unmounted; raises OSError without /proc.

    The kernel tells it by an exceptional condition on mountinfo, which is always readable besides; asyncio waits for
    readable descriptors only, and an epoll instance is one that translates.
    """

    def __init__(self) -> None:
        self._mountinfo = MOUNTINFO.open("rb")
        self._epoll = select.epoll()
        self._epoll.register(self._mountinfo, select.EPOLLPRI)

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self._epoll.fileno()

    def acknowledge(self) -> None:
        """Take the event, so that only the next change makes the descriptor readable again."""
        self._epoll.poll(0)

    def close(self) -> None:
        """Close both descriptors."""
        self._epoll.close()
        self._mountinfo.close()


def _parse_line(line: str) -> Mount:
    """Take the mount point, the fifth field, and the kind, the first one after the dash."""
    before, _, after = line.partition(" - ")
    return Mount(_unescape(before.split(" ")[4]), after.split(" ")[0])


def _unescape(field: str) -> str:
    r"""Undo the kernel's octal escapes: a blank is written as ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
