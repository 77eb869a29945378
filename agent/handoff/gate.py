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
from collections.abc import Callable
from pathlib import Path

from agent.handoff import binding
from agent.http.message import Request, Response
from agent.http.server import Server, peer_of

NAME = "agent_gate"  # name of the cluster, the listener and the routes
_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_OPEN = Response(
    200,
    json.dumps({"version_info": "1", "type_url": _ROUTES, "resources": [{"@type": _ROUTES, "name": NAME}]}).encode(),
    (("content-type", "application/json"),),
)


class Gate:
    """One epoch's gate at `path`; calls `reached` once, at the first request of process `pid`.

    An epoch that reached the gate of an earlier agent may send its request again. It gets a response, but `reached` is
    not called.
    """

    def __init__(self, path: Path, reached: Callable[[], None], *, reached_before: bool = False) -> None:
        self.path = path
        self.pid: int | None = None
        self._reached = reached
        self._was_reached = reached_before
        self.was_asked = False  # whether this agent's gate received a request
        self._opened = asyncio.Event()
        self._server = Server(self._answer, self._admit)

    async def shut(self, owner: tuple[int, int] | None) -> None:
        """Listen at the path; `owner` (uid, gid) may connect. Raises `MachineError`."""
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
        await self._server.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _admit(self, client: socket.socket) -> bool:
        peer = peer_of(client)
        return peer is not None and peer.pid == self.pid

    async def _answer(self, request: Request) -> Response:
        if request.path != "/v3/discovery:routes":
            return Response(404, b"not found\n")
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


def listener() -> dict[str, object]:
    """Return Envoy's configuration of the listener that waits for routes; it binds no port."""
    source = {
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",  # wait for as long as it takes
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": [NAME],
            "refresh_delay": "86400s",
            "request_timeout": "3600s",
        },
    }
    manager = {
        "@type": _MANAGER,
        "stat_prefix": NAME,
        "rds": {"route_config_name": NAME, "config_source": source},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": NAME,
        "bind_to_port": False,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": filters}],
    }
