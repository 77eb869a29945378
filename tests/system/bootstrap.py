"""Envoy bootstraps of the tests: TLS listeners, a plain one, and additions of single tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
TYPES = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True)
class Secured:
    """A certificate to serve: its files, and its server name (any, if empty)."""

    chain: Path
    key: Path
    server_name: str = ""
    trusted: Path | None = None


@dataclass
class Bootstrap:
    """The configuration of one Envoy, by the properties that tests vary."""

    tls_port: int
    plain_port: int
    secured: Sequence[Secured]
    admin_port: int | None = None
    address: str = "127.0.0.1"
    body: str = "ok\n"
    more: list[Json] = field(default_factory=list)
    clusters: list[Json] = field(default_factory=list)
    dynamic: Json | None = None

    def tree(self) -> Json:
        """Return the bootstrap as the tree that `write` formats as YAML."""
        tls = listener("tls", self.address, self.tls_port, [tls_chain(one, self.body) for one in self.secured])
        plain = listener("plain", self.address, self.plain_port, [{"filters": [http(self.body)]}])
        tree: Json = {
            "static_resources": {"listeners": [tls, plain, *self.more], "clusters": self.clusters},
        }
        if self.admin_port is not None:
            tree["admin"] = {"address": address("127.0.0.1", self.admin_port)}
        if self.dynamic is not None:
            tree["dynamic_resources"] = self.dynamic
            tree["node"] = {"id": "test", "cluster": "test"}
        return tree

    def text(self) -> str:
        """Return the bootstrap as YAML."""
        return yaml.safe_dump(self.tree(), sort_keys=False)

    def write(self, path: Path) -> None:
        """Write the bootstrap to `path` by one rename."""
        replace(path, self.text())


def replace(path: Path, text: str) -> None:
    """Write `text` beside `path` and rename it over."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def address(host: str, port: int) -> Json:
    """Return an Envoy socket address."""
    return {"socket_address": {"address": host, "port_value": port}}


def listener(name: str, host: str, port: int, chains: Sequence[Json]) -> Json:
    """Return a listener; with server names it reads the ClientHello first."""
    made: Json = {"name": name, "address": address(host, port), "filter_chains": list(chains)}
    if any("filter_chain_match" in chain for chain in chains):
        inspector = {"@type": f"{TYPES}.filters.listener.tls_inspector.v3.TlsInspector"}
        made["listener_filters"] = [{"name": "inspector", "typed_config": inspector}]
    return made


def tls_chain(secured: Secured, body: str) -> Json:
    """Return the filter chain that serves HTTP behind one certificate."""
    common: Json = {
        "tls_certificates": [
            {"certificate_chain": {"filename": str(secured.chain)}, "private_key": {"filename": str(secured.key)}}
        ]
    }
    if secured.trusted is not None:
        common["validation_context"] = {"trusted_ca": {"filename": str(secured.trusted)}}
    context = {
        "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common,
    }
    chain: Json = {"filters": [http(body)], "transport_socket": {"name": "tls", "typed_config": context}}
    if secured.server_name:
        chain["filter_chain_match"] = {"server_names": [secured.server_name]}
    return chain


def http(body: str) -> Json:
    """Return an HTTP connection manager that answers every request with `body`."""
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": body}},
    }
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"name": "local", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}},
        ],
    }
    return {"name": "http", "typed_config": manager}


def lds_from_file(path: Path) -> Json:
    """Return dynamic resources with listeners from a file that is replaced by a rename."""
    return {"lds_config": {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}}


def lds_from_plane(cluster: str) -> Json:
    """Return dynamic resources with listeners from a control plane over gRPC."""
    source = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster}}],
    }
    return {"lds_config": {"api_config_source": source, "resource_api_version": "V3", "initial_fetch_timeout": "1s"}}


def plane_cluster(name: str, port: int) -> Json:
    """Return the cluster of a control plane on loopback."""
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {
        "@type": f"type.googleapis.com/{kind}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": address("127.0.0.1", port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "typed_extension_protocol_options": {kind: options},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def write_lds(path: Path, listeners: Sequence[Json], version: str) -> None:
    """Publish `listeners` in the file of an Envoy's LDS."""
    kind = "type.googleapis.com/envoy.config.listener.v3.Listener"
    resources = [{"@type": kind, **one} for one in listeners]
    replace(path, yaml.safe_dump({"version_info": version, "resources": resources}, sort_keys=False))
