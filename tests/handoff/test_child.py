import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.handoff.child import Child
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress
from tests.handoff import handmade
from tests.handoff.epochs import Epoch, fake_epoch, open_descriptors, until
from tests.handoff.handmade import framed

ONE, TWO = (
    ListenAddress("tcp://127.0.0.1:1"),
    ListenAddress("tcp://127.0.0.1:0", "/run/netns/a", worker=3),
)  # an arbitrary address
LONG = 10.0


@asynccontextmanager
async def asking(directory: Path) -> AsyncIterator[tuple[Child, Epoch]]:
    names = SocketPaths(directory, 9)
    child = Child(names)
    try:
        async with fake_epoch(names) as epoch:
            child.channel.pid = epoch.pid
            yield child, epoch
    finally:
        child.close()


async def give(epoch: Epoch) -> None:
    await epoch.tell("send_with", "child_2", framed(handmade.SOCKET_REPLY).hex(), 1)


async def test_the_epochs_socket_is_duplicated_and_belongs_to_the_asker(tmp_path: Path) -> None:
    async with asking(tmp_path) as (child, epoch):
        listening = await epoch.tell("listen")
        asked = asyncio.create_task(child.ask(TWO, LONG))
        assert await epoch.read("parent_1") == (
            framed(handmade.pass_listen_socket("tcp://127.0.0.1:0", 3, "/run/netns/a")),
            [],
        )
        await give(epoch)
        descriptor = await asked
        assert descriptor is not None
        assert os.fstat(descriptor).st_ino == listening["inode"]
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(descriptor)


async def test_a_socket_of_another_address_is_not_taken(tmp_path: Path) -> None:
    """It would be passed to the next epoch, which would serve at the predecessor's address."""
    async with asking(tmp_path) as (child, epoch):
        await epoch.tell("listen")
        for _ in range(2):
            asked = asyncio.create_task(child.ask(ONE, LONG))
            await epoch.read("parent_1")
            await give(epoch)
            before = open_descriptors()
            with pytest.raises(MachineError, match="one of another address"):
                await asked
            assert open_descriptors() <= before


async def test_an_epoch_without_such_a_socket_says_so(tmp_path: Path) -> None:
    async with asking(tmp_path) as (child, epoch):
        asked = asyncio.create_task(child.ask(ONE, LONG))
        await epoch.read("parent_1")
        await epoch.send("child_2", handmade.NO_SOCKET_REPLY)
        assert await asked is None


