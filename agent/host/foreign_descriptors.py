"""Duplicates the sockets of another process: pidfd_getfd(2), which needs the right to trace it (ptrace(2))."""

import ctypes
import errno
import os
import re
from pathlib import Path

from agent.core.errors import MachineError

_PIDFD_GETFD = 438  # one number on all architectures
_SOCKET = re.compile(r"socket:\[\d+\]")


def sockets_of(pid: int) -> list[int]:
    """Return a duplicate of every socket of a process, in the order of its descriptors; the caller owns them.

    Raises `MachineError`.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise _failed(pid, error) from error
    taken: list[int] = []
    try:
        taken.extend(each for number in _numbers(pid) if (each := _duplicate(pidfd, number)) is not None)
    except OSError as error:
        for each in taken:
            os.close(each)
        raise _failed(pid, error) from error
    finally:
        os.close(pidfd)
    return taken


def _numbers(pid: int) -> list[int]:
    """Return the descriptors of a process that are sockets; of two that are the same one, the first."""
    seen: dict[str, int] = {}
    for entry in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda each: int(each.name)):
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
        if _SOCKET.fullmatch(target):
            seen.setdefault(target, int(entry.name))
    return list(seen.values())


def _duplicate(pidfd: int, number: int) -> int | None:
    """Return a duplicate; None if the process has closed it meanwhile, as it does with a client's."""
    libc = ctypes.CDLL(None, use_errno=True)
    taken = libc.syscall(ctypes.c_long(_PIDFD_GETFD), ctypes.c_int(pidfd), ctypes.c_int(number), ctypes.c_uint(0))
    if taken < 0:
        code = ctypes.get_errno()
        if code == errno.EBADF:
            return None
        raise OSError(code, os.strerror(code))
    return int(taken)


def _failed(pid: int, error: OSError) -> MachineError:
    return MachineError(f"cannot take the sockets of process {pid}: {error.strerror}")
