"""The status server, and the admin address that is forwarded to the serving epoch."""

import asyncio
import logging
from collections.abc import Collection

from agent.core.errors import MachineError, UsageError
from agent.host.inherited_sockets import reuse
from agent.host.log import log_event
from agent.host.sockets import Endpoint, listen
from agent.http.hosts import guarded
from agent.http.server import Server
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import AdminAddress, Forwarder, Proxy
from agent.status.routes import Routes

STATUS = "status"
"""Name of the status server's listener when a successor program inherits it."""


class Endpoints:
    """The status server and the admin address.

    `routes` answers status requests. `names`: host names that both accept, besides localhost, at a loopback address.
    """

    def __init__(self, routes: Routes, kind: Proxy, names: Collection[str]) -> None:
        self._routes = routes
        self._kind = kind
        self._names = names
        self._status = Server(guarded(routes.answer, names), body_limit=0)
        self._admin: Server | None = None
        self._forwarder: Forwarder | None = None
        self._named: AdminAddress | None = None
        self._moving = asyncio.Lock()

    async def open_status(self, host: str, port: int, inherited: int | None = None) -> None:
        """Start the status server, on the inherited listener if its port still fits.

        Raises `AddressHeld` or `MachineError`.
        """
        await self._status.start(reuse(inherited, port) or listen(Endpoint(host, port)))

    def bequest(self) -> dict[str, int]:
        """Return a duplicate of the status listener, for the successor program to inherit."""
        descriptor = self._status.duplicate()
        return {} if descriptor is None else {STATUS: descriptor}

    async def route_to(self, serving: EpochProcess) -> None:
        """Forward the admin address, if the configuration names one, to this epoch."""
        named = serving.material.configuration.admin_address
        async with self._moving:
            if self._forwarder is None or named != self._named:
                await self._move(named)
        if self._forwarder is not None:
            self._forwarder.target = serving.admin.place

    async def _move(self, named: AdminAddress | None) -> None:
        """Listen at another admin address. A failure is only logged: the proxy serves without one."""
        if self._admin is not None:
            await self._admin.close()
        self._admin = self._forwarder = None
        self._named = named
        if named is None:
            return
        try:
            listener = listen(Endpoint.parse(named.address))
        except (MachineError, UsageError) as error:
            log_event(logging.ERROR, "admin.unavailable", f"there is no admin interface: {error}")
            return
        self._forwarder = self._kind.forwarder(named.allowed)
        self._admin = Server(guarded(self._forwarder.answer, self._names))
        await self._admin.start(listener)

    async def close(self) -> None:
        """Close every address."""
        await self._status.close()
        await self._routes.close()
        if self._admin is not None:
            await self._admin.close()
