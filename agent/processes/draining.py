"""Detects when a draining epoch has closed its listeners and its last connection."""

import asyncio
import os
from collections.abc import Callable, Collection

from agent.core.errors import MachineError
from agent.host.processes import connections_at, has_socket
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Inbound

_FIRST_INTERVAL = 0.1  # most connections close early in a drain, the rest slowly
_GROWTH = 1.3
_LONGEST_INTERVAL = 1.0
_LAST_INTERVAL = 0.25  # at shutdown, because the agent exits right after the last connection


async def emptied(
    epoch: EpochProcess,
    inodes: Collection[int],
    counted: Callable[[], None],
    inbound: Inbound | None = None,
    *,
    at_the_end: bool = False,
) -> None:
    """Return when `epoch` has closed these listening sockets (inodes) and all its connections.

    With `inbound`, only connections of those listeners count. `counted` is called after each count.

    The epoch reads the message to close its listeners with a delay. Until the kernel shows that it has closed them, a
    count of zero is not final: another connection may come. If the kernel denies that information, two zeros in a row
    suffice. `at_the_end`, an epoch whose admin interface does not respond, as when its log output is blocked, is empty
    when the kernel reports no connection.
    """
    interval = _FIRST_INTERVAL
    zeros = 0
    if epoch.loaded.configuration.has_udp:
        await asyncio.sleep(epoch.loaded.program.kind.udp_overlap + _FIRST_INTERVAL)  # it forwards datagrams until then
    while True:
        await asyncio.sleep(interval)
        interval = min(interval * _GROWTH, _LAST_INTERVAL if at_the_end else _LONGEST_INTERVAL)
        # In a thread, as below: it examines every descriptor of the proxy, which may have a million.
        listens = None if epoch.pid is None else await asyncio.to_thread(_listens, epoch, inodes)
        if listens and at_the_end and await _is_silent(epoch):
            epoch.clients = await asyncio.to_thread(connections_left, epoch, inbound)
            counted()
            if epoch.clients == 0:
                return
        zeros = zeros + 1 if not listens and await _is_empty(epoch, inbound) else 0
        counted()
        if zeros >= (1 if listens is False else 2):
            return


def _listens(epoch: EpochProcess, inodes: Collection[int]) -> bool | None:
    """Return whether one of its processes has one of these sockets; None if the kernel denies that information."""
    found = [has_socket(pid, inodes) for pid in epoch.processes()]
    return True if True in found else next(iter(found), False)


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
            return False  # too busy or hung: the drain deadline ends it
        clients = None  # its admin socket was removed
    epoch.clients = await asyncio.to_thread(connections_left, epoch, inbound) if clients is None else clients
    if epoch.clients_at_first is None:
        epoch.clients_at_first = epoch.clients
    return epoch.clients == 0


def connections_left(epoch: EpochProcess, inbound: Inbound | None = None) -> int | None:
    """Return the kernel's count of connections; None if unavailable or if a listener is not TCP.

    The kernel does not show on which Unix socket a connection was accepted.
    """
    places = epoch.asked if inbound is None else inbound.places
    if epoch.pid is None or not all(place.address.startswith("tcp://") for place in places):
        return None
    ports = {int(place.address.rpartition(":")[2]) for place in places}
    counts = [connections_at(pid, ports) for pid in epoch.processes()]
    return sum(count for count in counts if count is not None) if counts[0] is not None else None
