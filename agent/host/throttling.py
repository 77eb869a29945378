"""Whether this process's control group was kept from running, because it had used up its share of processor time.

The files are those of the kernel's admin-guide/cgroup-v2.rst (cpu.stat) and scheduler/sched-bwc.rst (version 1). A
limit on any group above ours holds for ours as well, so all of them count. Where nothing can be read, nothing is
throttled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_SECONDS = {"throttled_usec": 1e-6, "throttled_time": 1e-9}  # of version 2, and of version 1


@dataclass(frozen=True, slots=True)
class Throttled:
    """Up to now: in how many periods the group or one above it was kept from running, and for how many seconds.

    The seconds are those of each processor, added up.
    """

    periods: int = 0
    seconds: float = 0.0


def read(*, proc: Path = PROC) -> Throttled:
    """What was counted up to now; only differences tell anything."""
    tables = [_table(directory / "cpu.stat") for directory in _directories(proc)]
    periods = sum(table.get("nr_throttled", 0) for table in tables)
    return Throttled(periods, sum(table.get(name, 0) * unit for table in tables for name, unit in _SECONDS.items()))


def _directories(proc: Path) -> Iterator[Path]:
    """Our group's directory and those above it: of version 1 where that has the controller, else of version 2."""
    paths = dict(_memberships(proc))
    mounts = sorted((mount for mount in _mounts(proc) if mount[0] in paths), key=lambda mount: mount[0])
    if mounts:
        version, root, point = mounts[0]
        yield from _upwards(root, point, paths[version])


def _memberships(proc: Path) -> Iterator[tuple[int, str]]:
    """Read lines like `1:cpu,cpuacct:/user` and `0::/user.slice` (cgroups(7))."""
    for line in _text(proc / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpu" in controllers.split(","):
            yield 1, path
        elif number == "0" and not controllers:
            yield 2, path


def _mounts(proc: Path) -> Iterator[tuple[int, str, Path]]:
    """Find where groups are mounted: the version, the group that is seen there, and where (proc_pid_mountinfo(5))."""
    for line in _text(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        places, kind = before.split(" ")[3:5], after.split(" ")
        if len(places) == 2 and kind[0] == "cgroup2":
            yield 2, places[0], Path(places[1])
        elif len(places) == 2 and kind[0] == "cgroup" and "cpu" in kind[-1].split(","):
            yield 1, places[0], Path(places[1])


def _upwards(root: str, point: Path, path: str) -> Iterator[Path]:
    """Go from our group's directory up to the mount; a container may see only its own group, mounted as the root."""
    inside = path.removeprefix(root) if f"{path}/".startswith(f"{root.rstrip('/')}/") else ""
    directory = point.joinpath(*(part for part in inside.split("/") if part not in {"", ".."}))
    yield directory
    while directory != point:
        directory = directory.parent
        yield directory


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _table(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
