"""A launcher: sets up a private /dev/shm and a read-only root for a program, and executes it.

`python -I -S sandbox.py [--shm DIR] [--read-only-except DIR]... -- PROGRAM ARG...` keeps its pid and its parent.
Needs CAP_SYS_ADMIN. Imports nothing else, so that it starts fast.
"""

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {source} on {target}: {os.strerror(number)}")


def seclude(shm: str | None, writable: list[str]) -> None:
    """Leave the mount namespace; mount `shm` on /dev/shm, and all but `writable` read-only if it names any."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "cannot leave the mount namespace")
    _mount("none", "/", MS_REC | MS_PRIVATE)
    for directory in writable:
        _mount(directory, directory, MS_BIND)
    if shm:
        _mount(shm, "/dev/shm", MS_BIND)
    if writable:
        _mount("none", "/", MS_REMOUNT | MS_BIND | MS_RDONLY)


def main(words: list[str]) -> None:
    """Parse the options, set up the mounts, execute the program; never returns."""
    shm: str | None = None
    writable: list[str] = []
    while (word := words.pop(0)) != "--":
        if word == "--shm":
            shm = words.pop(0)
        elif word == "--read-only-except":
            writable.append(words.pop(0))
        else:
            sys.exit(f"cell: unknown option {word}")
    seclude(shm, writable)
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(sys.argv[1:])
