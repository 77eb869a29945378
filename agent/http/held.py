"""Take hold of a Unix socket whose directory is somebody else's, so that its name cannot lead elsewhere any more."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoSocket(ConnectionError):
    """There is something else at a path, a link for example, or the socket of another user."""


@contextmanager
def held_socket(path: Path, user: int | None = None) -> Iterator[str]:
    """Give a path that leads to the socket itself, for as long as the context lasts; no link is followed to it.

    Raises `NoSocket` for anything but a socket (of `user`, a uid, where that is not None), and other `OSError`.
    """
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(held)
        if not stat.S_ISSOCK(status.st_mode) or user not in {None, status.st_uid}:
            message = f"{path} is no socket any more"
            raise NoSocket(message)
        yield f"/proc/self/fd/{held}"
    finally:
        os.close(held)
