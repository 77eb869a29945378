"""Finds and reads this process's control group of a controller (cgroups(7)).

Unreadable files count as empty, so that a machine without control groups, or one that hides them, is no special case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROC = Path("/proc")

Version = Literal[1, 2]


@dataclass(frozen=True, slots=True)
class Group:
    """A control group of this process: its directory, then those above it, which also limit it."""

    version: Version
    directories: tuple[Path, ...]


def find(controller: str, *, proc: Path = PROC) -> Group | None:
    """Find our group of a controller (`memory`, `cpu` …); v1 precedes v2 if both are mounted."""
    memberships = dict(_memberships(controller, proc))
    for version, mount in sorted(_mounts(controller, proc), key=lambda each: each[0]):
        path = memberships.get(version)
        if path is not None:
            return Group(version, tuple(_upwards(mount, path)))
    return None


def _memberships(controller: str, proc: Path) -> Iterator[tuple[Version, str]]:
    """Parse lines like `4:memory:/user` and `0::/user.slice`."""
    for line in text(proc / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            yield 1, path
        elif number == "0" and not controllers:
            yield 2, path


def _mounts(controller: str, proc: Path) -> Iterator[tuple[Version, tuple[str, Path]]]:
    """Yield the cgroup mounts, each with the group at its root (proc_pid_mountinfo(5))."""
    for line in text(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        places, kind = before.split(" ")[3:5], after.split(" ")
        if len(places) == 2 and kind[0] == "cgroup2":
            yield 2, (places[0], Path(places[1]))
        elif len(places) == 2 and kind[0] == "cgroup" and controller in kind[-1].split(","):
            yield 1, (places[0], Path(places[1]))


def _upwards(mount: tuple[str, Path], path: str) -> Iterator[Path]:
    """Yield the directories from our group's up to the mount point.

    A container may see only its own group, mounted as the root.
    """
    root, point = mount
    inside = path.removeprefix(root) if f"{path}/".startswith(f"{root.rstrip('/')}/") else ""
    directory = point.joinpath(*(part for part in inside.split("/") if part not in {"", ".."}))
    while directory != point:
        yield directory
        directory = directory.parent
    yield point


def text(path: Path) -> str:
    """Return a file's text; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """Return a file's number; None if it cannot be read or is `max`."""
    content = text(path).strip()
    return int(content) if content.isdecimal() else None


def table(path: Path) -> dict[str, int]:
    """Return a file's lines of a name and a number; further fields are ignored."""
    rows = (line.split() for line in text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
