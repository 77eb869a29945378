"""Where this process's control group of a controller is, and the files in it (cgroups(7)).

What cannot be read is empty, so that a machine without control groups, or one that hides them, is no special case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROC = Path("/proc")

Version = Literal[1, 2]


@dataclass(frozen=True, slots=True)
class Group:
    """A group that this process is in: its directory first, then those above it, whose limits hold for it as well."""

    version: Version
    directories: tuple[Path, ...]


def find(controller: str, *, proc: Path = PROC) -> Group | None:
    """Find our group of `memory`, `cpu` …. Where v1 and v2 stand side by side, v1 has it if it is mounted there."""
    memberships = dict(_memberships(controller, proc))
    for version, mount in sorted(_mounts(controller, proc), key=lambda each: each[0]):
        path = memberships.get(version)
        if path is not None:
            return Group(version, tuple(_upwards(mount, path)))
    return None


def _memberships(controller: str, proc: Path) -> Iterator[tuple[Version, str]]:
    """Read lines like `4:memory:/user` and `0::/user.slice`."""
    for line in text(proc / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            yield 1, path
        elif number == "0" and not controllers:
            yield 2, path


def _mounts(controller: str, proc: Path) -> Iterator[tuple[Version, tuple[str, Path]]]:
    """Find where groups are mounted, each with the group that is seen there (proc_pid_mountinfo(5))."""
    for line in text(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        places, kind = before.split(" ")[3:5], after.split(" ")
        if len(places) == 2 and kind[0] == "cgroup2":
            yield 2, (places[0], Path(places[1]))
        elif len(places) == 2 and kind[0] == "cgroup" and controller in kind[-1].split(","):
            yield 1, (places[0], Path(places[1]))


def _upwards(mount: tuple[str, Path], path: str) -> Iterator[Path]:
    """Go from our group's directory up to the mount; a container may see only its own group, mounted as the root."""
    root, point = mount
    inside = path.removeprefix(root) if f"{path}/".startswith(f"{root.rstrip('/')}/") else ""
    directory = point.joinpath(*(part for part in inside.split("/") if part not in {"", ".."}))
    while directory != point:
        yield directory
        directory = directory.parent
    yield point


def text(path: Path) -> str:
    """A file's text; empty where there is none to be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """Read a file of one number; None where there is none, or the word `max`."""
    content = text(path).strip()
    return int(content) if content.isdecimal() else None


def table(path: Path) -> dict[str, int]:
    """Read lines of a name and a number, whatever follows it."""
    rows = (line.split() for line in text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
