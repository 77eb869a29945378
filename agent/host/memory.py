"""Memory available for one more proxy, the footprint of a proxy, and OOM kills.

The files are those of the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. A file that cannot be read sets
no limit; if none can be read, the host's own memory is the limit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.host import control_groups
from agent.host.control_groups import PROC, Group

HOST = "the host's available memory"

_KIB = 1024


@dataclass(frozen=True, slots=True)
class Free:
    """Available memory in bytes, and the tightest limit: a control group's file, or `HOST`."""

    bytes: int
    limit_name: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of a process, in bytes.

    `peak` is its highest resident size so far; the others are current. `mapped_files` is mostly its program, which a
    second process of the same program shares.
    """

    peak: int
    anonymous: int
    mapped_files: int
    shared_memory: int

    @property
    def of_one_more(self) -> int:
        """The memory that another such process would use at its peak."""
        return max(self.peak - self.mapped_files, self.anonymous)


def host_available() -> int:
    """Return the bytes available on the host without swapping (MemAvailable, proc_meminfo(5))."""
    return psutil.virtual_memory().available


def free(*, proc: Path = PROC, host: Callable[[], int] = host_available) -> Free:
    """Return the available memory under the tightest limit.

    The limits are those of our control group, of the groups above it, and of the host.
    """
    group = control_groups.find("memory", proc=proc)
    limits = [] if group is None else list(_FILES[group.version].free_in(group))
    return min([*limits, Free(host(), HOST)], key=lambda each: each.bytes)


def footprint(pid: int, *, proc: Path = PROC) -> Footprint | None:
    """Return a process's footprint; None if it exited or is a zombie.

    Read from status, not from smaps_rollup, which scans the page tables and denies access to other users.
    """
    status = control_groups.table(proc / str(pid) / "status")
    try:
        found = [status[name] * _KIB for name in ("VmHWM:", "RssAnon:", "RssFile:", "RssShmem:")]
    except KeyError:
        return None
    return Footprint(*found)


def resident(pid: int, *, proc: Path = PROC) -> int | None:
    """Return a process's resident bytes; None if it exited or is a zombie."""
    size = control_groups.table(proc / str(pid) / "status").get("VmRSS:")
    return None if size is None else size * _KIB


class OomWatch:
    """Counts the processes that the kernel killed because memory ran out.

    It counts those in our control group, or without one, those of the machine. The kernel counts before it kills, so
    the count is up to date when an exit is seen.
    """

    def __init__(self, *, proc: Path = PROC) -> None:
        self._proc = proc
        self._seen = self._counts()

    def kills(self) -> int:
        """Return the kills since the last call; a group killed at once counts as at least one."""
        seen, self._seen = self._seen, self._counts()
        return max(0, *(now - before for now, before in zip(self._seen, seen, strict=True)))

    def _counts(self) -> tuple[int, int]:
        """Return the processes killed, and the groups killed at once."""
        events = next((found for path in self._sources() if "oom_kill" in (found := control_groups.table(path))), {})
        return events.get("oom_kill", 0), events.get("oom_group_kill", 0)

    def _sources(self) -> Iterator[Path]:
        """Yield the files to try, the most exact first.

        Our group may have no counter of its own, and memory.events includes the groups below.
        """
        group = control_groups.find("memory", proc=self._proc)
        if group is not None:
            events = _FILES[group.version].events
            yield from (directory / name for directory in group.directories for name in events)
        yield self._proc / "vmstat"


@dataclass(frozen=True, slots=True)
class _Files:
    """The file names of one cgroup version."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: str  # in memory.stat: file pages not used lately
    events: tuple[str, ...]

    def free_in(self, group: Group) -> Iterator[Free]:
        """Yield the free memory under each limit of a group and of those above it."""
        for directory in group.directories:
            if directory != group.directories[0] and control_groups.number(directory / "memory.use_hierarchy") == 0:
                return  # before Linux 5.11, this group and those above may not include ours
            yield from self._free_at(directory)

    def _free_at(self, directory: Path) -> Iterator[Free]:
        usage = control_groups.number(directory / self.usage)
        if usage is None:
            return
        taken = max(0, usage - control_groups.table(directory / "memory.stat").get(self.reclaimable, 0))
        for name in self.limits:
            limit = control_groups.number(directory / name)
            if limit is not None:
                yield Free(max(0, limit - taken), str(directory / name))


_FILES = {
    1: _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file", ("memory.oom_control",)),
    2: _Files(
        ("memory.max", "memory.high"), "memory.current", "inactive_file", ("memory.events.local", "memory.events")
    ),
}
