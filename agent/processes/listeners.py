"""Assigns listening sockets to epochs and keeps the socket store up to date."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from agent.core.errors import MachineError
from agent.handoff.reuseport_filter import attach, detach
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host.inherited_sockets import InheritedSocket, address_of
from agent.host.log import log_event
from agent.host.processes import User
from agent.host.sockets import Endpoint, bind_for_proxy, check_free, may_bind_for_others
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Configuration, StaticListener

_SPARE_TIMEOUT = 1.0  # limit for a superseded epoch to empty the queues that its successor does not use
_SPARE_INTERVAL = 0.005  # polling, because the kernel does not notify when an accept queue is empty
_WORKERS_LIMIT = 1024


class Listeners:
    """Moves sockets between the socket store and the epochs.

    `ours` returns the pids of all epochs. If the proxy lacks the privilege to bind a port, the agent binds it: any
    address that the configuration names, and any other that the proxy requests on the ports in `allowed`.
    """

    def __init__(
        self,
        user: User | None,
        ours: Callable[[], Collection[int]],
        allowed: Collection[int] = (),
        store: SocketStore | None = None,
    ) -> None:
        self.store = SocketStore() if store is None else store
        self._user = user
        self._ours = ours
        self._allowed = allowed
        self._staged = SocketStore()  # new sockets of a candidate before its commit: bound by it, or for it

    def inherit(self, inherited_sockets: Iterable[InheritedSocket]) -> None:
        """Put inherited listening sockets into the socket store, and close any others."""
        workers: dict[str, int] = {}
        for inherited in inherited_sockets:
            address = address_of(inherited.descriptor)
            if address is None:
                os.close(inherited.descriptor)
                continue
            place = (
                ListenAddress(*json.loads(inherited.name))
                if inherited.name
                else ListenAddress(address, worker=workers.get(address, 0))
            )
            workers[address] = place.worker + 1
            self.store.put(place, inherited.descriptor)

    def bequest(self) -> dict[str, int]:
        """Return duplicates of all stored sockets by name, for the program executed next."""
        lent = ((place, self.store.get(place)) for place in self.store.places())
        named = ((json.dumps([each.address, each.namespace, each.worker]), held) for each, held in lent)
        return {name: os.dup(held) for name, held in named if held is not None}

    async def regain(self, epoch: EpochProcess) -> None:
        """Put duplicates of an adopted epoch's sockets into the store. Raises `MachineError`."""
        for place in sorted(epoch.asked):
            if not _is_fleeting(place.listener, epoch):
                descriptor = await epoch.duplicate(place)
                if descriptor is not None:
                    self.store.put(place, descriptor)

    def inodes(self, listeners: Collection[ListenAddress]) -> set[int]:
        """Return the inodes of the stored stream sockets of these listeners."""
        places = [each for each in self.store.places() if each.listener in listeners]
        lent = [self.store.get(each) for each in places if not each.address.startswith("udp://")]
        return {os.fstat(descriptor).st_ino for descriptor in lent if descriptor is not None}

    # Before the commit

    def get(self, place: ListenAddress, configuration: Configuration) -> int | None:
        """Return the socket for an address; None lets the proxy bind.

        Raises `AddressHeld` or `MachineError`.
        """
        lent = self.store.get(place)
        if lent is None:
            lent = self._staged.get(place)
        if lent is not None or place.namespace or place.address.startswith("udp://"):
            return lent
        endpoint = Endpoint.parse(place.address)
        known = next((each for each in configuration.listeners if each.place == place.listener), None)
        # A proxy of another user must not make the agent probe, with its own privileges, an address of its choice.
        may_ask = (self._user is None or known is not None) and (endpoint.port or endpoint.path)
        if may_ask and place.listener not in self.store.listeners() | self._staged.listeners():
            check_free(endpoint, self._ours())
        if self._user is None or not may_bind_for_others(endpoint.port):
            return None
        return self._bind(place, endpoint, known)

    def _bind(self, place: ListenAddress, endpoint: Endpoint, known: StaticListener | None) -> int | None:
        if known is None and endpoint.port not in self._allowed:
            text = f"no configuration names {place.address}, so the agent does not bind it for the proxy"
            log_event(logging.WARNING, "handoff.refused", f"{text}; --allow-listen {endpoint.port} permits it")
            return None
        reuse, dual = (True, False) if known is None else (known.reuse_port, known.dual_stack)
        self._staged.put(place, bind_for_proxy(endpoint, reuse_port=reuse, dual_stack=dual).detach())
        return self._staged.get(place)

    async def stage(self, candidate: EpochProcess) -> None:
        """Stage a duplicate of every socket that a candidate bound itself. Raises `MachineError`."""
        for place in sorted(candidate.bound_itself):
            if place not in self.store and not _is_fleeting(place.listener, candidate):
                descriptor = await candidate.duplicate(place)
                if descriptor is not None:
                    self._staged.put(place, descriptor)

    def keep(self, place: ListenAddress, descriptor: int, *, serves: bool) -> None:
        """Own a duplicate of a socket that an epoch bound itself: staged until its commit, unless it `serves`."""
        (self.store if serves else self._staged).put(place, descriptor)

    def unstage(self) -> None:
        """Close the staged sockets of a candidate that has exited."""
        self._staged.close_all()

    def missing(self, candidate: EpochProcess, before: Configuration | None) -> list[ListenAddress]:
        """Return served listeners that are still configured and that a candidate did not request."""
        now = candidate.loaded.configuration
        static_before = set() if before is None else {listener.place for listener in before.listeners}
        static_now = {listener.place for listener in now.listeners}
        asked = {place.listener for place in candidate.asked}
        missing = self.store.listeners() - asked - (static_before - static_now)
        if not now.has_dynamic_listeners:
            missing &= static_now
        return sorted(listener for listener in missing if _with_any_port(listener) not in asked)

    # At the commit

    def adopt(self) -> None:
        """Move the candidate's staged sockets into the socket store."""
        self.store.take_all(self._staged)

    async def hand_over(self, epoch: EpochProcess, before: EpochProcess | None) -> None:
        """Stop `before` from accepting; close the sockets that `epoch`, its successor, lacks."""
        self._steer(epoch)
        asked = {place.listener for place in epoch.asked}
        given_up = [place for place in self.store.places() if place not in epoch.asked]
        if before is not None:
            await self._emptied([place for place in given_up if place.listener in asked])
            with contextlib.suppress(MachineError):  # it has exited: its pidfd reports that
                before.stop_accepting()
        for place in given_up:
            self.store.close(place)

    def _steer(self, epoch: EpochProcess) -> None:
        """Send new clients only to the queues of workers that the new epoch has."""
        for listener, (here, used) in self.store.groups(epoch.asked).items():
            member = self.store.member(listener)
            try:
                attach(member, used) if used < here else detach(member)
            except OSError as error:
                log_event(logging.WARNING, "handoff.steering", f"cannot steer clients of {listener}: {error.strerror}")

    async def _emptied(self, places: Collection[ListenAddress]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SPARE_TIMEOUT):
                while any(self.store.queued(place) for place in places):  # noqa: ASYNC110
                    await asyncio.sleep(_SPARE_INTERVAL)

    # While it serves

    async def follow(self, epoch: EpochProcess) -> set[ListenAddress]:
        """Store exactly the sockets that `epoch` listens on; return its listeners.

        Raises `MachineError` if it does not respond.
        """
        listeners = await epoch.admin.listeners()
        for listener in sorted(listeners):
            if not _is_fleeting(listener, epoch):
                await self._follow_workers(epoch, listener)
        for place in self.store.places():
            if place.listener not in listeners:
                self.store.close(place)
        return listeners

    async def _follow_workers(self, epoch: EpochProcess, listener: ListenAddress) -> None:
        """Store a duplicate for each worker, or a single one if all workers share the socket."""
        held: set[ListenAddress] = set()
        for worker in range(_WORKERS_LIMIT):
            place = replace(listener, worker=worker)
            descriptor = await epoch.duplicate(place)
            if descriptor is None:
                break
            if worker and self.store.same(listener, descriptor):
                os.close(descriptor)
                break
            self.store.put(place, descriptor)
            held.add(place)
        for place in self.store.places():
            if place.listener == listener and place not in held:
                self.store.close(place)


def _is_fleeting(listener: ListenAddress, epoch: EpochProcess) -> bool:
    """Return whether the kernel chose the port, so that the next epoch will not request it."""
    return listener.any_port or (listener not in epoch.asked and _with_any_port(listener) in epoch.asked)


def _with_any_port(listener: ListenAddress) -> ListenAddress:
    """Return the address with port 0, as configured when the kernel chooses the port."""
    return replace(listener, address=f"{listener.address.rpartition(':')[0]}:0")
