"""Requests a signal when the thread that started it ends (PR_SET_PDEATHSIG, prctl(2))."""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have SIGTERM sent when the process that started this one exits, as Envoy does.

    An epoch without its supervisor would never be drained or replaced. No effect where a sandbox forbids the call; a
    supervisor whose epochs must outlive it may filter the call.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)
