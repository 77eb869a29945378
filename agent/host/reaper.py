"""Reaps and counts orphaned processes that are reparented to this one.

Orphans are reparented to process 1 of a container, or else to the nearest subreaper. The children that this process
starts are reaped by their owner, see `Process`, by pidfd. No other code in this process may start a child and wait for
it in a later iteration of the loop or in another thread, since a child without an owner counts as an orphan. Code that
waits at once in the loop's thread, as `subprocess.run` and a failing `Popen` do, is not affected.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from typing import NoReturn

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_BATCH = 100
"""Exited children reaped in one loop iteration: less than a millisecond."""

_ROOM = 1 << 16
"""Bytes that a pipe holds by default, pipe(7); the kernel merges single bytes."""

Owner = Callable[[int], Callable[[], None] | None]
"""Maps a pid to the function by which its owner reaps it at once; None for an orphan."""


def become_reaper() -> str | None:
    """Make this process the subreaper of its descendants; return the reason if that fails.

    Process 1 gets orphans anyway. Any other process sets PR_SET_CHILD_SUBREAPER (prctl(2)), which persists across an
    exec and is not inherited.
    """
    if os.getpid() == 1:
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, *map(ctypes.c_ulong, (1, 0, 0, 0))) == 0:
        return None
    return os.strerror(ctypes.get_errno()).lower()


class Reaper:
    """Reaps orphans, a batch in each loop iteration; `reaped` counts them.

    Start it in the main thread, after all other signal handlers of the loop are installed.
    """

    def __init__(self, owner: Owner, *, loop: asyncio.AbstractEventLoop) -> None:
        self.reaped = 0
        self._owner = owner
        self._loop = loop
        self._is_due = False
        self._wakeups: _Wakeups | None = None

    def start(self) -> None:
        """Start reaping, beginning with orphans that have already exited."""
        if self._wakeups is None:
            self._wakeups = _Wakeups(self._look_soon, self._loop)
            self._look_soon()

    def close(self) -> None:
        """Stop reaping."""
        if self._wakeups is not None:
            self._wakeups.close()
            self._wakeups = None

    def _look_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Reap one batch; reschedule until no child is waiting, because signals coalesce."""
        self._is_due = False
        if self._wakeups is None:
            return
        is_empty = False
        try:
            is_empty = self._see_to_some()
        except _LeftError:
            is_empty = True  # an immediate retry would loop; the next SIGCHLD retries
            raise
        finally:
            if not is_empty:
                self._look_soon()

    def _see_to_some(self) -> bool:
        """Reap up to a batch of children; return whether no more are waiting."""
        owned = 0
        for _ in range(_BATCH):
            pid = _next_dead()
            if pid is None:
                return True
            reap = self._owner(pid)
            if reap is None:
                self._reap(pid)
            elif pid == owned:
                _complain(pid)
            else:
                owned = pid
                reap()
        return False

    def _reap(self, pid: int) -> None:
        with contextlib.suppress(ChildProcessError):  # already reaped elsewhere
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            self.reaped += 1


class _LeftError(RuntimeError):
    """An owner did not reap its child on request: a bug."""


def _complain(pid: int) -> NoReturn:
    message = f"process {pid} has exited, and its owner does not reap it"
    raise _LeftError(message)


def _next_dead() -> int | None:
    """Return the pid of a child that waits to be reaped, without reaping it."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # no children
        return None
    return None if found is None else found.si_pid


class _Wakeups:
    """Handles SIGCHLD without making the loop lose other signals.

    asyncio receives each signal as a byte in a socket that holds 277 of them; when it is full, signals are lost. If a
    thousand orphans exited while the loop is busy, a SIGTERM after them would be lost. So the bytes go through a pipe
    for 65,536, and those of SIGCHLD, for which the handler suffices, are dropped on the way.
    """

    def __init__(self, on_death: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._on_death = on_death
        self._loop = loop
        self._readable, self._writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add_reader(self._readable, self._relay)
        self._before = signal.signal(signal.SIGCHLD, self._hear)
        self._beyond = signal.set_wakeup_fd(self._writable, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})  # a blocked signal stays blocked across an exec

    def close(self) -> None:
        """Restore the loop's own wake-up socket and SIGCHLD handler."""
        current = signal.set_wakeup_fd(self._beyond)
        if current != self._writable:  # replaced by other code since
            signal.set_wakeup_fd(current)
        signal.signal(signal.SIGCHLD, self._before or signal.SIG_DFL)
        self._relay()
        self._loop.remove_reader(self._readable)
        os.close(self._readable)
        os.close(self._writable)

    def _hear(self, *_: object) -> None:
        self._on_death()

    def _relay(self) -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._readable, _ROOM)
            others = numbers.replace(bytes([signal.SIGCHLD]), b"")
            if others and self._beyond != -1:
                os.write(self._beyond, others)
