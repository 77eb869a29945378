"""Single epochs of the real proxy."""

import os
import signal
import socket
import threading
from pathlib import Path

from tests.processes.harness import EpochHandle, happens, harness, until
from tests.processes.links import link_of, parent_of, segment_of
from tests.proxies.envoy.envoys import wants_envoy

pytestmark = wants_envoy


async def test_a_validation_says_what_is_wrong_in_the_operators_names_and_leaves_no_file() -> None:
    async with harness() as stage:
        assert await stage.start("{}").process.validate(10) is None
        role = stage.start("nonsense: 1")
        complaint = await role.process.validate(10)
        assert complaint is not None
        assert "nonsense" in complaint.text
        assert {path.name for path in link_of(role.process).names.directory.iterdir()} == {"bin", "stats"}


async def test_an_epoch_that_gave_up_can_be_asked_why() -> None:
    async with harness() as stage:
        role = stage.start("nonsense: 1")
        await role.process.launch(0)
        await happens(role.exited)
        assert role.code == 1
        assert "nonsense" in str(await role.process.validate(10))


async def test_burial_removes_everything_that_was_its_own() -> None:
    async with harness() as stage:
        role = stage.start("{}")
        await role.serve()
        role.process.signal(signal.SIGTERM)
        await happens(role.exited)
        assert role.code == 0
        await role.cleanup()
        assert not segment_of(role.process).path.exists()
        assert not link_of(role.process).names.directory.exists()


async def test_an_epoch_that_broke_its_channel_is_buried_like_any_other() -> None:
    async with harness() as stage:
        role = stage.start("{}")
        await role.reach_gate()
        _say(role, b"abc")
        await until(lambda: role.broken)
        role.process.signal(signal.SIGKILL)
        await happens(role.exited)
        try:
            await role.cleanup()
        finally:
            await _tidy(role)


def _say(role: EpochHandle, data: bytes) -> None:
    """Say something in the epoch's place: its own pid is what the channel looks at."""
    parent_of(role.process).channel.pid = os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, str(parent_of(role.process).channel.path))


async def _tidy(role: EpochHandle) -> None:
    """Bury what a burial that failed half-way left."""
    link_of(role.process).parent = None
    if segment_of(role.process).path.exists():
        await role.process.cleanup()


async def test_an_epoch_is_a_child_of_the_main_thread() -> None:
    """PR_SET_PDEATHSIG follows the thread: started from another one, Envoy ends with it."""
    assert threading.current_thread() is threading.main_thread()
    async with harness() as stage:
        role = stage.start("{}")
        await role.reach_gate()
        parent = Path(f"/proc/{role.pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) == os.getpid()
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        assert str(role.pid) in children


async def test_an_epoch_knows_its_number_and_its_nonce() -> None:
    async with harness() as stage:
        role = stage.start("{}")
        await role.reach_gate()
        environment = Path(f"/proc/{role.pid}/environ").read_bytes().split(b"\0")
        assert b"PROXY_AGENT_EPOCH=1" in environment
        assert f"PROXY_AGENT_NONCE={role.process.nonce}".encode() in environment
