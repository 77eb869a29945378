"""Where Kubernetes looks for the last words of a container: shown by `kubectl describe pod` as its message."""

import contextlib
import os
from pathlib import Path

TERMINATION_LOG = Path("/dev/termination-log")
"""The default `terminationMessagePath`: an empty file that kubelet mounts into the container."""

_LIMIT = 4096  # bytes that kubelet reads

_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class TerminationLog:
    """Keeps there what is wrong now: whoever ends this process, and however, it can be read."""

    def __init__(self) -> None:
        self._left: str | None = None

    def leave(self, words: str) -> None:
        """Write it, if it is new; an empty text empties the file."""
        if words != self._left:
            self._left = words
            leave_reason(words)


def leave_reason(reason: str, path: Path = TERMINATION_LOG) -> None:
    """Write why this process fails, in place of what is there; nothing happens where there is no such regular file.

    A long reason is cut at the end. It never makes the file, never waits and never fails.
    """
    data = reason.encode(errors="backslashreplace")[:_LIMIT].decode(errors="ignore").encode()
    with contextlib.suppress(OSError):
        descriptor = os.open(path, _FLAGS)
        try:
            os.ftruncate(descriptor, 0)  # refuses whatever is no regular file
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
