"""How much memory is left for one more proxy, what a proxy takes, and whether the kernel killed for want of it.

The files are those of the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. What cannot be read sets no
limit; where nothing can be read, the host's own memory is the limit.
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
    """Memory to be had, in bytes, and the limit that is met first: a file of the control group, or `HOST`."""

    bytes: int
    limit_name: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process takes, in bytes.

    `peak` is the most it ever had in memory at once; `anonymous` is its own now, `shared_memory` what it uses of such;
    `mapped_files` now, mostly its program, which a second process of the same program shares.
    """

    peak: int
    anonymous: int
    mapped_files: int
    shared_memory: int

    @property
    def of_one_more(self) -> int:
        """What another process like it would take at its peak."""
        return max(self.peak - self.mapped_files, self.anonymous)


def host_available() -> int:
    """Bytes that can be had on the host without swapping (MemAvailable, proc_meminfo(5))."""
    return psutil.virtual_memory().available


def free(*, proc: Path = PROC, host: Callable[[], int] = host_available) -> Free:
    """Find what can still be had; the tightest limit counts, be it ours, of a group above ours, or the host."""
    group = control_groups.find("memory", proc=proc)
    limits = [] if group is None else list(_FILES[group.version].free_in(group))
    return min([*limits, Free(host(), HOST)], key=lambda each: each.bytes)


def footprint(pid: int, *, proc: Path = PROC) -> Footprint | None:
    """Look at a process; None: it is gone, or a zombie.

    From status, and not from smaps_rollup: that one walks the page tables, and is closed to other users.
    """
    status = control_groups.table(proc / str(pid) / "status")
    try:
        found = [status[name] * _KIB for name in ("VmHWM:", "RssAnon:", "RssFile:", "RssShmem:")]
    except KeyError:
        return None
    return Footprint(*found)


def resident(pid: int, *, proc: Path = PROC) -> int | None:
    """The bytes of a process that are in memory; None: it is gone, or a zombie."""
    size = control_groups.table(proc / str(pid) / "status").get("VmRSS:")
    return None if size is None else size * _KIB


class OomWatch:
    """Tells of processes that the kernel killed because memory ran out.

    Counted are those in our control group; where there is none, those of the whole machine. The kernel counts before it
    kills, so the count is there when the exit is seen.
    """

    def __init__(self, *, proc: Path = PROC) -> None:
        self._proc = proc
        self._seen = self._counts()

    def kills(self) -> int:
        """How many since asked last; a whole group killed at once counts as one at least."""
        seen, self._seen = self._seen, self._counts()
        return max(0, *(now - before for now, before in zip(self._seen, seen, strict=True)))

    def _counts(self) -> tuple[int, int]:
        """Processes killed, and groups killed as a whole."""
        events = next((found for path in self._sources() if "oom_kill" in (found := control_groups.table(path))), {})
        return events.get("oom_kill", 0), events.get("oom_group_kill", 0)

    def _sources(self) -> Iterator[Path]:
        """The most exact one first: our group may not be counted by itself, and memory.events tells of those inside."""
        group = control_groups.find("memory", proc=self._proc)
        if group is not None:
            events = _FILES[group.version].events
            yield from (directory / name for directory in group.directories for name in events)
        yield self._proc / "vmstat"


@dataclass(frozen=True, slots=True)
class _Files:
    """What the files of one version are called."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: str  # in memory.stat: file pages that nobody has asked for lately
    events: tuple[str, ...]

    def free_in(self, group: Group) -> Iterator[Free]:
        """Give what is free under each limit of a group and of those above it."""
        for directory in group.directories:
            if directory != group.directories[0] and control_groups.number(directory / "memory.use_hierarchy") == 0:
                return  # before Linux 5.11, it and those above may not count ours
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
