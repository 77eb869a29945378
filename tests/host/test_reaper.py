"""Reaping of orphans. The storms run in programs of their own: a reaper takes every child of its process."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from agent.host.reaper import Reaper
from tests.host import reaper
from tests.host.reaper import until
from tests.system.eventually import PATIENCE

AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def may_be_process_1() -> bool:
    """Return whether this process has CAP_SYS_ADMIN."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*AS_PROCESS_1, "true"], check=False, capture_output=True).returncode == 0


wants_root = (pytest.mark.root, pytest.mark.skipif(not may_be_process_1(), reason="wants root with CAP_SYS_ADMIN"))


def play(*arguments: str, under: Sequence[str] = ()) -> Any:  # noqa: ANN401  # of JSON
    """Run the small agent to its end; return its result."""
    command = [*under, sys.executable, "-W", "error", "-m", reaper.__name__, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


def weather(count: int, under: Sequence[str] = ()) -> None:
    """Run a storm, and check its result."""
    found = play("storm", str(count), under=under)
    assert found["failure"] is None
    assert found["reaped"] == count
    assert sorted(found["codes"]) == list(range(reaper.OWN)), "each exit once, with its own code"
    assert found["states"] == "S" * reaper.FOREIGN, "the living are left alone, and nobody is left dead"
    assert found["left"] == ""
    assert found["turns"] >= count // 100, "the loop had its turns"
    assert found["missing"]


def test_a_storm_of_orphans_leaves_nobody_dead_and_no_child_of_ours_unheard() -> None:
    weather(2000)


@pytest.mark.parametrize("count", [pytest.param(1000, marks=wants_root)])
def test_process_1_weathers_it_too(count: int) -> None:
    weather(count, AS_PROCESS_1)


@pytest.mark.long
@pytest.mark.parametrize("under", [(), pytest.param(AS_PROCESS_1, marks=wants_root)], ids=["reaper", "process 1"])
def test_a_storm_of_ten_thousand(under: Sequence[str]) -> None:
    weather(10_000, under)


def test_orphans_that_die_while_the_loop_is_busy_do_not_drown_a_sigterm() -> None:
    assert play("deaf", "1000") == {"reaped": 1000, "left": ""}


def test_a_sandbox_that_forbids_it_is_named() -> None:
    assert play("forbidden") == {"failure": "operation not permitted"}


def nobody(_: int) -> None:
    """No child has an owner."""


def dying(code: int = 0) -> int:
    """Start a child that is unknown to this process; return its pid."""
    return os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], {})


def dead(*codes: int) -> list[int]:
    """Start children, and return their pids when all have exited and none is reaped."""
    pids = [dying(code) for code in codes]
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pids


def bury(pid: int) -> None:
    """Reap a child that has exited."""
    assert os.waitpid(pid, os.WNOHANG)[0] == pid


def is_reaped(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


async def test_those_that_were_dead_before_are_reaped_at_the_start() -> None:
    pids = dead(0, 1, 2)
    orphans = Reaper(nobody, loop=asyncio.get_running_loop())
    orphans.start()
    orphans.start()
    await until(lambda: orphans.reaped == 3)
    assert all(map(is_reaped, pids))
    orphans.close()


async def test_a_pending_reap_at_the_end_is_dropped() -> None:
    (pid,) = dead(0)
    orphans = Reaper(nobody, loop=asyncio.get_running_loop())
    orphans.start()
    orphans.close()
    await asyncio.sleep(0)
    assert not is_reaped(pid)
    bury(pid)


async def test_after_the_end_nothing_is_reaped_and_signals_go_where_they_went() -> None:
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR2, heard.set)
    wakeup, handler = signal.set_wakeup_fd(-1), signal.getsignal(signal.SIGCHLD)
    signal.set_wakeup_fd(wakeup)
    orphans = Reaper(nobody, loop=loop)
    orphans.start()
    os.kill(os.getpid(), signal.SIGUSR2)
    orphans.close()
    orphans.close()
    await asyncio.wait_for(heard.wait(), PATIENCE)
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert signal.getsignal(signal.SIGCHLD) == handler
    (pid,) = dead(0)
    await asyncio.sleep(0)
    assert not is_reaped(pid)
    bury(pid)
    loop.remove_signal_handler(signal.SIGUSR2)


async def test_a_handler_that_is_added_later_stops_nothing() -> None:
    loop = asyncio.get_running_loop()
    orphans = Reaper(nobody, loop=loop)
    orphans.start()
    await until(lambda: not orphans._is_due)
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR2, heard.set)
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    dying()
    await until(lambda: orphans.reaped == 1)
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.wait_for(heard.wait(), PATIENCE)
    orphans.close()
    assert signal.set_wakeup_fd(wakeup) == wakeup
    loop.remove_signal_handler(signal.SIGUSR2)


async def test_an_owner_with_a_bug_is_logged_and_the_others_are_reaped() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
    own, *others = dead(7, *range(5))

    def reap() -> None:
        bury(own)
        raise ZeroDivisionError

    orphans = Reaper(lambda pid: reap if pid == own else None, loop=loop)
    orphans.start()
    await until(lambda: orphans.reaped == len(others))
    assert [type(each) for each in complaints] == [ZeroDivisionError]
    orphans.close()


async def test_an_owner_that_does_not_reap_is_complained_of_once_a_death() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[str] = []
    loop.set_exception_handler(lambda _, context: complaints.append(str(context["exception"])))
    (own,) = dead(7)
    orphans = Reaper(lambda pid: (lambda: None) if pid == own else None, loop=loop)
    orphans.start()
    for _ in range(100):
        await asyncio.sleep(0)
    assert complaints == [f"process {own} has exited, and its owner does not reap it"]
    bury(own)
    other = dying()
    await until(lambda: is_reaped(other))
    assert orphans.reaped == 1
    orphans.close()
