"""Removing a directory that somebody else has filled: whatever he put there, and without holding anybody up.

Nothing is followed. Directories in directories are moved to the top before they are emptied, so that neither depth nor
number costs descriptors or a stack; what is more than an epoch leaves goes on in a thread.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path

_AT_ONCE = 1000
"""Entries: some 10 ms."""

_PASSES = 100_000
"""So often at most: somebody may be filling it all the while."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path) -> None:
    """Remove what is at `path`; nothing happens if it is gone. What cannot be removed stays."""
    steps = _remove(path)
    if sum(1 for _ in islice(steps, _AT_ONCE)) == _AT_ONCE:
        threading.Thread(target=lambda: sum(1 for _ in steps), daemon=True, name=f"removal of {path.name}").start()


def _remove(path: Path) -> Iterator[None]:
    """Remove one entry a step."""
    try:
        top = os.open(path, _DIRECTORY)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        return
    try:
        for _ in range(_PASSES):
            if not (yield from _pass_over(top)):
                break
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        path.rmdir()


def _pass_over(top: int) -> Generator[None, None, bool]:
    """Remove every entry of a directory; return whether that got anywhere and there may be more."""
    moved = False
    with os.scandir(top) as entries:
        for entry in entries:
            yield
            if entry.is_dir(follow_symlinks=False):
                moved |= yield from _dissolve(entry.name, top)
            else:
                moved |= _is_done(lambda: os.unlink(entry.name, dir_fd=top))  # noqa: B023  # called at once
    return moved


def _dissolve(name: str, top: int) -> Generator[None, None, bool]:
    """Remove a directory; those in it come to the top. Return whether anything was done."""
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=top)
    except OSError:
        return False
    moved = False
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                yield
                if entry.is_dir(follow_symlinks=False):
                    new = secrets.token_hex(8)
                    moved |= _is_done(lambda: os.rename(entry.name, new, src_dir_fd=directory, dst_dir_fd=top))  # noqa: B023
                else:
                    moved |= _is_done(lambda: os.unlink(entry.name, dir_fd=directory))  # noqa: B023
    finally:
        os.close(directory)
    return _is_done(lambda: os.rmdir(name, dir_fd=top)) or moved


def _is_done(act: Callable[[], None]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True
