"""The Envoy bootstrap of a sidecar or router, built as data: no value can change its structure.

Clusters and listeners come from the control plane over one ADS stream. Source of the fields: Envoy's v3 API reference;
of the names and ports: istio.io/docs/ops/deployment/application-requirements.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.istio import bootstrap_clusters, bootstrap_listeners, bootstrap_stats, go_durations
from agent.istio.discovery import ControlPlane
from agent.istio.node import Node
from agent.istio.pod import Addresses
from agent.istio.proxy_config import StatsMatcher

_CONNECTION_LIMIT = 2**31 - 1
_ACCESS_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
_CONNECTIONS = (
    "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)
_RUNTIME = {"envoy.reloadable_features.http_reject_path_with_fragment": False}


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a proxy that the control plane does not choose; `status` is the agent's."""

    admin: int = 15000
    status: int = 15020
    health: int = 15021
    prometheus: int = 15090


PORTS = Ports()
"""The usual ones."""

CONNECT_TIMEOUT = 1.0
DNS_REFRESH_RATE = 300.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The values of a bootstrap. Durations are in seconds."""

    node: Node
    addresses: Addresses
    control_plane: ControlPlane
    ports: Ports = PORTS
    connect_timeout: float = CONNECT_TIMEOUT
    dns_refresh_rate: float = DNS_REFRESH_RATE
    zipkin: tuple[str, int] | None = None
    statsd: tuple[str, int] | None = None  # an IP address and a port
    stats: StatsMatcher = field(default_factory=StatsMatcher)
    extra_tags: tuple[str, ...] = ()
    runtime_values: Mapping[str, str] = field(default_factory=dict)
    outlier_log: str | None = None


def document(plan: Plan) -> dict[str, Any]:
    """Return the bootstrap."""
    made: dict[str, Any] = {
        "node": plan.node.document,
        "admin": _admin(plan),
        "layered_runtime": _runtime(plan),
        "dynamic_resources": _dynamic_resources(),
        "static_resources": {
            "clusters": [*_clusters(plan)],
            "listeners": bootstrap_listeners.listeners(plan.addresses, plan.ports.prometheus, plan.ports.health),
        },
        "stats_config": bootstrap_stats.config(plan.stats, plan.extra_tags, plan.addresses),
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {"@type": _CONNECTIONS, "max_active_downstream_connections": _CONNECTION_LIMIT},
                }
            ]
        },
    }
    if plan.statsd is not None:
        made["stats_sinks"] = [bootstrap_stats.statsd(*plan.statsd)]
    if plan.outlier_log:
        made["cluster_manager"] = {"outlier_detection": {"event_log_path": plan.outlier_log}}
    return made


def _admin(plan: Plan) -> dict[str, Any]:
    return {
        "address": bootstrap_clusters.address(plan.addresses.localhost, plan.ports.admin),
        "access_log": [
            {"name": "envoy.access_loggers.file", "typed_config": {"@type": _ACCESS_LOG, "path": "/dev/null"}}
        ],
    }


def _runtime(plan: Plan) -> dict[str, Any]:
    return {
        "layers": [
            {"name": "static", "static_layer": {**_RUNTIME, **plan.runtime_values}},
            {"name": "admin", "admin_layer": {}},
        ]
    }


def _dynamic_resources() -> dict[str, Any]:
    by_ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "ads_config": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": bootstrap_clusters.CONTROL_PLANE}}],
        },
        "cds_config": by_ads,
        "lds_config": dict(by_ads),
    }


def _clusters(plan: Plan) -> list[dict[str, Any]]:
    local, ports = plan.addresses.localhost, plan.ports
    dns = {
        "dns_lookup_family": bootstrap_clusters.lookup_family(plan.addresses.family),
        "dns_refresh_rate": go_durations.text(plan.dns_refresh_rate),
        "respect_dns_ttl": True,
    }
    made = [
        bootstrap_clusters.control_plane(plan.control_plane, dns, go_durations.text(plan.connect_timeout)),
        bootstrap_clusters.local("prometheus_stats", local, ports.admin),
        bootstrap_clusters.local("agent", local, ports.status),
    ]
    if plan.zipkin is not None:
        made.append(bootstrap_clusters.named("zipkin", *plan.zipkin, {**dns, "dns_refresh_rate": "30s"}, "1s"))
    return made
