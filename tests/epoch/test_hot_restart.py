import asyncio
import fcntl
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.errors import MachineError, UsageError
from agent.epoch import predecessor
from agent.epoch.arguments import hot_restart_version
from agent.epoch.hot_restart import HotRestart
from agent.handoff.channel import Message
from agent.handoff.child import Child
from agent.handoff.hot_restart_pb2 import HotRestartMessage
from agent.handoff.parent import Parent, ParentEvents
from agent.handoff.segment import HotRestartVersion, Segment
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress
from tests.epoch.neighbours import (
    Neighbour,
    Server,
    Stranger,
    a_stranger,
    arguments,
    close_all,
    joined,
    listening,
    neighbour,
)
from tests.handoff import handmade
from tests.handoff.epochs import until
from tests.handoff.handmade import block, framed, number, pass_listen_socket, reply
from tests.system.eventually import PATIENCE

STARTED_AT = 1_600_000_000
VERSION = HotRestartVersion.parse(hot_restart_version())
WEB = ListenAddress("tcp://127.0.0.1:80")
TAKEN_OVER = reply(2, number(1, STARTED_AT) + number(2, 1))


def flags(base_id: int) -> int:
    return int.from_bytes(Segment(base_id).path.read_bytes()[-8:], sys.byteorder)


@asynccontextmanager
async def as_child(
    prefix: str, base_id: int, parent_shutdown_time: float = 0
) -> AsyncIterator[tuple[HotRestart, Neighbour]]:
    """Epoch 1 of a chain, joined; the neighbour is epoch 0."""
    Segment(base_id).claim(VERSION)
    try:
        with neighbour(prefix, base_id, 0) as parent:
            child = HotRestart(arguments(prefix, base_id, 1, parent_shutdown_time), Server().part())
            joining = asyncio.create_task(child.join())
            await parent.expect("parent", handmade.SHUTDOWN_ADMIN)
            parent.send("child", 1, TAKEN_OVER)
            await joining
            try:
                yield child, parent
            finally:
                child.close()
    finally:
        Segment(base_id).release()


@contextmanager
def bugs() -> Iterator[list[object]]:
    """Exceptions that reached the loop."""
    found: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context["exception"]))
    yield found
    loop.set_exception_handler(None)


# The first process of a chain


async def test_the_first_makes_the_memory_says_that_it_starts_and_then_that_it_has(prefix: str, base_id: int) -> None:
    Segment(base_id).path.write_bytes(b"what an earlier chain left")
    async with joined(arguments(prefix, base_id, 0), Server()) as first:
        assert Segment(base_id).path.read_bytes()[:-8] == VERSION.image()[:-8]
        assert flags(base_id) == 1
        first.serve()
        assert flags(base_id) == 0
    assert not Segment(base_id).path.exists()


