"""The gate: an unmodified Envoy waits here, fully loaded, until it may serve.

A fragment of configuration gives it a listener of no address whose routes come by REST xDS over a Unix socket of the
agent. Envoy asks for them once everything else is loaded and does not start its workers before the answer. An empty
route configuration is the answer. Measured: the candidate says that it serves 1.3 ms later; the whole gate costs
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

NAME = "agent_gate"  # of the cluster, the listener and the routes
_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_OPEN = Response(
    200,
    json.dumps({"version_info": "1", "type_url": _ROUTES, "resources": [{"@type": _ROUTES, "name": NAME}]}).encode(),
    (("content-type", "application/json"),),
)


class Gate:
    """One epoch's gate, at `path`. `reached` is called once, when the candidate of process `pid` first asks.

    An epoch that reached the gate of an earlier agent may ask again, and is answered: `reached` is not called then.
    """

    def __init__(self, path: Path, reached: Callable[[], None], *, reached_before: bool = False) -> None:
        self.path = path
        self.pid: int | None = None
        self._reached = reached
        self._was_reached = reached_before
        self.was_asked = False  # here, by whoever reached it
        self._opened = asyncio.Event()
        self._server = Server(self._answer, self._admit)

    async def shut(self, owner: tuple[int, int] | None) -> None:
        """Stand at the path, where `owner` (uid, gid) may knock."""
        listener = binding.bind(socket.SOCK_STREAM, self.path, owner)  # in place of one of an earlier agent
        await self._server.start(listener)

    @property
    def is_open(self) -> bool:
        """Whether the candidate may serve."""
        return self._opened.is_set()

    def open(self) -> None:
        """Let the candidate serve; it stays open for as long as the epoch lives, since Envoy asks again once a day."""
        self._opened.set()

    async def close(self) -> None:
        """Take the gate away."""
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
    """Envoy's configuration of the way to a gate at this path."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": path}}}}
    return {
        "name": NAME,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": NAME, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def listener() -> dict[str, object]:
    """Envoy's configuration of the listener that waits for its routes. It binds nothing and asks for no socket."""
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
