"""Enters the network namespace of another process or container."""

import ctypes
import os

from agent.core.errors import MachineError

_NEWNET = 0x40000000  # CLONE_NEWNET


def enter(path: str) -> None:
    """Enter the network namespace at a path like /proc/7/ns/net. Raises `MachineError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        message = f"cannot enter the network namespace {path}: {error.strerror}"
        raise MachineError(message) from None
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _NEWNET) != 0:
            message = f"cannot enter the network namespace {path}: {os.strerror(ctypes.get_errno())}"
            raise MachineError(message)
    finally:
        os.close(descriptor)
