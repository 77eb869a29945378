"""A drain ends when the listeners are closed and the last connection is, by the proxy's count or the kernel's."""

import asyncio
import os
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import pytest

from agent.core.errors import MachineError
from agent.handoff.socket_store import ListenAddress
from agent.processes.draining import connections_left, emptied
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Inbound
from tests.processes.conftest import MakeEpoch
from tests.processes.fakes import NO_INBOUND, FakeAdmin
from tests.processes.links import link_of
from tests.processes.virtual_time import now, virtual_time, within

GHOST = (1 << 22) + 1  # beyond the largest pid: the kernel tells nothing about it
UDP = """
static_resources:
  listeners: [{name: u, address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 53}}}]
"""


def answers(epoch: EpochProcess) -> dict[str, Any]:
    return cast(FakeAdmin, epoch.admin).answers


def asked(epoch: EpochProcess) -> list[str]:
    return cast(FakeAdmin, epoch.admin).asked


def wants(epoch: EpochProcess, *addresses: str) -> None:
    """Have an epoch asked for these addresses."""
    places = {ListenAddress(address) for address in addresses}
    link_of(epoch).parent = cast(Any, type("Parent", (), {"asked": places, "close": lambda _: None})())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def inode(listener: socket.socket) -> int:
    return os.fstat(listener.fileno()).st_ino


