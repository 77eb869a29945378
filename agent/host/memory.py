"""How much memory is left for one more proxy, what a proxy takes, and whether the kernel killed for want of it.

The files are those of the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. What cannot be read sets no
limit; where nothing can be read, the host's own memory is the limit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

PROC = Path("/proc")

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


@dataclass(frozen=True, slots=True)
class _Group:
    """The control group that this process's memory is counted in: its directory first, then those above it."""

    version: Literal[1, 2]
    directories: tuple[Path, ...]


def host_available() -> int:
    """Bytes that can be had on the host without swapping (MemAvailable, proc_meminfo(5))."""
    return psutil.virtual_memory().available


def free(*, proc: Path = PROC, host: Callable[[], int] = host_available) -> Free:
    """Find what can still be had; the tightest limit counts, be it ours, of a group above ours, or the host."""
    group = _group(proc)
    limits = [] if group is None else list(_FILES[group.version].free_in(group))
    return min([*limits, Free(host(), HOST)], key=lambda each: each.bytes)


def footprint(pid: int, *, proc: Path = PROC) -> Footprint | None:
    """Look at a process; None: it is gone, or a zombie.

    From status, and not from smaps_rollup: that one walks the page tables, and is closed to other users.
    """
    status = _table(proc / str(pid) / "status")
    try:
        found = [status[name] * _KIB for name in ("VmHWM:", "RssAnon:", "RssFile:", "RssShmem:")]
    except KeyError:
        return None
    return Footprint(*found)


def resident(pid: int, *, proc: Path = PROC) -> int | None:
    """The bytes of a process that are in memory; None: it is gone, or a zombie."""
    size = _table(proc / str(pid) / "status").get("VmRSS:")
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
        events = next((found for path in self._sources() if "oom_kill" in (found := _table(path))), {})
        return events.get("oom_kill", 0), events.get("oom_group_kill", 0)

    def _sources(self) -> Iterator[Path]:
        """The most exact one first: our group may not be counted by itself, and memory.events tells of those inside."""
        group = _group(self._proc)
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

    def free_in(self, group: _Group) -> Iterator[Free]:
        """Give what is free under each limit of a group and of those above it."""
        for directory in group.directories:
            if directory != group.directories[0] and _number(directory / "memory.use_hierarchy") == 0:
                return  # before Linux 5.11, it and those above may not count ours
            yield from self._free_at(directory)

    def _free_at(self, directory: Path) -> Iterator[Free]:
        usage = _number(directory / self.usage)
        if usage is None:
            return
        taken = max(0, usage - _table(directory / "memory.stat").get(self.reclaimable, 0))
        for name in self.limits:
            limit = _number(directory / name)
            if limit is not None:
                yield Free(max(0, limit - taken), str(directory / name))


_FILES = {
    1: _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file", ("memory.oom_control",)),
    2: _Files(
        ("memory.max", "memory.high"), "memory.current", "inactive_file", ("memory.events.local", "memory.events")
    ),
}


def _group(proc: Path) -> _Group | None:
    """Find our group. Where v1 and v2 stand side by side, v1 has the memory controller if it is mounted there."""
    memberships = dict(_memberships(proc))
    for version, mount in sorted(_mounts(proc), key=lambda each: each[0]):
        path = memberships.get(version)
        if path is not None:
            return _Group(version, tuple(_upwards(mount, path)))
    return None


def _memberships(proc: Path) -> Iterator[tuple[Literal[1, 2], str]]:
    """Read lines like `4:memory:/user` and `0::/user.slice` (cgroups(7))."""
    for line in _text(proc / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            yield 1, path
        elif number == "0" and not controllers:
            yield 2, path


def _mounts(proc: Path) -> Iterator[tuple[Literal[1, 2], tuple[str, Path]]]:
    """Find where groups are mounted, each with the group that is seen there (proc_pid_mountinfo(5))."""
    for line in _text(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split(" ")[3:5]
        kind, _, options = after.partition(" ")
        if kind == "cgroup2":
            yield 2, (root, Path(point))
        elif kind == "cgroup" and "memory" in options.rpartition(" ")[2].split(","):
            yield 1, (root, Path(point))


def _upwards(mount: tuple[str, Path], path: str) -> Iterator[Path]:
    """Go from our group's directory up to the mount; a container may see only its own group, mounted as the root."""
    root, point = mount
    inside = path.removeprefix(root) if f"{path}/".startswith(f"{root.rstrip('/')}/") else ""
    directory = point.joinpath(*(part for part in inside.split("/") if part not in {"", ".."}))
    while directory != point:
        yield directory
        directory = directory.parent
    yield point


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """Read a file of one number; None where there is none, or the word `max`."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
