"""The C library's heap, kept small: one arena for all threads, and freed memory goes back to the kernel.

By default each thread gets an arena of its own, which keeps most of what the parsing of a thousand files took for a
moment; the interpreter runs one thread at a time, so they never need two. And glibc raises its thresholds whenever a
large block is freed, after which memory stays. See mallopt(3); other C libraries have neither.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_DEFAULT = 128 << 10  # bytes; both thresholds before glibc raises them

SETTINGS = {_ARENA_MAX: 1, _TRIM_THRESHOLD: _DEFAULT, _MMAP_THRESHOLD: _DEFAULT}
"""The value of each parameter of mallopt(3)."""


def keep_small() -> bool:
    """Set this for the whole process, before it starts threads; return whether the C library takes it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    taken = [mallopt(parameter, value) == 1 for parameter, value in SETTINGS.items()]
    return all(taken)
