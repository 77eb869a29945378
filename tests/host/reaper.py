"""A small agent: reaps orphans while its own children start and exit, and prints the result as JSON.

`python -m tests.host.reaper storm ORPHANS`, `… deaf ORPHANS`, `… forbidden`; it may be process 1.
"""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from agent.host import parent_death_filter
from agent.host.processes import Command, Process, owner_of
from agent.host.reaper import Reaper, become_reaper
from tests.system.eventually import PATIENCE

OWN = 50
FOREIGN = 3

_PR_SET_CHILD_SUBREAPER = 36

MANY_WAITING = """exec 3<&0; i=0; while [ $i -lt {count} ]; do (read x <&3) & i=$((i+1)); done"""
"""Starts this many orphans, which all exit when the pipe at standard input is closed."""

MANY_DYING = """i=0; while [ $i -lt {count} ]; do ( : & ) ; i=$((i+1)); done"""
"""Starts this many orphans in sequence, which exit by themselves."""


class Children:
    """Own children: the exit codes that were reaped."""

    def __init__(self) -> None:
        self.codes: list[int | None] = []
        self._shell = os.open("/bin/sh", os.O_RDONLY | os.O_CLOEXEC)

    def start(self, script: str, descriptor: int) -> None:
        """Run a shell; `descriptor` is inherited."""
        Process.start(Command(self._shell, ["sh", "-c", script], descriptors=[descriptor]), self.codes.append)

    def close(self) -> None:
        os.close(self._shell)


async def storm(count: int) -> dict[str, object]:
    """Let this many orphans exit at once, with own children before, among and after them; a few more orphans live."""
    loop = asyncio.get_running_loop()
    failure = become_reaper()
    readable, writable = os.pipe()
    kept_readable, kept_writable = os.pipe()
    children = Children()
    orphans = Reaper(owner_of, loop=loop)
    orphans.start()
    for number in range(OWN):
        if number == OWN // 2:
            leave_orphans(MANY_WAITING, count, readable)
            leave_orphans(MANY_WAITING, FOREIGN, kept_readable)
        children.start(f"read x </proc/self/fd/{readable}; exit {number}", readable)
    os.close(readable)
    os.close(writable)
    turns = 0
    async with asyncio.timeout(PATIENCE):
        while orphans.reaped < count or len(children.codes) < OWN:
            missing = launch_nothing()
            turns += 1
            await asyncio.sleep(0)
    states = states_of_children()
    found: dict[str, object] = {
        "failure": failure,
        "reaped": orphans.reaped,
        "codes": children.codes,
        "turns": turns,
        "states": states,
        "missing": missing,
    }
    os.close(kept_writable)
    await until(lambda: orphans.reaped == count + FOREIGN)
    found["left"] = states_of_children()
    orphans.close()
    os.close(kept_readable)
    children.close()
    return found


async def deaf(count: int) -> dict[str, object]:
    """Let this many orphans exit while the loop is blocked; then send a stop signal."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    become_reaper()
    orphans = Reaper(lambda _: None, loop=loop)
    orphans.start()
    leave_orphans(MANY_DYING, count, subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(stopping.wait(), PATIENCE)
    await until(lambda: orphans.reaped == count)
    orphans.close()
    return {"reaped": orphans.reaped, "left": states_of_children()}


async def forbidden() -> dict[str, object]:
    """Run where a sandbox forbids the subreaper."""
    parent_death_filter._install(
        parent_death_filter._MACHINES[os.uname().machine], _PR_SET_CHILD_SUBREAPER, answer=errno.EPERM
    )
    return {"failure": become_reaper()}


async def until(check: Callable[[], bool]) -> None:
    """Run the loop until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110  # an iteration of the loop, without a pause
            await asyncio.sleep(0)


def leave_orphans(script: str, count: int, stdin: int) -> None:
    for left in range(count, 0, -1000):  # a shell is slow with many more jobs than that
        subprocess.run(["/bin/sh", "-c", script.format(count=min(left, 1000))], stdin=stdin, check=True)


def launch_nothing() -> bool:
    """Try to start a missing program: subprocess itself handles its short-lived child."""
    try:
        subprocess.Popen(["/no/such/program"])
    except FileNotFoundError:
        return True
    return False


def states_of_children() -> str:
    """Return the state letters of all child processes."""
    states = ""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            states += state if int(parent) == os.getpid() else ""
    return states


def main() -> None:
    """Run one of the three, and print the result."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # a careless parent may leave it set
    match sys.argv[1:]:
        case "storm", count:
            play = storm(int(count))
        case "deaf", count:
            play = deaf(int(count))
        case _:
            play = forbidden()
    print(json.dumps(asyncio.run(play)))  # noqa: T201


if __name__ == "__main__":
    main()
