"""Process-wide settings: blocked signals, standard streams, descriptor limit, core dumps."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator

WAITING_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

_NO_CORE = 1
"""Maximum bytes of a core dump. With 0, a program that receives cores by a pipe would still get one; see do_coredump()
in Linux's fs/coredump.c, where 1 means none at all."""


def hold_signals() -> None:
    """Block the operator's signals until handlers exist.

    Without a handler, process 1 would lose them and any other process would be terminated.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITING_SIGNALS)


def release_signals() -> None:
    """Unblock the signals, for a command that they should simply terminate."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING_SIGNALS)


def keep_standard_streams() -> None:
    """Open /dev/null for each closed standard stream.

    Otherwise a socket could become the proxies' standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one


def raise_descriptor_limit() -> None:
    """Raise the descriptor limit to the hard limit; epochs inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reserve_descriptors(count: int) -> None:
    """Occupy the free ones of the first `count` descriptors from 3 on, which children get by number."""
    first = 3
    for number in range(first, first + count):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            if null != number:
                os.dup2(null, number, inheritable=False)
                os.close(null)


def forbid_core_dumps() -> None:
    """Disable core dumps of this process and its children: memory contains private keys."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    soft = 0 if hard == 0 else _NO_CORE
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@contextlib.contextmanager
def core_dumps_allowed() -> Iterator[None]:
    """Allow core dumps up to the hard limit for processes started in this context.

    They inherit the limit: changing it later for another user's process requires a capability, see prlimit(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
