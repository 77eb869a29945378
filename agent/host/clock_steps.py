"""Detects steps of the system clock: it was set, or the machine resumed from suspend.

Deadlines use the monotonic clock, so those derived from dates must be recomputed after a step. The kernel cancels a
realtime timer when the clock steps: TFD_TIMER_CANCEL_ON_SET, see timerfd_create(2).
"""

import asyncio
import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Callable

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK, TFD_CLOEXEC
_SETTING = 1 | 2  # TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
_NEVER = 2**33  # seconds since 1970: in the year 2242


class ClockSteps:
    """Calls `stepped` after each clock step; never if the kernel does not support it."""

    def __init__(self, stepped: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._stepped = stepped
        self._loop = loop
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._libc.timerfd_create(time.CLOCK_REALTIME, _FLAGS)
        if self._descriptor >= 0:
            self._wait()
            loop.add_reader(self._descriptor, self._hear)

    def close(self) -> None:
        """Stop watching the clock; may be called twice."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _wait(self) -> None:
        when = struct.pack("llll", 0, 0, _NEVER, 0)  # struct itimerspec: interval, value
        self._libc.timerfd_settime(self._descriptor, _SETTING, when, None)

    def _hear(self) -> None:
        with contextlib.suppress(OSError):  # ECANCELED signals the step
            os.read(self._descriptor, 8)
        self._wait()
        self._stepped()