async def test_it_leaves_no_file_of_its_sockets(tmp_path: Path, base_id: int) -> None:
    async with joined(arguments(f"{tmp_path}/hr", base_id, 0), Server()) as first:
        first.serve()
        made = {path.name.removesuffix(f"_{base_id * 10}"): path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert made == dict.fromkeys(("hr_parent", "hr_child", "hr_udp_parent", "hr_udp_child"), 0o600)
    assert not list(tmp_path.iterdir())


async def test_a_name_in_use_is_refused_without_changes(prefix: str, base_id: int) -> None:
    told = rf"cannot bind .*_{base_id * 10}: .*choose another"
    with neighbour(prefix, base_id, 0), pytest.raises(MachineError, match=told):
        await HotRestart(arguments(prefix, base_id, 0), Server().part()).join()
    assert not Segment(base_id).path.exists()


async def test_a_path_too_long_for_a_socket_is_reported_before_any_is_bound(base_id: int) -> None:
    with pytest.raises(UsageError, match="bytes too long"):
        await HotRestart(arguments("/tmp/" + "x" * 90, base_id, 0), Server().part()).join()


# The child


async def test_it_takes_over_inherits_and_serves_in_envoys_own_bytes(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        assert child.started_at == STARTED_AT
        assert flags(base_id) == 1
        with listening(reuse_port=True) as held:
            asking = asyncio.create_task(child.inherit(WEB))
            await parent.expect("parent", pass_listen_socket(WEB.address))
            parent.send("child", 1, handmade.SOCKET_REPLY, descriptors=(held.fileno(),))
            await parent.expect("parent", pass_listen_socket(WEB.address, 1))
            parent.send("child", 1, handmade.NO_SOCKET_REPLY)
            (got,) = await asking
            with got:
                assert os.path.sameopenfile(got.fileno(), held.fileno())
                assert not got.getblocking()
                assert fcntl.fcntl(got, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        asking_stats = asyncio.create_task(child.parent_stats())
        await parent.expect("parent", handmade.STATS)
        entry = block(3, block(1, "requests") + number(2, 5)) + block(4, block(1, "clients") + number(2, 2))
        parent.send("child", 1, reply(3, entry))
        assert await asking_stats == ({"requests": 5}, {"clients": 2})
        child.serve()
        await parent.expect("parent", handmade.DRAIN_LISTENERS)
        await parent.expect("parent", handmade.TERMINATE)
        assert flags(base_id) == 0
        child.serve()
        assert parent.is_quiet("parent")


async def test_the_parent_is_terminated_later_where_that_is_wanted_and_once(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id, parent_shutdown_time=0.05) as (child, parent):
        child.serve()
        await parent.expect("parent", handmade.DRAIN_LISTENERS)
        assert parent.is_quiet("parent")
        await parent.expect("parent", handmade.TERMINATE)
        child.close()
        assert parent.is_quiet("parent")


async def test_a_child_that_ends_while_its_parent_drains_ends_it_too(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id, parent_shutdown_time=900) as (child, parent):
        child.serve()
        child.close()
        await parent.expect("parent", handmade.DRAIN_LISTENERS)
        await parent.expect("parent", handmade.TERMINATE)


async def test_a_child_that_never_served_leaves_its_parent_and_the_flag_alone(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        child.close()
        assert parent.is_quiet("parent")
        assert flags(base_id) == 0
        assert Segment(base_id).path.exists()


async def test_a_successor_ends_the_parent_before_its_time(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id, parent_shutdown_time=900) as (child, parent):
        child.serve()
        with neighbour(prefix, base_id, 2) as successor:
            successor.send("parent", 1, handmade.SHUTDOWN_ADMIN)
            await successor.expect("child", TAKEN_OVER)
        await parent.expect("parent", handmade.DRAIN_LISTENERS)
        await parent.expect("parent", handmade.TERMINATE)


async def test_messages_to_an_exited_parent_have_no_effect(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        parent.close()
        child.serve()
        with pytest.raises(MachineError, match="cannot send to"):
            await child.parent_stats()


async def test_a_parent_that_comes_late_is_waited_for(prefix: str, base_id: int) -> None:
    Segment(base_id).claim(VERSION)
    child = HotRestart(arguments(prefix, base_id, 1), Server().part())
    joining = asyncio.create_task(child.join())
    await until(lambda: flags(base_id) == 1)
    with neighbour(prefix, base_id, 0) as parent:
        await parent.expect("parent", handmade.SHUTDOWN_ADMIN)
        parent.send("child", 1, TAKEN_OVER)
        await joining
    child.close()
    Segment(base_id).release()


@pytest.mark.parametrize("is_there", [True, False], ids=["hangs", "is not there"])
async def test_a_parent_that_does_not_answer_is_waited_for_no_longer_than_promised(
    is_there: bool, prefix: str, base_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessor, "PATIENCE", 0.1)
    Segment(base_id).claim(VERSION)
    parent = Neighbour(prefix, base_id, 0) if is_there else None
    child = HotRestart(arguments(prefix, base_id, 1), Server().part())
    with pytest.raises(MachineError, match=r"no answer to shutdown_admin in 0\.1 s"):
        await child.join()
    assert flags(base_id) == 0
    if parent is not None:
        parent.close()
    Segment(base_id).release()


async def test_a_parent_that_was_silent_once_is_asked_nothing_more(
    prefix: str, base_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        monkeypatch.setattr(predecessor, "PATIENCE", 0.05)
        with pytest.raises(MachineError, match="no answer to pass_listen_socket"):
            await child.inherit(WEB)
        await parent.expect("parent", pass_listen_socket(WEB.address))
        with listening() as held:
            parent.send("child", 1, handmade.SOCKET_REPLY, descriptors=(held.fileno(),))  # late
            with pytest.raises(MachineError, match="no answer to pass_listen_socket"):
                await child.inherit(ListenAddress("tcp://127.0.0.1:81"))
        child.serve()
        await parent.expect("parent", handmade.DRAIN_LISTENERS)


async def test_a_socket_that_arrives_after_the_timeout_is_closed(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        asking = asyncio.create_task(child.inherit(WEB))
        await parent.expect("parent", pass_listen_socket(WEB.address))
        assert child._predecessor is not None
        with listening() as held:
            letter = Message(HotRestartMessage.FromString(handmade.SOCKET_REPLY), os.dup(held.fileno()))
            child._predecessor.take(letter)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking


async def test_answers_to_other_questions_do_not_count(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        asking = asyncio.create_task(child.inherit(WEB))
        await parent.expect("parent", pass_listen_socket(WEB.address))
        with listening() as held:
            parent.send("child", 1, reply(3), descriptors=(held.fileno(),))
            parent.send("child", 1, TAKEN_OVER, b"", handmade.STATS, handmade.NO_SOCKET_REPLY)
        assert await asking == []


async def test_a_parent_that_knows_no_such_request_is_an_error(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        asking = asyncio.create_task(child.parent_stats())
        await parent.expect("parent", handmade.STATS)
        parent.send("child", 1, handmade.NOT_UNDERSTOOD)
        with pytest.raises(MachineError, match="lacks stats"):
            await asking


async def inherited(child: HotRestart, parent: Neighbour, *held: socket.socket) -> tuple[int, int]:
    """Let a child inherit from a parent with these sockets; return how many it got, and how many it asked for."""
    asking = asyncio.create_task(child.inherit(WEB))
    asked = 0
    while not asking.done():
        reading = asyncio.create_task(parent.read("parent"))
        await asyncio.wait([asking, reading], return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            break
        if asked < len(held):
            parent.send("child", 1, handmade.SOCKET_REPLY, descriptors=(held[asked].fileno(),))
        else:
            parent.send("child", 1, handmade.NO_SOCKET_REPLY)
        asked += 1
        await asyncio.sleep(0)
    got = await asking
    for each in got:
        each.close()
    return len(got), asked


async def test_every_queue_of_a_group_is_inherited(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        with listening(reuse_port=True) as one, listening(reuse_port=True) as two:
            assert await inherited(child, parent, one, two) == (2, 3)


async def test_one_socket_for_all_workers_is_inherited_once(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        with listening(reuse_port=True) as shared:
            assert await inherited(child, parent, shared, shared, shared) == (1, 2)
        with listening() as alone:
            assert await inherited(child, parent, alone) == (1, 1)


async def test_a_parent_that_binds_on_request_is_not_asked_without_end(prefix: str, base_id: int) -> None:
    async with as_child(prefix, base_id) as (child, parent):
        with listening(reuse_port=True, listens=False) as fresh, listening(reuse_port=True) as old:
            assert await inherited(child, parent, fresh, fresh) == (1, 1)
            assert await inherited(child, parent, old, fresh, fresh) == (1, 2)


# Refusals to join


async def test_a_child_without_a_chain_is_refused(prefix: str, base_id: int) -> None:
    with pytest.raises(MachineError, match="does not exist; the first process is --restart-epoch 0"):
        await HotRestart(arguments(prefix, base_id, 1), Server().part()).join()


async def test_a_child_waits_for_another_that_starts(prefix: str, base_id: int) -> None:
    Segment(base_id).claim(VERSION)
    image = bytearray(VERSION.image())
    image[-8:] = (1).to_bytes(8, sys.byteorder)
    Segment(base_id).path.write_bytes(image)
    with pytest.raises(MachineError, match="another process of it is still starting"):
        await HotRestart(arguments(prefix, base_id, 1), Server().part()).join()
    assert flags(base_id) == 1
    Segment(base_id).release()


@pytest.mark.parametrize("version", [HotRestartVersion(12, VERSION.size), HotRestartVersion(11, VERSION.size + 16)])
async def test_a_chain_of_another_version_is_not_joined(version: HotRestartVersion, prefix: str, base_id: int) -> None:
    Segment(base_id).claim(version)
    with pytest.raises(MachineError, match=f"its hot-restart version is {version}"):
        await HotRestart(arguments(prefix, base_id, 1), Server().part()).join()
    Segment(base_id).release()


# The parent


@asynccontextmanager
async def as_parent(prefix: str, base_id: int, server: Server) -> AsyncIterator[Neighbour]:
    """Epoch 0 of a chain serves, and the neighbour is its epoch 1."""
    async with joined(arguments(prefix, base_id, 0), server) as parent:
        parent.started_at = STARTED_AT
        parent.serve()
        with neighbour(prefix, base_id, 1) as child:
            yield child
    Segment(base_id).release()


async def test_it_hands_over_in_envoys_own_bytes(prefix: str, base_id: int) -> None:
    with listening() as held:
        server = Server({WEB: held.fileno()}, counters={"requests": 5}, gauges={"clients": 2})
        async with as_parent(prefix, base_id, server) as child:
            child.send("parent", 0, handmade.TEST_CONNECTION, handmade.SHUTDOWN_ADMIN)
            await child.expect("child", TAKEN_OVER)
            child.send("parent", 0, pass_listen_socket(WEB.address))
            data, descriptors = await child.read("child")
            assert data == framed(reply(1, number(1, held.fileno())))
            assert [os.path.sameopenfile(each, held.fileno()) for each in descriptors] == [True]
            close_all(descriptors)
            child.send("parent", 0, pass_listen_socket(WEB.address, 1))
            await child.expect("child", handmade.NO_SOCKET_REPLY)
            child.send("parent", 0, handmade.STATS)
            entry = block(3, block(1, "requests") + number(2, 5)) + block(4, block(1, "clients") + number(2, 2))
            await child.expect("child", reply(3, entry))
            child.send("parent", 0, handmade.DRAIN_LISTENERS, handmade.TERMINATE)
            await until(lambda: "terminate" in server.heard)
        assert server.heard == ["shutdown_admin", "drain", "terminate"]


@pytest.mark.parametrize("asked", [handmade.UNKNOWN_REQUEST, b"", handmade.SOCKET_REPLY, handmade.NOT_UNDERSTOOD])
async def test_what_it_does_not_know_it_says_so(asked: bytes, prefix: str, base_id: int) -> None:
    async with as_parent(prefix, base_id, Server()) as child:
        child.send("parent", 0, asked)
        await child.expect("child", handmade.NOT_UNDERSTOOD)


async def test_a_big_answer_reaches_a_child_that_reads_slowly(prefix: str, base_id: int) -> None:
    server = Server(counters={f"cluster.of_a_long_name_{each}.upstream_rq_total": 1 for each in range(2000)})
    async with as_parent(prefix, base_id, server) as child:
        child.send("parent", 0, handmade.STATS, handmade.STATS)
        data = b""
        for _ in range(2):
            first, _ = await child.read("child")
            length = int.from_bytes(first[:8])
            assert length > 80_000
            data = first[8:]
            while len(data) < length:
                await asyncio.sleep(0)
                more, _ = await child.read("child")
                assert len(more) <= 4096
                data += more
            assert len(data) == length


async def test_a_missing_receiver_of_answers_has_no_effect(prefix: str, base_id: int) -> None:
    server = Server()
    async with as_parent(prefix, base_id, server) as child:
        with neighbour(prefix, base_id, 2) as elsewhere:
            child.close()
            if not prefix.startswith("@"):
                Path(child.name("child", 1)).unlink()
            with bugs() as found:
                elsewhere.send("parent", 0, handmade.STATS, handmade.SHUTDOWN_ADMIN, handmade.TERMINATE)
                await until(lambda: server.heard == ["shutdown_admin", "terminate"])
            assert found == []


class Broken(dict[ListenAddress, int]):
    """Sockets whose lookup fails."""

    def get(self, key: ListenAddress, default: object = None) -> NoReturn:
        raise ZeroDivisionError(key, default)


async def test_a_bug_in_the_servers_hooks_is_reported_and_the_child_gets_its_answer(prefix: str, base_id: int) -> None:
    async with as_parent(prefix, base_id, Server(Broken())) as child:
        with bugs() as found:
            child.send("parent", 0, pass_listen_socket("tcp://127.0.0.1:1"))
            await child.expect("child", handmade.NO_SOCKET_REPLY)
        assert [type(each) for each in found] == [ZeroDivisionError]


# Strangers and invalid messages


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """Another process of the same user."""
    with a_stranger() as made:
        yield made


RUBBISH = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.binary(max_size=40).map(framed),
        st.integers(0, 2**64 - 1).map(lambda length: length.to_bytes(8)),
        st.integers(0, 64).map(lambda size: framed(handmade.SHUTDOWN_ADMIN * 4)[:size]),
        st.just(bytes(5000)),
    ),
    max_size=8,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rubbish=RUBBISH, to_child=st.booleans(), descriptors=st.integers(0, 3))
def test_an_invalid_message_affects_no_other(
    rubbish: list[bytes], to_child: bool, descriptors: int, tmp_path: Path, base_id: int, stranger: Stranger
) -> None:
    asyncio.run(_rubbish(rubbish, "child" if to_child else "parent", descriptors, f"{tmp_path}/hr", base_id, stranger))


async def _rubbish(
    rubbish: list[bytes], role: str, descriptors: int, prefix: str, base_id: int, stranger: Stranger
) -> None:
    """An incomplete message may remain pending for the process that sent it, but never for another one."""
    async with as_parent(prefix, base_id, Server()) as child:
        with listening() as held:
            for each in rubbish:
                child.send_raw(role, 0, each, descriptors=(held.fileno(),) * descriptors)
                await asyncio.sleep(0)
        stranger.send(child.name("parent", 0), framed(handmade.STATS))
        while (await child.read("child"))[0] != framed(reply(3)):
            pass  # some of it is a valid message that is not supported


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, to be somebody else as well")
async def test_another_user_is_not_listened_to(base_id: int) -> None:
    server = Server()
    async with as_parent(f"@epoch-{base_id}", base_id, server) as child:
        with a_stranger(user=65534) as nobody:
            nobody.send(child.name("parent", 0), framed(handmade.TERMINATE))
            nobody.send(child.name("parent", 0), framed(handmade.DRAIN_LISTENERS))
        child.send("parent", 0, handmade.STATS)
        await child.expect("child", reply(3))
        assert server.heard == []


# Under the agent


async def test_it_is_an_epoch_of_the_agent(tmp_path: Path, base_id: int) -> None:
    """The agent at both ends, as for each epoch: parent at 0, child at 2, exited after the end."""
    names = SocketPaths(tmp_path, base_id)
    Segment(base_id).claim(VERSION)
    heard: list[object] = []
    with listening() as held, listening() as own:
        events = ParentEvents(
            lambda place: held.fileno() if place == WEB else None,
            lambda: heard.append("serves"),
            heard.append,
            heard.append,
        )
        parent, child = Parent(names, STARTED_AT, events), Child(names)
        parent.channel.pid = child.channel.pid = os.getpid()
        mine = ListenAddress(f"tcp://127.0.0.1:{own.getsockname()[1]}")
        server = Server({mine: own.fileno()})
        async with joined(arguments(str(names.prefix), base_id, 1), server) as epoch:
            assert epoch.started_at == STARTED_AT
            (got,) = await epoch.inherit(WEB)
            got.close()
            assert await epoch.inherit(mine) == []
            assert parent.bound_itself == {mine}
            assert await epoch.parent_stats() == ({}, {})
            duplicate = await child.ask(mine, timeout=PATIENCE)
            assert duplicate is not None
            assert os.path.sameopenfile(duplicate, own.fileno())
            os.close(duplicate)
            assert await child.ask(WEB, timeout=PATIENCE) is None
            epoch.serve()
            await until(lambda: heard)
            assert heard == ["serves"]
            child.drain_listeners()
            await until(lambda: server.heard)
            assert server.heard == ["drain"]
            parent.close()
            child.close()
