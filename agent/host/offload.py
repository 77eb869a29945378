"""Runs long work in a thread, so that large files do not block the loop.

Two things would still block the loop. A thread releases the interpreter only every 5 ms, so the switch interval is
shortened during the work. And cyclic garbage collection stops all threads and scans all objects: a configuration of one
megabyte is a million of them. So collection is off during large work, and its objects are frozen afterwards; they are
still freed by reference counting, as almost all objects are.
"""

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_MUCH = 256 << 10
"""Bytes of files from which work counts as large."""

_TURN = 0.0005
"""Seconds after which a thread releases the interpreter to the loop."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_busy = 0
_usual = sys.getswitchinterval()


async def offload(size: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run `work` in a thread and return its result; `size` is the bytes of its files in total."""
    if size < _MUCH:
        return await asyncio.to_thread(work, *args, **kwargs)
    global _busy  # noqa: PLW0603  # the collector is the process's
    _busy += 1
    gc.disable()
    sys.setswitchinterval(_TURN)
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    finally:
        _busy -= 1
        if not _busy:
            sys.setswitchinterval(_usual)
            gc.freeze()
            gc.enable()
