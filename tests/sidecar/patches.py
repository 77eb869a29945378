"""A bootstrap that both the sidecar and Envoy accept, and single changes of it."""

import copy
import re
from pathlib import Path
from typing import Any, Final

from tests.pki import Authority

Json = dict[str, Any]
Case = tuple[str, object]
EXTENSIONS = "type.googleapis.com/envoy.extensions"
GONE: Final = object()

TLS = "static_resources.listeners[0]"
WEB = "static_resources.listeners[1]"
PIPE = "static_resources.listeners[2]"
CONTEXT = f"{TLS}.filter_chains[0].transport_socket.typed_config"
PROXY = f"{TLS}.filter_chains[0].filters[0].typed_config"
MANAGER = f"{WEB}.filter_chains[0].filters[0].typed_config"
HOST = f"{MANAGER}.route_config.virtual_hosts[0]"
STATIC = "static_resources.clusters[0]"
DNS = "static_resources.clusters[1]"
ORIGINAL = "static_resources.clusters[2]"
UPSTREAM = f"{STATIC}.transport_socket.typed_config"

COMMON, UPSTREAM_COMMON = f"{CONTEXT}.common_tls_context", f"{UPSTREAM}.common_tls_context"
PORT = f"{TLS}.address.socket_address"
SECOND = f"{TLS}.filter_chains[1]"
ECHO = f"{PIPE}.filter_chains[0].filters[0].typed_config"
ROUTES = f"{MANAGER}.route_config"
OTHER_HOST = f"{ROUTES}.virtual_hosts[1]"
BY_SDS, CA_BY_SDS = "tls_certificate_sds_secret_configs", "validation_context_sds_secret_config"
DIRECT = "filters.network.direct_response.v3.Config"


def place(host: str = "127.0.0.1", port: int = 0) -> Json:
    """Return an IP address and port."""
    return {"socket_address": {"address": host, "port_value": port}}


def typed(kind: str, **members: object) -> Json:
    """A `typed_config`."""
    return {"@type": f"{EXTENSIONS}.{kind}", **members}


def echo_chain(**members: object) -> Json:
    """A filter chain that echoes."""
    return {"filters": [{"name": "echo", "typed_config": typed("filters.network.echo.v3.Echo")}], **members}


def pair(directory: Path) -> Json:
    """The certificate of `write_files`."""
    return {
        "certificate_chain": {"filename": str(directory / "chain")},
        "private_key": {"filename": str(directory / "key")},
    }


def secret(name: str = "s", **api: object) -> Json:
    """Return an SdsSecretConfig with a REST source, without the parts of it that are None."""
    given: Json = {
        "api_type": "REST",
        "transport_api_version": "V3",
        "cluster_names": ["static"],
        "refresh_delay": "0.5s",
        "request_timeout": "3600s",
        **api,
    }
    polled = {field: value for field, value in given.items() if value is not None}
    source = {"resource_api_version": "V3", "initial_fetch_timeout": "0s", "api_config_source": polled}
    return {"name": name, "sds_config": source}


def write_files(directory: Path) -> None:
    """Write the files that the bootstrap names."""
    authority = Authority.create("root")
    leaf = authority.issue(["a.example"])
    for name, content in (("chain", leaf.chain_pem), ("key", leaf.key_pem), ("ca", authority.pem), ("body", b"body")):
        (directory / name).write_bytes(content)


def bootstrap(directory: Path) -> Json:
    """One listener with TLS, one with HTTP, one on a path; one cluster of each kind."""
    common = {
        "tls_certificates": [pair(directory)],
        "validation_context": {"trusted_ca": {"filename": str(directory / "ca")}},
    }
    down = typed("transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=common)
    both = copy.deepcopy(common)
    up = typed("transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=both, sni="a.example")
    proxy = typed("filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="tcp", cluster="static")
    inspector = typed("filters.listener.tls_inspector.v3.TlsInspector")
    return {
        "node": {"id": "node", "cluster": "test"},
        "static_resources": {
            "listeners": [
                {
                    "name": "tls",
                    "address": place(),
                    "listener_filters": [{"name": "inspector", "typed_config": inspector}],
                    "filter_chains": [
                        {
                            "filter_chain_match": {"server_names": ["a.example"]},
                            "transport_socket": {"name": "tls", "typed_config": down},
                            "filters": [{"name": "proxy", "typed_config": proxy}],
                        }
                    ],
                },
                {"name": "web", "address": place(), "filter_chains": [_web()]},
                {"name": "pipe", "address": {"pipe": {"path": str(directory / "s")}}, "filter_chains": [echo_chain()]},
            ],
            "clusters": [
                {
                    "name": "static",
                    "type": "STATIC",
                    "load_assignment": endpoints(place("127.0.0.1", 9)),
                    "transport_socket": {"name": "tls", "typed_config": up},
                },
                {"name": "dns", "type": "STRICT_DNS", "load_assignment": endpoints(place("localhost", 9))},
                {"name": "original", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"},
            ],
        },
    }


def _web() -> Json:
    routes = [
        {"match": {"prefix": "/up"}, "route": {"cluster": "dns", "timeout": "3s"}},
        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}},
    ]
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="web",
        generate_request_id=False,
        route_config={"name": "local", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[{"name": "router", "typed_config": typed("filters.http.router.v3.Router")}],
    )
    return {"filters": [{"name": "http", "typed_config": manager}]}


def endpoints(*addresses: Json) -> Json:
    """A load assignment."""
    return {"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": a}} for a in addresses]}]}


def patched(tree: Json, path: str, value: object) -> Json:
    """Return a copy of a tree with `value` at `path`: beyond the end of a list it is appended, GONE removes."""
    changed = copy.deepcopy(tree)
    steps: list[Any] = [int(step) if step.isdigit() else step for step in re.findall(r"@?\w+", path)]
    within: Any = changed
    for step in steps[:-1]:
        within = within[step] if isinstance(step, int) else within.setdefault(step, {})
    last = steps[-1]
    if value is GONE:
        del within[last]
    elif isinstance(last, int) and last >= len(within):
        within.append(value)
    else:
        within[last] = value
    return changed
