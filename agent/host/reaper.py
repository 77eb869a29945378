"""Everybody else's orphans: reaped and counted, where this process is the one they come to.

They come to process 1 of a container, and elsewhere to the nearest sub-reaper. Own children are left to those who
started them: see `Process`, which reaps by pidfd. Nothing else in this process may start a child and wait for it in a
later turn of the loop, nor in another thread: whatever has no owner is taken for an orphan. What waits at once in the
loop's thread, as `subprocess.run` and a failing `Popen` do, is not disturbed.
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
"""Dead children seen to in one turn of the loop: less than a millisecond."""

_ROOM = 1 << 16
"""Bytes that a pipe holds by default, pipe(7); the kernel puts single bytes together."""

Owner = Callable[[int], Callable[[], None] | None]
"""Tells whose a child is: how to let its owner reap it here and now; None for a child of nobody here."""


def become_reaper() -> str | None:
    """Have the orphans among the descendants come to this process; return why not where that cannot be had.

    Process 1 gets them anyhow. Any other asks for PR_SET_CHILD_SUBREAPER (prctl(2)), which outlives an exec and is not
    inherited.
    """
    if os.getpid() == 1:
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, *map(ctypes.c_ulong, (1, 0, 0, 0))) == 0:
        return None
    return os.strerror(ctypes.get_errno()).lower()


class Reaper:
    """Reaps whatever ends here and is nobody's, a batch in each turn of the loop; `reaped` is how many.

    To be started in the main thread, after all other signal handlers of the loop are in place.
    """

    def __init__(self, owner: Owner, *, loop: asyncio.AbstractEventLoop) -> None:
        self.reaped = 0
        self._owner = owner
        self._loop = loop
        self._is_due = False
        self._wakeups: _Wakeups | None = None

    def start(self) -> None:
        """Reap from now on, beginning with those that are dead already."""
        if self._wakeups is None:
            self._wakeups = _Wakeups(self._look_soon, self._loop)
            self._look_soon()

    def close(self) -> None:
        """Reap no more."""
        if self._wakeups is not None:
            self._wakeups.close()
            self._wakeups = None

    def _look_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """See to one batch; signals coalesce, so only an empty look ends the search."""
        self._is_due = False
        if self._wakeups is None:
            return
        is_empty = False
        try:
            is_empty = self._see_to_some()
        except _LeftError:
            is_empty = True  # it would be found again and again; the next death is the next chance
            raise
        finally:
            if not is_empty:
                self._look_soon()

    def _see_to_some(self) -> bool:
        """Whether nobody dead was left to be found."""
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
        with contextlib.suppress(ChildProcessError):  # somebody was faster
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            self.reaped += 1


class _LeftError(RuntimeError):
    """An owner did not reap its child when told to: a bug."""


def _complain(pid: int) -> NoReturn:
    message = f"process {pid} is dead, and its owner does not reap it"
    raise _LeftError(message)


def _next_dead() -> int | None:
    """Find a child that waits to be reaped, and leave it so."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # no child at all
        return None
    return None if found is None else found.si_pid


class _Wakeups:
    """Hears of dead children without deafening the loop to other signals.

    asyncio learns of a signal by a byte in a socket that holds 277 of them; a byte that finds no room is a signal lost.
    Were the loop busy while a thousand orphans died, a SIGTERM after them would not be heard. So the bytes go through a
    pipe with room for 65,536, and those of SIGCHLD, which tells by its handler alone, are dropped on the way.
    """

    def __init__(self, on_death: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._on_death = on_death
        self._loop = loop
        self._readable, self._writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add_reader(self._readable, self._relay)
        self._before = signal.signal(signal.SIGCHLD, self._hear)
        self._beyond = signal.set_wakeup_fd(self._writable, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})  # an exec hands a blocked one on

    def close(self) -> None:
        """Give the loop its own socket back."""
        current = signal.set_wakeup_fd(self._beyond)
        if current != self._writable:  # somebody took our place
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
