"""The gate: holds back an unmodified, fully loaded Envoy until it may serve.

A configuration fragment adds a listener that binds no port, whose routes come by REST xDS over a Unix socket of the
agent. Envoy requests them once everything else is loaded, and does not start its workers before the response: an empty
route configuration. Measured: the candidate reports that it serves 1.3 ms after the response; the whole gate costs
about 7 ms.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.handoff import binding
from agent.http.message import Request, Response
from agent.http.server import Server, affordable_clients, peer_of

Deliver = Callable[[Request], Awaitable[Response | None]]
"""Answers a request for resources, perhaps much later; None if there are none of this kind."""

NAME = "agent_gate"  # name of the cluster, the listener and the routes
_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_DELIVERED = frozenset({"/v3/discovery:listeners", "/v3/discovery:secrets"})
_MANY = 1 << 16  # connections and requests: each secret waits at the gate with one
_OPEN = Response(
    200,
    json.dumps({"version_info": "1", "type_url": _ROUTES, "resources": [{"@type": _ROUTES, "name": NAME}]}).encode(),
    (("content-type", "application/json"),),
)


class Gate:
    """One epoch's gate at `path`; calls `reached` once, at the first request of process `pid`.

    An epoch that reached the gate of an earlier agent may send its request again. It gets a response, but `reached` is
    not called. One that fetches what this agent does not deliver waits: told so, it would ask twice a second.
    """

    def __init__(self, path: Path, reached: Callable[[], None], *, reached_before: bool = False) -> None:
        self.path = path
        self._deliver: Deliver | None = None
        self.pid: int | None = None
        self._reached = reached
        self._was_reached = reached_before
        self.was_asked = False  # whether this agent's gate received a request
        self._opened = asyncio.Event()
        self._closing = asyncio.Event()
        self._server: Server | None = None

    async def shut(self, owner: tuple[int, int] | None, deliver: Deliver | None = None, waiting: int = 0) -> None:
        """Listen at the path; `owner` (uid, gid) may connect. Raises `MachineError`.

        `deliver` answers requests for other resources; `waiting` is how many of them wait for an answer at a time.
        """
        self._deliver = deliver
        limit = affordable_clients() + 2 * waiting  # an idle connection may stand beside each that waits
        self._server = Server(self._answer, self._admit, limit)
        listener = binding.bind(socket.SOCK_STREAM, self.path, owner)  # replaces the socket of an earlier agent
        await self._server.start(listener)

    @property
    def is_open(self) -> bool:
        """Return whether the candidate may serve."""
        return self._opened.is_set()

    def open(self) -> None:
        """Let the candidate serve.

        The gate stays open for as long as the epoch lives, since Envoy requests its routes again once a day.
        """
        self._opened.set()

    async def close(self) -> None:
        """Close the gate and remove its socket."""
        self._closing.set()
        if self._server is not None:
            await self._server.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _admit(self, client: socket.socket) -> bool:
        peer = peer_of(client)
        return peer is not None and peer.pid == self.pid

    async def _answer(self, request: Request) -> Response:
        if request.path != "/v3/discovery:routes":
            answer = None if self._deliver is None else await self._deliver(request)
            if answer is None and request.path in _DELIVERED:
                await self._closing.wait()
            return answer or Response(404, b"not found\n")
        self.was_asked = True
        if not self._was_reached:
            self._was_reached = True
            self._reached()
        await self._opened.wait()
        return _OPEN


def cluster(path: str) -> dict[str, object]:
    """Return Envoy's configuration of the cluster that reaches a gate at this path."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": path}}}}
    return {
        "name": NAME,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": NAME, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def limits() -> dict[str, object]:
    """Return Envoy's configuration of the limits of this cluster where many resources wait at the gate."""
    return {"thresholds": [{"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}]}


def source(refresh: str) -> dict[str, object]:
    """Return Envoy's configuration of a source of resources behind the gate.

    Envoy asks again after `refresh`, as a protobuf duration, and waits for an answer for as long as it takes.
    """
    return {
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": [NAME],
            "refresh_delay": refresh,
            "request_timeout": "3600s",
        },
    }


def listener() -> dict[str, object]:
    """Return Envoy's configuration of the listener that waits for routes; it binds no port."""
    manager = {
        "@type": _MANAGER,
        "stat_prefix": NAME,
        "rds": {"route_config_name": NAME, "config_source": source("86400s")},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": NAME,
        "bind_to_port": False,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": filters}],
    }
