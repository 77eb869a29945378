"""Which files lie below the paths that the operator lets the agent watch."""

import posixpath
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path


class Scopes:
    """A set of directories and files as they resolve now; ask only in the thread that may access the disk.

    A file lies in it as its path is written, or as its directory resolves. Each directory is resolved once: a new
    instance sees links that were exchanged since.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._known: dict[str, tuple[Path, Path, bool]] = {}

    @cached_property
    def _written(self) -> frozenset[Path]:
        return frozenset(path.absolute() for path in self._paths)

    @cached_property
    def _real(self) -> frozenset[Path]:
        return frozenset(path.resolve() for path in self._paths)

    def contain(self, path: str) -> bool:
        """Return whether a file is one of the paths, or below one."""
        directory, name = posixpath.split(path)
        if name in {"", "."}:  # as text it has no name
            directory, name = posixpath.split(str(Path(path)))
        written, real, is_inside = self._directory(directory)
        return is_inside or written / name in self._written or real / name in self._real

    def _directory(self, directory: str) -> tuple[Path, Path, bool]:
        """Return an absolute and the real path of a directory, and whether all files in it are contained."""
        if directory not in self._known:
            written = Path(directory).absolute()
            real = written.resolve()
            is_inside = not self._written.isdisjoint((written, *written.parents))
            self._known[directory] = written, real, is_inside or not self._real.isdisjoint((real, *real.parents))
        return self._known[directory]
