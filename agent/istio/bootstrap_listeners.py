"""The two listeners of the bootstrap: the proxy's own metrics, and readiness as the agent has it."""

from typing import Any

from agent.istio.bootstrap_clusters import address
from agent.istio.pod import Addresses

_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def listeners(addresses: Addresses, prometheus_port: int, health_port: int) -> list[dict[str, Any]]:
    """Return the listeners, at every address of each family that the pod has."""
    return [
        _listener("prometheus", addresses, prometheus_port, "stats", "/stats/prometheus", "prometheus_stats"),
        _listener("health", addresses, health_port, "agent", "/healthz/ready", "agent"),
    ]


def _listener(
    name: str, addresses: Addresses, port: int, stat_prefix: str, prefix: str, cluster: str
) -> dict[str, Any]:
    first, *others = addresses.wildcards
    more = {"additional_addresses": [{"address": address(each, port)} for each in others]} if others else {}
    return {
        "name": name,
        "address": address(first, port),
        **more,
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [_manager(stat_prefix, prefix, cluster)]}],
    }


def _manager(stat_prefix: str, prefix: str, cluster: str) -> dict[str, Any]:
    route = {"match": {"prefix": prefix}, "route": {"cluster": cluster}}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _MANAGER,
            "codec_type": "AUTO",
            "stat_prefix": stat_prefix,
            "route_config": {"virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [route]}]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
        },
    }
