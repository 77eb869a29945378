"""When a drained epoch is empty: not before it has closed its listeners, and then when its last connection is gone."""

import asyncio
import os
from collections.abc import Callable, Collection

from agent.core.errors import MachineError
from agent.host.processes import connections_at, has_socket
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Inbound

_FIRST_INTERVAL = 0.1  # connections end quickly at first, and later one by one
_GROWTH = 1.3
_LONGEST_INTERVAL = 1.0
_LAST_INTERVAL = 0.25  # at the end the agent exits right after the last connection


async def emptied(
    epoch: EpochProcess,
    inodes: Collection[int],
    counted: Callable[[], None],
    inbound: Inbound | None = None,
    *,
    at_the_end: bool = False,
) -> None:
    """Return when `epoch` has none of these listening sockets any more, and no connection.

    With `inbound`, connections by other listeners do not count. `counted` is called after each look at them.

    It is told to close its listeners by a message that it reads when it has time: until the kernel shows that it did,
    zero connections mean nothing, since the next may come. Where the kernel does not show it, two zeros in a row count.
    `at_the_end` one that is silent, as while nobody reads its log, is empty when the kernel knows of no connection.
    """
    interval = _FIRST_INTERVAL
    zeros = 0
    if epoch.material.configuration.has_udp:
        await asyncio.sleep(
            epoch.material.program.kind.udp_overlap + _FIRST_INTERVAL
        )  # it forwards datagrams until then
    while True:
        await asyncio.sleep(interval)
        interval = min(interval * _GROWTH, _LAST_INTERVAL if at_the_end else _LONGEST_INTERVAL)
        # In a thread, as below: it looks at every descriptor of the proxy, which may have a million.
        listens = None if epoch.pid is None else await asyncio.to_thread(has_socket, epoch.pid, inodes)
        if listens and at_the_end and await _is_silent(epoch):
            epoch.clients = await asyncio.to_thread(connections_left, epoch, inbound)
            counted()
            if epoch.clients == 0:
                return
        zeros = zeros + 1 if not listens and await _is_empty(epoch, inbound) else 0
        counted()
        if zeros >= (1 if listens is False else 2):
            return


async def _is_silent(epoch: EpochProcess) -> bool:
    try:
        await epoch.admin.state()
    except MachineError:
        return True
    return False


async def _is_empty(epoch: EpochProcess, inbound: Inbound | None) -> bool:
    if inbound is not None and not inbound.places:
        return True
    try:
        clients = await epoch.admin.connections(inbound)
    except MachineError:
        if os.path.lexists(epoch.admin.path):
            return False  # too busy or hung: its deadline will come
        clients = None  # somebody removed its socket
    epoch.clients = await asyncio.to_thread(connections_left, epoch, inbound) if clients is None else clients
    if epoch.clients_at_first is None:
        epoch.clients_at_first = epoch.clients
    return epoch.clients == 0


def connections_left(epoch: EpochProcess, inbound: Inbound | None = None) -> int | None:
    """How many it has, from the kernel, which knows whose a TCP connection is and not on which Unix socket one came."""
    places = epoch.asked if inbound is None else inbound.places
    if epoch.pid is None or not all(place.address.startswith("tcp://") for place in places):
        return None
    return connections_at(epoch.pid, {int(place.address.rpartition(":")[2]) for place in places})
