"""A file system that never answers: a FUSE mount whose server reads no request."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.eventually import PATIENCE

_libc = ctypes.CDLL(None, use_errno=True)


class Silence:
    """A directory in which every call waits, until `end`: then each fails, as if the server had exited."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._descriptor},rootmode=40000,user_id=0,group_id=0".encode()
        if _libc.mount(b"tests", os.fsencode(path), b"fuse", ctypes.c_ulong(0), options) != 0:
            number = ctypes.get_errno()
            os.close(self._descriptor)
            raise OSError(number, f"cannot mount a silent file system: {os.strerror(number)}")

    def end(self) -> None:
        """End all waiting calls."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1


@contextmanager
def silence(path: Path) -> Iterator[Silence]:
    """Mount one, and unmount it at the end of the block."""
    silent = Silence(path)
    try:
        yield silent
    finally:
        silent.end()
        subprocess.run(["umount", "-l", path], check=True, timeout=PATIENCE, capture_output=True)
