"""The clusters of the bootstrap: the control plane, a tracing collector, the proxy's and the agent's own ports."""

from collections.abc import Mapping
from typing import Any

from agent.istio.discovery import ControlPlane, Files
from agent.istio.pod import Family

CONTROL_PLANE = "xds-grpc"

_DNS_CLUSTER = "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster"
_HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_MANY = 100_000
_KEEPALIVE = 300  # seconds


def address(host: str, port: int) -> dict[str, Any]:
    """Return a TCP address."""
    return {"socket_address": {"address": host, "port_value": port}}


def lookup_family(family: Family) -> str:
    """Return Envoy's name of how names are looked up in such a pod."""
    return {Family.V4: "V4_PREFERRED", Family.V6: "V6_ONLY", Family.BOTH: "ALL"}[family]


def local(name: str, host: str, port: int) -> dict[str, Any]:
    """Return a cluster with one address of this machine."""
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "load_assignment": _assignment(name, host, port),
    }


def named(name: str, host: str, port: int, dns: Mapping[str, Any], connect_timeout: str) -> dict[str, Any]:
    """Return a cluster whose host is looked up."""
    return {
        "name": name,
        "cluster_type": {"name": "envoy.clusters.dns", "typed_config": {"@type": _DNS_CLUSTER, **dns}},
        "connect_timeout": connect_timeout,
        "load_assignment": _assignment(name, host, port),
    }


def control_plane(plane: ControlPlane, dns: Mapping[str, Any], connect_timeout: str) -> dict[str, Any]:
    """Return the cluster of the ADS stream."""
    limits = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}
    secured = {} if plane.files is None else {"transport_socket": _tls(plane, plane.files)}
    return {
        **named(CONTROL_PLANE, plane.host, plane.port, dns, connect_timeout),
        "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [{"priority": each, **limits} for each in ("DEFAULT", "HIGH")]},
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_time": _KEEPALIVE}},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        **secured,
    }


def _tls(plane: ControlPlane, files: Files) -> dict[str, Any]:
    names = [{"san_type": kind, "matcher": {"exact": name}} for kind, name in plane.names]
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TLS,
            "sni": plane.host,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [
                    {"certificate_chain": {"filename": files.chain}, "private_key": {"filename": files.key}}
                ],
                "validation_context": {
                    "trusted_ca": {"filename": files.roots},
                    "match_typed_subject_alt_names": names,
                },
            },
        },
    }


def _assignment(name: str, host: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": address(host, port)}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
