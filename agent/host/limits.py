"""Set what a process has from the beginning: signals, standard descriptors, how many more, and no core dump."""

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
"""Bytes of a core dump at most. Of 0, a program that takes cores by a pipe would be given one all the same; see
do_coredump() in Linux's fs/coredump.c, where 1 is the value for none at all."""


def hold_signals() -> None:
    """Keep what an operator asks for waiting until somebody can act on it: a process 1 would lose it, others die."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITING_SIGNALS)


def release_signals() -> None:
    """Let them through, for a command that has no use of them but to be ended."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING_SIGNALS)


def keep_standard_streams() -> None:
    """Open /dev/null where one of the three is closed: else a socket would become the proxies' standard error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one


def raise_descriptor_limit() -> None:
    """Use as many descriptors as the hard limit allows; the epochs inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def forbid_core_dumps() -> None:
    """Keep the memory of this process, and of what it starts, off every disk: there are private keys in it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    soft = 0 if hard == 0 else _NO_CORE
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@contextlib.contextmanager
def core_dumps_allowed() -> Iterator[None]:
    """Let what is started meanwhile dump as much as the hard limit allows.

    It inherits that: to change the limit of another user's process later takes a capability, see prlimit(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