@virtual_time
async def test_without_the_kernels_word_two_zeros_in_a_row_are_needed(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch(pid=GHOST)
    counts = iter([2, 0, 1, 0, 0])
    counted: list[int | None] = []
    answers(epoch)["connections"] = counts.__next__
    await emptied(epoch, [1], lambda: counted.append(epoch.clients))
    assert counted == [2, 0, 1, 0, 0]
    assert epoch.clients_at_first == 2


@virtual_time
async def test_where_the_kernel_shows_that_the_listener_is_closed_one_zero_is_enough(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch(pid=os.getpid())
    counted: list[int | None] = []
    await emptied(epoch, [], lambda: counted.append(epoch.clients))
    assert counted == [0]


@virtual_time
async def test_an_epoch_that_still_listens_is_not_empty_though_it_counts_no_connection(
    make_epoch: MakeEpoch, listener: socket.socket
) -> None:
    """It has not read the message yet: another connection may come."""
    epoch = make_epoch(pid=os.getpid())
    counted: list[int | None] = []

    def count() -> None:
        counted.append(epoch.clients)
        if len(counted) == 4:
            listener.close()

    await emptied(epoch, [inode(listener)], count)
    assert counted == [None, None, None, None, 0]


@virtual_time
async def test_a_process_that_is_gone_needs_no_look_at_its_sockets(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch()
    counted: list[int | None] = []
    await emptied(epoch, [1], lambda: counted.append(epoch.clients))
    assert counted == [0, 0]


@pytest.mark.parametrize(
    ("at_the_end", "at"), [(False, [0.1, 0.23, 0.399, 0.619, 0.904]), (True, [0.1, 0.23, 0.399, 0.619, 0.869])]
)
@virtual_time
async def test_connections_are_counted_often_at_first_and_at_shutdown_for_as_long_as_it_takes(
    make_epoch: MakeEpoch, at_the_end: bool, at: list[float]
) -> None:
    epoch, began = make_epoch(pid=GHOST), now()
    counts = iter([9, 9, 9, 0, 0])
    answers(epoch)["connections"] = counts.__next__
    moments: list[float] = []
    await emptied(epoch, [], lambda: moments.append(round(now() - began, 3)), at_the_end=at_the_end)
    assert moments == pytest.approx(at, abs=0.002)


@pytest.mark.parametrize(("options", "longest"), [({}, 1.0), ({"at_the_end": True}, 0.25)])
@virtual_time
async def test_no_two_counts_are_further_apart_than_the_longest_interval(
    make_epoch: MakeEpoch, options: dict[str, Any], longest: float
) -> None:
    epoch = make_epoch(pid=GHOST)
    counts = iter([1] * 30 + [0, 0])
    answers(epoch)["connections"] = counts.__next__
    moments: list[float] = []
    await emptied(epoch, [], lambda: moments.append(now()), **options)
    spans = [round(after - before, 6) for before, after in pairwise(moments)]
    assert max(spans) == longest
    assert spans[-1] == longest


@virtual_time
async def test_a_proxy_with_udp_forwards_datagrams_before_anything_is_counted(make_epoch: MakeEpoch) -> None:
    epoch, began = make_epoch(UDP, pid=GHOST), now()
    moments: list[float] = []
    await emptied(epoch, [], lambda: moments.append(round(now() - began, 3)))
    assert moments[0] == 4.2, "4 s of overlap, and two first intervals"


@virtual_time
async def test_a_busy_console_is_asked_again_for_as_long_as_its_socket_is_there(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch(pid=os.getpid())
    wants(epoch, "tcp://127.0.0.1:1")
    epoch.admin.path.touch()
    answers(epoch)["connections"] = MachineError("busy")
    with pytest.raises(TimeoutError):
        await within(100, emptied(epoch, [], lambda: None))
    assert epoch.clients is None
    assert epoch.clients_at_first is None
    assert len(asked(epoch)) >= 97


@virtual_time
async def test_without_a_console_socket_the_kernel_counts(make_epoch: MakeEpoch, listener: socket.socket) -> None:
    epoch = make_epoch(pid=os.getpid())
    port = listener.getsockname()[1]
    wants(epoch, f"tcp://127.0.0.1:{port}")
    answers(epoch)["connections"] = MachineError("gone")
    client = socket.create_connection(("127.0.0.1", port))
    server, _ = listener.accept()
    listener.close()
    counted: list[int | None] = []

    def count() -> None:
        counted.append(epoch.clients)
        client.close()
        server.close()

    with client, server:
        await emptied(epoch, [], count)
    assert counted == [1, 0], "the server's end; the client's has another port"
    assert epoch.clients_at_first == 1


@virtual_time
async def test_a_proxy_that_does_not_count_itself_is_counted_by_the_kernel(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch(pid=os.getpid())
    wants(epoch, "tcp://127.0.0.1:1")
    answers(epoch)["connections"] = None
    await within(1, emptied(epoch, [], lambda: None))
    assert epoch.clients == 0


@virtual_time
async def test_an_unknown_count_is_no_zero(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch(pid=os.getpid())
    wants(epoch, "unix:///run/x")
    answers(epoch)["connections"] = None
    with pytest.raises(TimeoutError):
        await within(2, emptied(epoch, [], lambda: None))
    assert epoch.clients is None


INBOUND = Inbound(frozenset({ListenAddress("tcp://127.0.0.1:1")}), frozenset({"listener.in."}))


@virtual_time
async def test_only_the_inbound_connections_count_where_only_those_listeners_close(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch(pid=GHOST)
    answers(epoch)["connections"] = {None: 7, INBOUND: 0}
    await within(10, emptied(epoch, [], lambda: None, INBOUND))
    assert epoch.clients == 0


@virtual_time
async def test_without_an_inbound_listener_there_is_nothing_to_wait_for(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch(pid=GHOST)
    answers(epoch)["connections"] = 7
    await within(10, emptied(epoch, [], lambda: None, NO_INBOUND))
    assert asked(epoch) == []


@virtual_time
async def test_at_the_end_a_silent_proxy_that_listens_is_empty_when_the_kernel_counts_nothing(
    make_epoch: MakeEpoch, listener: socket.socket
) -> None:
    """It may block on its own log: it will never read that it has to close."""
    epoch = make_epoch(pid=os.getpid())
    wants(epoch, "tcp://127.0.0.1:1")
    answers(epoch)["state"] = MachineError("silent")
    counted: list[int | None] = []
    await within(1, emptied(epoch, [inode(listener)], lambda: counted.append(epoch.clients), at_the_end=True))
    assert counted == [0]
    assert "connections" not in asked(epoch)


@virtual_time
async def test_at_the_end_a_silent_proxy_with_a_connection_is_not_empty(
    make_epoch: MakeEpoch, listener: socket.socket
) -> None:
    epoch = make_epoch(pid=os.getpid())
    port = listener.getsockname()[1]
    wants(epoch, f"tcp://127.0.0.1:{port}")
    answers(epoch)["state"] = MachineError("silent")
    with socket.create_connection(("127.0.0.1", port)):
        server, _ = listener.accept()
        with server, pytest.raises(TimeoutError):
            await within(2, emptied(epoch, [inode(listener)], lambda: None, at_the_end=True))
    assert epoch.clients == 1


@pytest.mark.parametrize(("at_the_end", "state"), [(True, "LIVE"), (False, MachineError("silent"))])
@virtual_time
async def test_a_proxy_that_listens_is_waited_for_unless_it_is_silent_at_the_end(
    make_epoch: MakeEpoch, listener: socket.socket, at_the_end: bool, state: object
) -> None:
    epoch = make_epoch(pid=os.getpid())
    wants(epoch, "tcp://127.0.0.1:1")
    answers(epoch)["state"] = state
    with pytest.raises(TimeoutError):
        await within(2, emptied(epoch, [inode(listener)], lambda: None, at_the_end=at_the_end))


def test_the_kernel_counts_the_connections_of_the_ports_that_were_asked_for(
    make_epoch: MakeEpoch, listener: socket.socket
) -> None:
    epoch = make_epoch(pid=os.getpid())
    port = listener.getsockname()[1]
    wants(epoch, f"tcp://127.0.0.1:{port}", "tcp://[::1]:1")
    other = Inbound(frozenset({ListenAddress("tcp://127.0.0.1:1")}), frozenset())
    with socket.create_connection(("127.0.0.1", port)):
        server, _ = listener.accept()
        with server:
            assert connections_left(epoch) == 1
            assert connections_left(epoch, other) == 0


@pytest.mark.parametrize(
    ("pid", "addresses"),
    [
        (None, ["tcp://127.0.0.1:1"]),
        (GHOST, ["tcp://127.0.0.1:1"]),
        (os.getpid(), ["tcp://127.0.0.1:1", "unix:///run/x"]),
        (os.getpid(), ["udp://127.0.0.1:1"]),
    ],
    ids=["no process", "a process that is gone", "a Unix socket", "datagrams"],
)
def test_the_kernels_count_is_unknown_for(make_epoch: MakeEpoch, pid: int | None, addresses: list[str]) -> None:
    epoch = make_epoch(pid=pid)
    wants(epoch, *addresses)
    assert connections_left(epoch) is None


@virtual_time
async def test_a_drain_that_is_cancelled_stops_counting(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch(pid=GHOST)
    answers(epoch)["connections"] = 1
    task = asyncio.create_task(emptied(epoch, [], lambda: None))
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    before = len(asked(epoch))
    await asyncio.sleep(5)
    assert len(asked(epoch)) == before
