"""The status server, and the admin address that is forwarded to the serving epoch."""

import asyncio
import logging
from collections.abc import Collection

from agent.core.errors import MachineError, UsageError
from agent.host.inherited_sockets import reuse
from agent.host.log import log_event
from agent.host.sockets import Endpoint, listen
from agent.http.hosts import guarded
from agent.http.message import Request, Response
from agent.http.server import Limits, Server
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Forwarder, Proxy
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
        self._status = Server(guarded(routes.answer, names), limits=Limits(body=0))
        self._admin: Server | None = None
        self._forwarder: Forwarder | None = None
        self._address: str | None = None
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
        named = serving.loaded.configuration.admin_address
        async with self._moving:
            if named is not None:
                self._forwarder = self._kind.forwarder(named.allowed)
                self._forwarder.target = serving.admin.place
            address = None if named is None else named.address
            if self._admin is None or address != self._address:
                await self._move(address)

    async def _move(self, address: str | None) -> None:
        """Listen at another admin address. A failure is only logged: the proxy serves without one."""
        if self._admin is not None:
            await self._admin.close()
        self._admin = None
        self._address = address
        if address is None:
            return
        try:
            listener = listen(Endpoint.parse(address))
        except (MachineError, UsageError) as error:
            log_event(logging.ERROR, "admin.unavailable", f"there is no admin interface: {error}")
            return
        self._admin = Server(guarded(self._forward, self._names))
        await self._admin.start(listener)

    async def _forward(self, request: Request) -> Response:
        assert self._forwarder is not None
        return await self._forwarder.answer(request)

    async def close(self) -> None:
        """Close every address."""
        await self._status.close()
        await self._routes.close()
        if self._admin is not None:
            await self._admin.close()
