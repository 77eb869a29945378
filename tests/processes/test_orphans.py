"""Processes that a proxy left behind serve until they are drained."""

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from os import killpg

import pytest

from agent.host.sessions import members, members_exited
from agent.processes.orphans import Orphans
from tests.system.eventually import PATIENCE

FAR = 600.0
TRAPS = "trap '' TERM; "  # the drain takes for ever


@pytest.fixture
def left_behind() -> Iterator[Callable[[str], int]]:
    """Start a session whose leader has exited and whose one member runs a script; return its number."""
    sessions = []

    def start(script: str = "") -> int:
        command = f"({script} echo; exec sleep 1000) & read x"
        with subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as leader:
            assert leader.stdout is not None
            leader.stdout.readline()
            leader.kill()
        sessions.append(leader.pid)
        return leader.pid

    yield start
    for each in sessions:
        with suppress(ProcessLookupError):
            killpg(each, signal.SIGKILL)


async def gone(session: int) -> None:
    await asyncio.wait_for(members_exited(session), PATIENCE)
    assert members(session) == []


async def test_those_that_serve_are_drained_with_the_next_epoch(left_behind: Callable[[], int]) -> None:
    session, orphans = left_behind(), Orphans(FAR)
    orphans.left(session, signal.SIGTERM, may_serve=True)
    assert (bool(members(session)), orphans.serve) == (True, True)
    orphans.drain()
    await gone(session)
    assert (bool(members(session)), orphans.serve) == (False, False)
    orphans.close()


async def test_those_that_may_not_serve_are_killed(left_behind: Callable[[str], int]) -> None:
    session, orphans = left_behind(TRAPS), Orphans(FAR)
    orphans.left(session, signal.SIGTERM, may_serve=False)
    await gone(session)
    assert not orphans.serve


async def test_a_drain_has_a_deadline(left_behind: Callable[[str], int]) -> None:
    session, orphans = left_behind(TRAPS), Orphans(0.01)
    orphans.left(session, signal.SIGTERM, may_serve=True)
    orphans.drain()
    await gone(session)


@pytest.mark.parametrize("drains", [False, True])
async def test_the_end_of_the_agent_is_theirs(left_behind: Callable[[str], int], drains: bool) -> None:
    session, orphans = left_behind(TRAPS), Orphans(FAR)
    orphans.left(session, signal.SIGTERM, may_serve=True)
    if drains:
        orphans.drain()
    orphans.close()
    await gone(session)


async def test_nothing_is_left_behind(left_behind: Callable[[], int]) -> None:
    session, orphans = left_behind(), Orphans(FAR)
    killpg(session, signal.SIGKILL)
    await gone(session)
    orphans.left(session, signal.SIGTERM, may_serve=True)
    assert not orphans.serve
