"""Removes a directory tree that an untrusted process has filled, without blocking.

Links are not followed. Nested directories are moved to the top before they are emptied, so that neither depth nor
number costs descriptors or stack. Entries beyond `_AT_ONCE` are removed in a thread.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path

_AT_ONCE = 1000
"""Entries removed before a thread continues: about 10 ms."""

_PASSES = 100_000
"""Maximum number of passes: a process may keep filling the directory."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path) -> None:
    """Remove a file or directory tree; a missing one is ignored, undeletable entries stay."""
    steps = _remove(path)
    if sum(1 for _ in islice(steps, _AT_ONCE)) == _AT_ONCE:
        threading.Thread(target=lambda: sum(1 for _ in steps), daemon=True, name=f"removal of {path.name}").start()


def _remove(path: Path) -> Iterator[None]:
    """Remove one entry per step."""
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
    """Remove every entry of a directory; return whether it made progress and more may remain."""
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
    """Move a directory's subdirectories to `top` and remove it; return whether it made progress."""
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
