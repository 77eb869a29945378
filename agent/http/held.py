"""Opens a Unix socket in an untrusted directory, so that its path cannot be redirected."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoSocket(ConnectionError):
    """A path is not a socket (a link, for example) or belongs to another user."""


@contextmanager
def held_socket(path: Path, user: int | None = None) -> Iterator[str]:
    """Yield a path to the socket itself, valid within the context; links are not followed.

    Raises `NoSocket` for anything but a socket (of `user`, a uid, where that is not None), and other `OSError`.
    """
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(held)
        if not stat.S_ISSOCK(status.st_mode) or user not in {None, status.st_uid}:
            message = f"{path} is not a socket any more"
            raise NoSocket(message)
        yield f"/proc/self/fd/{held}"
    finally:
        os.close(held)
