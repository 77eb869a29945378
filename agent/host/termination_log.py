"""The Kubernetes termination message, which `kubectl describe pod` shows for a container."""

import contextlib
import os
from pathlib import Path

TERMINATION_LOG = Path("/dev/termination-log")
"""The default `terminationMessagePath`: an empty file that kubelet mounts into the container."""

_LIMIT = 4096  # bytes that kubelet reads

_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class TerminationLog:
    """Keeps the termination message up to date, so that it is readable however the process ends."""

    def __init__(self) -> None:
        self._left: str | None = None

    def leave(self, words: str) -> None:
        """Write the message if it is new; an empty one truncates the file."""
        if words != self._left:
            self._left = words
            leave_reason(words)


def leave_reason(reason: str, path: Path = TERMINATION_LOG) -> None:
    """Replace the termination message; does nothing if `path` is no existing regular file.

    A long reason is truncated at the end. Never creates the file, blocks or fails.
    """
    data = reason.encode(errors="backslashreplace")[:_LIMIT].decode(errors="ignore").encode()
    with contextlib.suppress(OSError):
        descriptor = os.open(path, _FLAGS)
        try:
            os.ftruncate(descriptor, 0)  # fails for anything but a regular file
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
