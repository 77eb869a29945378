"""Plans the bootstrap of a proxy: its node, its control plane, its ports, its statistics."""

from dataclasses import replace

from agent.istio import discovery, node, proxy_config
from agent.istio.bootstrap import CONNECT_TIMEOUT, DNS_REFRESH_RATE, PORTS, Plan, Ports
from agent.istio.discovery import ControlPlane, Files
from agent.istio.given import Given
from agent.istio.pod import Addresses
from agent.istio.proxy_config import StatsMatcher

_CLUSTER = "istio-proxy"
_OF_ISTIOD = ("PROXY_CONFIG", "PILOT_CERT_PROVIDER", "CA_ADDR")


def control_plane(given: Given) -> ControlPlane:
    """Return the control plane: reached by TLS if the policy says so, or its port where there is no policy."""
    default = discovery.ISTIOD if any(name in given.environment for name in _OF_ISTIOD) else discovery.PILOT
    plane = ControlPlane.parse(given.text("discoveryAddress") or given.config.discovery_address or default)
    policy = given.text("controlPlaneAuthPolicy")
    policy = proxy_config.auth_policy(policy) if policy else given.config.auth_policy or ""
    if policy == "NONE" or (not policy and not plane.is_secure_by_default):
        return plane
    domain = given.text("trust-domain") or given.environment.get("TRUST_DOMAIN", "")
    names = plane.names_by(given.text("pilotIdentity"), domain, given.pod.namespace)
    return replace(plane, files=Files.named(given.environment, "CLIENT"), names=names)


def ports(given: Given) -> Ports:
    """Return the ports of the proxy and of the agent."""
    config = given.config
    return Ports(
        admin=given.number("proxyAdminPort", config.admin_port, PORTS.admin),
        status=given.number("statusPort", config.status_port, PORTS.status),
        health=given.variable_port("ENVOY_STATUS_PORT", PORTS.health),
        prometheus=given.variable_port("ENVOY_PROMETHEUS_PORT", PORTS.prometheus),
    )


def plan(given: Given, role: str, plane: ControlPlane, chosen: Ports) -> Plan:
    """Return the plan of the bootstrap."""
    config, pod_addresses = given.config, addresses(given)
    cluster = given.text("serviceCluster") or config.service_cluster or _CLUSTER
    named = {"id": given.text("id"), "domain": given.text("domain"), "cluster": cluster}
    given.notes += node.unreadable(given.pod)
    outlier_log = given.text("outlierLogPath")
    known = {
        "PILOT_SAN": [name for _, name in plane.names],
        "ENVOY_STATUS_PORT": chosen.health,
        "ENVOY_PROMETHEUS_PORT": chosen.prometheus,
        "OUTLIER_LOG_PATH": outlier_log,
    }
    return Plan(
        node=node.make(role, given.pod, pod_addresses, config, named, known),
        addresses=pod_addresses,
        control_plane=plane,
        ports=chosen,
        connect_timeout=given.seconds("connectTimeout") or CONNECT_TIMEOUT,
        dns_refresh_rate=given.seconds("dnsRefreshRate") or DNS_REFRESH_RATE,
        zipkin=given.endpoint("zipkinAddress", config.zipkin_address),
        statsd=_statsd(given),
        stats=_stats(given),
        extra_tags=(*config.extra_tags, *given.listed("extraStatTags")),
        runtime_values=config.runtime_values,
        outlier_log=outlier_log or None,
    )


def addresses(given: Given) -> Addresses:
    """Return the pod's addresses: as given, with those of the interfaces beside a single one."""
    flag = given.text("ip")
    texts = [flag] if flag else given.pod.address_texts
    if len(texts) > 1:
        return Addresses.parse(texts, "INSTANCE_IPS")
    own = given.machine.own_addresses(not texts)
    if not texts and not own:
        given.notes.append("no address is known: the proxy uses 127.0.0.1; set INSTANCE_IP")
    return Addresses.parse([*texts, *own] or ["127.0.0.1"], "--ip" if flag else "INSTANCE_IP")


def _statsd(given: Given) -> tuple[str, int] | None:
    endpoint = given.endpoint("statsdUdpAddress", given.config.statsd_address)
    if endpoint is None:
        return None
    address = given.machine.resolve(endpoint[0])
    if address is None:
        given.notes.append(f"no statistics are sent: {endpoint[0]} has no address; correct --statsdUdpAddress")
        return None
    return address, endpoint[1]


def _stats(given: Given) -> StatsMatcher:
    matcher = given.config.stats
    return StatsMatcher(
        (*matcher.prefixes, *given.listed("statsInclusionPrefixes")),
        (*matcher.suffixes, *given.listed("statsInclusionSuffixes")),
        (*matcher.regexps, *given.listed("statsInclusionRegexps")),
    )
