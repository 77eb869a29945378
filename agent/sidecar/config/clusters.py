"""Reads clusters and their endpoints."""

from agent.sidecar.config.addresses import address, is_number
from agent.sidecar.config.fields import NOT_SUPPORTED, Message
from agent.sidecar.config.transport_sockets import upstream
from agent.sidecar.model import Address, Cluster, SocketAddress

CLUSTER = "envoy.config.cluster.v3.Cluster"
_ENDPOINT = "envoy.config.endpoint.v3"

_KINDS = {"STATIC": 0, "STRICT_DNS": 1, "LOGICAL_DNS": 2, "EDS": 3, "ORIGINAL_DST": 4}
_HEEDED_KINDS = {name: name for name in ("STATIC", "STRICT_DNS", "ORIGINAL_DST")}
_POLICIES = {
    "ROUND_ROBIN": 0,
    "LEAST_REQUEST": 1,
    "RING_HASH": 2,
    "RANDOM": 3,
    "MAGLEV": 5,
    "CLUSTER_PROVIDED": 6,
    "LOAD_BALANCING_POLICY_CONFIG": 7,
}
_HEEDED_POLICIES = {name: name for name in ("ROUND_ROBIN", "CLUSTER_PROVIDED")}
_FAMILIES = {"AUTO": 0, "V4_ONLY": 1, "V6_ONLY": 2, "V4_PREFERRED": 3, "ALL": 4}
_HEEDED_FAMILIES = {name: name for name in _FAMILIES}


def cluster(message: Message) -> Cluster:
    """Return one cluster."""
    kind = message.choice("type", _KINDS, _HEEDED_KINDS, "STATIC")
    _check_policy(message, kind)
    return Cluster(
        name=message.text("name", required=True),
        kind=kind,
        endpoints=_endpoints(message, kind),
        connect_timeout=message.span("connect_timeout", 5.0, positive=True),
        tls=upstream(message),
        dns_refresh_rate=_refresh_rate(message),
        dns_family=message.choice("dns_lookup_family", _FAMILIES, _HEEDED_FAMILIES, "AUTO"),
        stat_name=message.text("alt_stat_name"),
    )


def _refresh_rate(message: Message) -> float:
    rate = message.span("dns_refresh_rate", 5.0)
    if rate <= 0.001:  # seconds: a rule of Envoy's API
        message.refuse("dns_refresh_rate", "it is longer than 0.001s")
    return rate


def _check_policy(message: Message, kind: str) -> None:
    policy = message.choice("lb_policy", _POLICIES, _HEEDED_POLICIES, "ROUND_ROBIN")
    if kind == "ORIGINAL_DST" and policy != "CLUSTER_PROVIDED":
        message.refuse("lb_policy", "a cluster of type ORIGINAL_DST has the policy CLUSTER_PROVIDED")
    if kind != "ORIGINAL_DST" and policy == "CLUSTER_PROVIDED":
        message.refuse("lb_policy", f"a cluster of type {kind} does not provide a policy")


def _endpoints(message: Message, kind: str) -> tuple[Address, ...]:
    assignment = message.message("load_assignment", f"{_ENDPOINT}.ClusterLoadAssignment")
    if assignment is None:
        return ()
    if kind == "ORIGINAL_DST":
        message.refuse("load_assignment", "a cluster of type ORIGINAL_DST has no endpoints of its own")
    assignment.text("cluster_name", required=True)
    return tuple(
        _endpoint(each, kind)
        for locality in assignment.messages("endpoints", f"{_ENDPOINT}.LocalityLbEndpoints")
        for each in locality.messages("lb_endpoints", f"{_ENDPOINT}.LbEndpoint")
    )


def _endpoint(message: Message, kind: str) -> Address:
    endpoint = message.message("endpoint", f"{_ENDPOINT}.Endpoint", required=True)
    if endpoint is None:
        return SocketAddress("127.0.0.1", 0)
    found = address(endpoint, names=True)
    if isinstance(found, SocketAddress) and kind == "STATIC" and found.host and not is_number(found.host):
        endpoint.refuse("address", f"{found.host} is a name, which a cluster of type STRICT_DNS resolves")
    if not isinstance(found, SocketAddress) and kind == "STRICT_DNS":
        endpoint.refuse("address", f"a path in a cluster of type STRICT_DNS is {NOT_SUPPORTED}")
    return found