async def test_one_question_at_a_time(tmp_path: Path) -> None:
    """A child that does not read blocks Envoy's main thread, so no request is sent in advance."""
    async with asking(tmp_path) as (child, epoch):
        first, second = asyncio.create_task(child.ask(TWO, LONG)), asyncio.create_task(child.ask(ONE, LONG))
        await epoch.read("parent_1")
        await epoch.tell("listen")
        next_question = asyncio.create_task(epoch.read("parent_1"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not next_question.done()
        os.close(await _answered_by(first, child))
        await next_question
        await epoch.send("child_2", handmade.NO_SOCKET_REPLY)
        assert await second is None


async def _answered_by(asked: "asyncio.Task[int | None]", child: Child) -> int:
    """Answer from this process: the epoch itself waits for the next request."""
    own, child.channel.pid = child.channel.pid, os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, socket.create_server(("127.0.0.1", 0)) as given:
        sender.connect(str(child.names.agent_as_child))
        socket.send_fds(sender, [framed(handmade.SOCKET_REPLY)], [given.fileno()])
        descriptor = await asked
    child.channel.pid = own
    assert descriptor is not None
    return descriptor


async def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    async with asking(tmp_path) as (child, epoch):
        await epoch.tell("listen")
        with pytest.raises(MachineError, match="no answer within"):
            await child.ask(ONE, 0.01)
        asked = asyncio.create_task(child.ask(TWO, LONG))
        await epoch.read("parent_1")
        await epoch.read("parent_1")
        await give(epoch)
        await epoch.send("child_2", handmade.NO_SOCKET_REPLY)
        assert await asked is None


async def test_an_answer_to_a_question_that_was_given_up_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    """The task that follows the listeners is cancelled at a commit, possibly during a request."""
    async with asking(tmp_path) as (child, epoch):
        await epoch.tell("listen")
        given_up = asyncio.create_task(child.ask(ONE, LONG))
        await epoch.read("parent_1")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        asked = asyncio.create_task(child.ask(TWO, LONG))
        await epoch.read("parent_1")
        await give(epoch)
        await epoch.send("child_2", handmade.NO_SOCKET_REPLY)
        descriptor = await asked
        if descriptor is not None:
            os.close(descriptor)
        assert descriptor is None


async def test_an_answer_to_no_question_is_closed(tmp_path: Path) -> None:
    async with asking(tmp_path) as (child, epoch):
        await epoch.tell("listen")
        await give(epoch)
        asked = asyncio.create_task(child.ask(ONE, LONG))
        await epoch.read("parent_1")
        await epoch.send("child_2", handmade.NO_SOCKET_REPLY)
        assert await asked is None


async def test_an_answer_from_a_third_process_is_no_answer(tmp_path: Path) -> None:
    """Every process that can write to `child_2` could inject a reply."""
    async with asking(tmp_path) as (child, epoch):
        asked = asyncio.create_task(child.ask(ONE, LONG))
        await epoch.read("parent_1")
        async with fake_epoch(SocketPaths(tmp_path, 9)) as stranger:
            await stranger.tell("listen")
            await give(stranger)
        await epoch.send("child_2", handmade.NO_SOCKET_REPLY)
        assert await asked is None


async def test_nothing_is_asked_where_the_answer_would_abort_the_epoch(tmp_path: Path) -> None:
    """Envoy aborts if the name that it answers to is missing: the run directory was emptied."""
    async with asking(tmp_path) as (child, epoch):
        child.names.agent_as_child.unlink()
        with pytest.raises(MachineError, match="the answer would abort it"):
            await child.ask(ONE, LONG)
        child.drain_listeners()  # this message has no reply
        assert await epoch.read("parent_1") == (framed(handmade.DRAIN_LISTENERS), [])


async def test_an_epoch_that_is_gone_cannot_be_asked(tmp_path: Path) -> None:
    child = Child(SocketPaths(tmp_path, 9))
    with pytest.raises(MachineError, match="cannot reach"):
        await child.ask(ONE, LONG)
    with pytest.raises(MachineError, match="cannot reach"):
        child.drain_listeners()
    child.close()


async def test_a_pending_request_fails_when_the_epoch_exits(tmp_path: Path) -> None:
    async with asking(tmp_path) as (child, epoch):
        asked = asyncio.create_task(child.ask(ONE, LONG))
        await epoch.read("parent_1")
        await epoch.tell("send", "child_2", "00")
        with pytest.raises(MachineError):
            await asked


async def test_a_pending_request_fails_at_once_when_the_child_is_closed(tmp_path: Path) -> None:
    async with asking(tmp_path) as (child, epoch):
        asked = asyncio.create_task(child.ask(ONE, LONG))
        await epoch.read("parent_1")
        child.close()
        with pytest.raises(MachineError, match="the epoch has exited"):
            await asked


async def test_an_epoch_that_broke_its_channel_can_be_drained_without_an_error(tmp_path: Path) -> None:
    names = SocketPaths(tmp_path, 9)
    child = Child(names)
    async with fake_epoch(names) as epoch:
        child.channel.pid = epoch.pid
        await epoch.tell("send", "child_2", "00")
        await until(lambda: not names.agent_as_child.exists())
        with contextlib.suppress(MachineError):
            child.drain_listeners()
        reconnected = child.channel._sender
        if reconnected is not None:
            reconnected.close()
        assert reconnected is None
    child.close()


async def test_stats_are_never_asked_since_that_steals_from_the_sinks(tmp_path: Path) -> None:
    """A child sends only requests for a socket, and the request to drain."""
    async with asking(tmp_path) as (child, epoch):
        child.drain_listeners()
        asked = asyncio.create_task(child.ask(ONE, LONG))
        assert (await epoch.read("parent_1"))[0] == framed(handmade.DRAIN_LISTENERS)
        assert (await epoch.read("parent_1"))[0] == framed(handmade.pass_listen_socket(ONE.address))
        await epoch.send("child_2", handmade.NO_SOCKET_REPLY)
        await asked
    public = {name for name in vars(Child) if not name.startswith("_")}
    assert public == {"ask", "close", "drain_listeners"}
