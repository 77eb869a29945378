"""The processes of a session are found and signalled, but not the one that leads it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from agent.host.sessions import members, members_exited, signal_members
from tests.system.eventually import PATIENCE
from tests.system.room import alive


@pytest.fixture
def leader() -> Iterator["subprocess.Popen[bytes]"]:
    """A shell that leads a session with two sleeping children; its line says that they run."""
    script = "sleep 1000 & sleep 1000 & echo; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_members_are_all_but_the_leader(leader: "subprocess.Popen[bytes]") -> None:
    found = members(leader.pid)
    assert len(found) == 2
    assert leader.pid not in found
    assert os.getpid() not in found


def test_a_signal_reaches_the_members_only(leader: "subprocess.Popen[bytes]") -> None:
    assert signal_members(leader.pid, signal.SIGSTOP) == 2
    assert alive(leader.pid)


async def test_members_are_awaited_also_as_zombies(leader: "subprocess.Popen[bytes]") -> None:
    """The leader is stopped, so it does not reap them."""
    leader.send_signal(signal.SIGSTOP)
    waiting = asyncio.create_task(members_exited(leader.pid))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert signal_members(leader.pid, signal.SIGTERM) == 2
    await asyncio.wait_for(waiting, PATIENCE)
    leader.send_signal(signal.SIGCONT)


async def test_members_outlive_their_leader(leader: "subprocess.Popen[bytes]") -> None:
    leader.kill()
    leader.wait()
    assert len(members(leader.pid)) == 2
    assert signal_members(leader.pid, signal.SIGKILL) == 2
    await asyncio.wait_for(members_exited(leader.pid), PATIENCE)


async def test_a_session_without_members(leader: "subprocess.Popen[bytes]") -> None:
    signal_members(leader.pid, signal.SIGKILL)
    leader.wait()
    assert members(leader.pid) == []
    assert signal_members(leader.pid, signal.SIGKILL) == 0
    await members_exited(leader.pid)
