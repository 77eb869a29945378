"""The proxy's configuration: a bootstrap for Envoy and the built-in proxy, or one for HAProxy or NGINX."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.demo.authority import CHAIN, KEY

_EXTENSIONS = "type.googleapis.com/envoy.extensions"


_HAPROXY = """\
global
    nbthread 1
defaults
    mode http
    option idle-close-on-response  # else it ends idle connections while a request is on its way
    timeout client 1m
    timeout connect 5s
    timeout server 1m
frontend demo
    # agent: key '{chain}' '{key}'
    bind 127.0.0.1:{port} ssl crt '{chain}'
    default_backend origin
backend origin
    server origin 127.0.0.1:{origin}
"""
_NGINX = """\
worker_processes 1;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_timeout 0;  # else it ends idle connections while a request is on its way
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        location / {{ proxy_pass http://127.0.0.1:{origin}; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration: the name of its file, its text, and arguments for the proxy."""

    name: str
    text: str
    arguments: tuple[str, ...] = ()


def configured(proxy: str, port: int, origin: int, certs: Path, *, is_brisk: bool) -> Configured:
    """Return the configuration of a proxy, chosen by its name, as `agent` chooses its kind.

    TLS on loopback `port`, HTTP to port `origin`; `certs` is absolute. `is_brisk`: epochs start faster than they would
    drain.
    """
    program = Path(proxy).name
    values = {"port": port, "origin": origin, "chain": certs / CHAIN, "key": certs / KEY}
    if program.startswith("haproxy"):
        return Configured("haproxy.cfg", _HAPROXY.format(**values))
    if program.startswith("nginx"):
        return Configured("nginx.conf", _NGINX.format(**values))
    text = yaml.safe_dump(bootstrap(port, origin, certs), sort_keys=False)
    arguments = ("--concurrency", "1", "-l", "error")
    return Configured("proxy.yaml", text, (*arguments, "--drain-strategy", "immediate") if is_brisk else arguments)


def bootstrap(port: int, origin: int, certs: Path) -> dict[str, Any]:
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
