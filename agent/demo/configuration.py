"""The proxy's bootstrap: one file for both Envoy and the built-in proxy."""

from pathlib import Path
from typing import Any

from agent.demo.authority import CHAIN, KEY

_EXTENSIONS = "type.googleapis.com/envoy.extensions"


def configuration(port: int, origin: int, certs: Path) -> dict[str, Any]:
    """Return a bootstrap: TLS on loopback `port`, HTTP to port `origin`. `certs` is absolute."""
    pair = {
        "certificate_chain": {"filename": str(certs / CHAIN)},
        "private_key": {"filename": str(certs / KEY)},
    }
    secured = {
        "@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [pair]},
    }
    http = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "demo",
        "route_config": {
            "name": "demo",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}],
                }
            ],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": secured},
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}],
    }
    endpoint = {"endpoint": {"address": _address(origin)}}
    cluster = {
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "demo", "address": _address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
