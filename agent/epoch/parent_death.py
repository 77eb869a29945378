"""The signal that a process gets when the thread that started it ends (PR_SET_PDEATHSIG, prctl(2))."""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Get SIGTERM when the process that started this one is gone, as Envoy does.

    An epoch whose supervisor died would have nobody to drain or replace it. Where a sandbox forbids the call, nothing
    happens; a supervisor that wants its epochs to live on may have it answered without effect.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)
