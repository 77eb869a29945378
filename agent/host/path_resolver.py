"""Walks: every directory and every link that stands between a path and its bytes.

A certificate mounted by Kubernetes is reached as ``/etc/certs/tls.crt -> ..data/tls.crt``, ``..data -> ..2024_05_01``,
and ``/etc/certs`` may be a link itself. A change of any of these hops changes the bytes, so each hop is written down
with the directory it stands in: directories can be watched.
"""

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MAX_LINKS = 40
"""Links followed along one path before it counts as a loop, as the kernel does: path_resolution(7)."""


@dataclass(frozen=True, slots=True)
class Link:
    """A name that leads elsewhere."""

    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A name that leads down; another directory put in its place has another identity."""

    device: int
    inode: int


Hop = Link | Directory | None
"""What a name is to a walk. None ends it: a file, nothing at all, or nothing that may be looked at."""


def look(directory: str, name: str) -> Hop:
    """Tell what `name` in `directory` is to a walk now."""
    place = join(directory, name)
    try:
        status = os.lstat(place)
        if stat.S_ISLNK(status.st_mode):
            return Link(str(Path(place).readlink()))
    except (OSError, ValueError):  # a configuration may name anything, a NUL among it
        return None
    return Directory(status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def join(directory: str, name: str) -> str:
    """Name a place in a directory; the slash that ends the root, or a path as it was given, is not doubled."""
    return f"{directory}{name}" if directory.endswith("/") else f"{directory}/{name}"


def visible_entries(directory: str) -> list[os.DirEntry[str]]:
    """List the entries whose names do not begin with a dot: ``..data`` and its like are hops, and never contents.

    Raises OSError as scandir(3) does.
    """
    with os.scandir(directory) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


@dataclass(slots=True)
class PathResolver:
    """The walks of a set of paths, and of every entry in those that are directories, as they were at one time.

    Two equal surveys mean that every path still leads through the same directories and links. Directories are named by
    their real paths; `listed` and `ends` lead back to the names the caller uses.
    """

    hops: dict[str, dict[str, Hop]] = field(default_factory=dict)
    """Directory, then name: what was found there by a walk."""
    listed: dict[str, set[str]] = field(default_factory=dict)
    """Directory: the watched paths that led to it, so that all of its entries count."""
    ends: dict[str, set[str]] = field(default_factory=dict)
    """Real path of a file, be it there or not: the watched paths that led to it."""

    @classmethod
    def of(cls, paths: Iterable[str]) -> "PathResolver":
        """Walk all `paths` now; none of them needs to exist."""
        survey = cls()
        for path in paths:
            end = survey._walk(path)
            if end is not None:
                survey._list(end, path)
        return survey

    def directories(self) -> set[str]:
        """Name every directory that some walk passes or ends in."""
        return self.hops.keys() | self.listed.keys()

    def holders(self) -> set[str]:
        """Name the directories that hold contents, where not only names matter but also what is written."""
        return self.listed.keys() | {os.path.split(place)[0] for place in self.ends}

    def concerns(self, directory: str, name: str) -> bool:
        """Tell whether a walk passes `name`, or a listing of `directory` shows it."""
        if name in self.hops.get(directory, ()):
            return True
        return directory in self.listed and not name.startswith(".")

    def is_bent(self, directory: str, name: str) -> bool:
        """Tell whether what happened to `name` can have bent a walk: all but a file coming, going or being replaced.

        A link or a directory that looks the same may have been exchanged twice, or opened up by a chmod.
        """
        return self.hops.get(directory, {}).get(name) is not None or look(directory, name) is not None

    def names_of(self, directory: str, name: str) -> set[str]:
        """Give the caller's names for a file at its real place."""
        listed = {join(path, name) for path in self.listed.get(directory, ())}
        return listed | self.ends.get(join(directory, name), set())

    def places(self, directory: str) -> set[str]:
        """Name everything in `directory` that concerns us now, for those who have to look because nothing is heard."""
        names = set(self.hops.get(directory, ()))
        if directory in self.listed:
            with contextlib.suppress(OSError):
                names |= {entry.name for entry in visible_entries(directory)}
        return {join(directory, name) for name in names}

    def _walk(self, path: str) -> str | None:
        """Note every hop along `path`; give the directory it ends in, or None if it ends elsewhere."""
        directory, links = "/", 0
        rest = _backwards(path if path.startswith("/") else f"{Path.cwd()}/{path}")
        while rest:
            name = rest.pop()
            if name == "..":
                directory = os.path.split(directory)[0]
                continue
            match self._hop(directory, name):
                case Link(target) if links < MAX_LINKS:
                    links += 1
                    directory = "/" if target.startswith("/") else directory
                    rest += _backwards(target)
                case Directory():
                    directory = join(directory, name)
                case _:
                    if not rest:
                        self.ends.setdefault(join(directory, name), set()).add(path)
                    return None
        return directory

    def _hop(self, directory: str, name: str) -> Hop:
        """Look at each name once a survey: ten thousand files share their parents."""
        hops = self.hops.setdefault(directory, {})
        if name not in hops:
            hops[name] = look(directory, name)
        return hops[name]

    def _list(self, directory: str, path: str) -> None:
        """Walk on through the links among the entries; the others are what they are called."""
        self.listed.setdefault(directory, set()).add(path)
        try:
            entries = visible_entries(directory)
        except OSError:
            return  # a chmod will be heard of, and is walked anew
        for entry in entries:
            if entry.is_symlink():
                self._walk(join(path, entry.name))


def _backwards(path: str) -> list[str]:
    """Split a path into the names still to be taken, the next one last."""
    return [name for name in reversed(path.split("/")) if name not in {"", "."}]
