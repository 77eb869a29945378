"""Reads network filters, which end a filter chain."""

from collections.abc import Callable

from agent.handoff import gate
from agent.sidecar.config.addresses import content
from agent.sidecar.config.fields import NOT_SUPPORTED, Message
from agent.sidecar.config.routes import virtual_hosts
from agent.sidecar.config.sources import SOURCE, rest_source
from agent.sidecar.model import DirectResponse, Echo, HttpManager, NetworkFilter, TcpProxy

_NETWORK = "envoy.extensions.filters.network"
TCP_PROXY = f"{_NETWORK}.tcp_proxy.v3.TcpProxy"
ECHO = f"{_NETWORK}.echo.v3.Echo"
DIRECT_RESPONSE = f"{_NETWORK}.direct_response.v3.Config"
MANAGER = f"{_NETWORK}.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "envoy.extensions.filters.http.router.v3.Router"

_CODECS = {"AUTO": 0, "HTTP1": 1, "HTTP2": 2, "HTTP3": 3}


def network_filter(message: Message) -> NetworkFilter:
    """Return the only filter of a chain."""
    message.text("name", required=True)
    typed = message.typed(_READERS)
    return Echo() if typed is None else _READERS[typed[0]](typed[1])


def _tcp_proxy(message: Message) -> TcpProxy:
    return TcpProxy(
        stat_prefix=message.text("stat_prefix", required=True),
        cluster=_cluster(message),
        idle_timeout=message.span("idle_timeout", 3600.0),
        max_connect_attempts=message.number("max_connect_attempts", 1, low=1),
    )


def _cluster(message: Message) -> str:
    name = message.text("cluster")
    if not message.has("cluster"):
        message.missing("cluster")
    elif not name:
        message.refuse("cluster", f"an empty name is {NOT_SUPPORTED}")
    return name


def _echo(_message: Message) -> Echo:
    return Echo()


def _direct_response(message: Message) -> DirectResponse:
    return DirectResponse(content(message, "response"))


def _manager(message: Message) -> HttpManager:
    message.choice("codec_type", _CODECS, {"AUTO": None, "HTTP1": None}, None)
    message.only("generate_request_id", value=False)
    message.only("use_remote_address", value=False)
    _require_router(message)
    routes = message.one_of("rds", "route_config")
    options = message.message("common_http_protocol_options", "envoy.config.core.v3.HttpProtocolOptions")
    return HttpManager(
        stat_prefix=message.text("stat_prefix", required=True),
        hosts=virtual_hosts(message) if routes == "route_config" else (),
        gate=_gate(message) if routes == "rds" else None,
        server_name=message.header("server_name") or "envoy",
        max_request_headers=message.number("max_request_headers_kb", 60, low=1, high=8192) << 10,
        request_headers_timeout=message.span("request_headers_timeout", 60.0),
        stream_idle_timeout=message.span("stream_idle_timeout", 300.0),
        request_timeout=message.span("request_timeout", 0.0),
        idle_timeout=3600.0 if options is None else options.span("idle_timeout", 3600.0),
    )


def _require_router(message: Message) -> None:
    filters = message.messages("http_filters", "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter")
    if len(filters) != 1:
        message.refuse("http_filters", f"anything but one filter, the router, is {NOT_SUPPORTED}")
    for each in filters:
        each.text("name", required=True)
        each.typed((ROUTER,))


def _gate(manager: Message) -> str | None:
    """Return the cluster of the agent's gate; reject every other source of routes."""
    rds = manager.message("rds", f"{_NETWORK}.http_connection_manager.v3.Rds")
    source = None if rds is None else rds.message("config_source", SOURCE, required=True)
    if rds is None or source is None:
        return None
    if rds.text("route_config_name") != gate.NAME:
        rds.refuse("route_config_name", f"routes from other sources than the agent's gate are {NOT_SUPPORTED}")
    found = rest_source(source)
    if found is not None and found.initial_fetch_timeout:
        source.refuse("initial_fetch_timeout", f"a limited wait for the gate is {NOT_SUPPORTED}: it must be 0s")
    return None if found is None else found.cluster


_READERS: dict[str, Callable[[Message], NetworkFilter]] = {
    TCP_PROXY: _tcp_proxy,
    ECHO: _echo,
    DIRECT_RESPONSE: _direct_response,
    MANAGER: _manager,
}
