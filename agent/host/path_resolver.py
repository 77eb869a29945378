"""Resolves paths and records every directory and link they pass through.

A certificate mounted by Kubernetes is reached as ``/etc/certs/tls.crt -> ..data/tls.crt``, ``..data -> ..2024_05_01``,
and ``/etc/certs`` may be a link itself. A change of any of these hops changes the bytes, so each hop is recorded with
the directory that contains it: directories can be watched.
"""

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MAX_LINKS = 40
"""Links followed in one path before it counts as a loop, as in the kernel: path_resolution(7)."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link on a path."""

    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory on a path; a replacement has another device or inode."""

    device: int
    inode: int


Hop = Link | Directory | None
"""A path component. None ends the path: a file, a missing name, or one without access."""


def look(directory: str, name: str) -> Hop:
    """Return what `name` in `directory` currently is."""
    place = join(directory, name)
    try:
        status = os.lstat(place)
        if stat.S_ISLNK(status.st_mode):
            return Link(str(Path(place).readlink()))
    except (OSError, ValueError):  # ValueError for a NUL, which a configuration may contain
        return None
    return Directory(status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def join(directory: str, name: str) -> str:
    """Join a directory and a name, without doubling the slash of the root or of a given path."""
    return f"{directory}{name}" if directory.endswith("/") else f"{directory}/{name}"


def visible_entries(directory: str) -> list[os.DirEntry[str]]:
    """Return the entries without a leading dot: ``..data`` and the like are hops, not contents.

    Raises `OSError` as scandir(3) does.
    """
    with os.scandir(directory) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


@dataclass(slots=True)
class PathResolver:
    """A snapshot of how a set of paths, and the entries of directories among them, resolve.

    If two instances are equal, each path passes through the same directories and links in both. Directories are keyed
    by their real paths; `listed` and `ends` map them to the caller's paths.
    """

    hops: dict[str, dict[str, Hop]] = field(default_factory=dict)
    """Directory, then name: what the name was."""
    listed: dict[str, set[str]] = field(default_factory=dict)
    """Directory: the watched paths that resolve to it, so that all of its entries count."""
    ends: dict[str, set[str]] = field(default_factory=dict)
    """Real path of a file, existing or not: the watched paths that resolve to it."""

    @classmethod
    def of(cls, paths: Iterable[str]) -> "PathResolver":
        """Resolve all `paths`; none of them needs to exist."""
        survey = cls()
        for path in paths:
            end = survey._walk(path)
            if end is not None:
                survey._list(end, path)
        return survey

    def directories(self) -> set[str]:
        """Return the directories that any path passes through or ends in."""
        return self.hops.keys() | self.listed.keys()

    def holders(self) -> set[str]:
        """Return the directories that contain watched files, where writes matter too."""
        return self.listed.keys() | {os.path.split(place)[0] for place in self.ends}

    def concerns(self, directory: str, name: str) -> bool:
        """Whether a path passes through `name`, or a listing of `directory` shows it."""
        if name in self.hops.get(directory, ()):
            return True
        return directory in self.listed and not name.startswith(".")

    def is_bent(self, directory: str, name: str) -> bool:
        """Whether an event for `name` may change how a path resolves.

        That is, unless `name` was and is a plain file or missing. An unchanged link or directory may have been replaced
        twice, or made accessible by a chmod.
        """
        return self.hops.get(directory, {}).get(name) is not None or look(directory, name) is not None

    def names_of(self, directory: str, name: str) -> set[str]:
        """Return the caller's paths for a file, given its real directory and name."""
        listed = {join(path, name) for path in self.listed.get(directory, ())}
        return listed | self.ends.get(join(directory, name), set())

    def places(self, directory: str) -> set[str]:
        """Return all relevant paths in `directory` now, for polling where no events arrive."""
        names = set(self.hops.get(directory, ()))
        if directory in self.listed:
            with contextlib.suppress(OSError):
                names |= {entry.name for entry in visible_entries(directory)}
        return {join(directory, name) for name in names}

    def _walk(self, path: str) -> str | None:
        """Record every hop of `path`; return the directory it ends in, or None for anything else."""
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
        """Return what a name is, with one lstat per instance: many files share their parents."""
        hops = self.hops.setdefault(directory, {})
        if name not in hops:
            hops[name] = look(directory, name)
        return hops[name]

    def _list(self, directory: str, path: str) -> None:
        """Resolve the links among the entries of a directory; other entries are not links."""
        self.listed.setdefault(directory, set()).add(path)
        try:
            entries = visible_entries(directory)
        except OSError:
            return  # a chmod causes an event and a new resolution
        for entry in entries:
            if entry.is_symlink():
                self._walk(join(path, entry.name))


def _backwards(path: str) -> list[str]:
    """Split a path into its names in reverse order."""
    return [name for name in reversed(path.split("/")) if name not in {"", "."}]
