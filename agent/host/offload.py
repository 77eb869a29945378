"""Long work beside the loop: in a thread, whatever size the files have that somebody puts on the disk.

What keeps the loop waiting then is its turn at the interpreter, which a thread gives up every 5 ms: it has to do so
more often meanwhile. And it is the collection of cyclic garbage, which stops every thread and goes through all that was
made: a configuration of one megabyte is a million objects. So there is none while much is made, and what was made is
left out of it afterwards; it is freed when nobody refers to it any more, as almost everything is.
"""

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_MUCH = 256 << 10
"""Bytes of files."""

_TURN = 0.0005
"""Seconds after which a thread gives up the interpreter to the loop."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_busy = 0
_usual = sys.getswitchinterval()


async def offload(size: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return what `work` makes of files of so many bytes in all."""
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
