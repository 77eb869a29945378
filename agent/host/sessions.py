"""The processes of a session: a supervised process and those that it started, also after its own exit.

Each supervised process leads a session (setsid(2)), whose number is its pid. The kernel gives that number to no other
process as long as the session has a member.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import psutil


def members(session: int) -> list[int]:
    """Return the pids of the running processes in a session, except the one that leads it."""
    return [pid for pid in psutil.pids() if pid != session and _is_in(pid, session) and _runs(pid)]


def signal_members(session: int, number: signal.Signals) -> int:
    """Send a signal to the processes of a session, except to the one that leads it; return how many there were."""
    count = 0
    for pidfd in _opened(session):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
            count += 1
    return count


async def members_exited(session: int) -> None:
    """Wait until the processes that are in a session now have exited, except the one that leads it."""
    loop = asyncio.get_running_loop()
    for pidfd in _opened(session):
        exited = loop.create_future()
        loop.add_reader(pidfd, exited.set_result, None)
        try:
            await exited
        finally:
            loop.remove_reader(pidfd)


def _opened(session: int) -> Iterator[int]:
    """Yield a pidfd of each member, checked after it is open: the pidfd cannot change its process."""
    for pid in members(session):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if _is_in(pid, session):
                yield pidfd
        finally:
            os.close(pidfd)


def _is_in(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except OSError:
        return False


def _runs(pid: int) -> bool:
    """Return whether it has not exited: its parent may not have reaped it yet."""
    try:
        return psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.Error:
        return False
