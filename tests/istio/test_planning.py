"""How a bootstrap is planned."""

from collections.abc import Mapping, Sequence

import pytest

from agent.core.errors import UsageError
from agent.istio import go_flags, planning, proxy_flags
from agent.istio.bootstrap import Plan, Ports
from agent.istio.given import Given
from tests.istio.machines import machine


def given(*words: str, environment: Mapping[str, str] | None = None, addresses: Sequence[str] = ()) -> Given:
    line = go_flags.parse(words, proxy_flags.FLAGS)
    return Given(line, environment or {}, machine(addresses=addresses))


def planned(made: Given) -> Plan:
    return planning.plan(made, "sidecar", planning.control_plane(made), planning.ports(made))


@pytest.mark.parametrize(
    ("words", "environment", "address", "secure"),
    [
        ((), {}, ("istio-pilot", 15010), False),
        ((), {"PROXY_CONFIG": "{}"}, ("istiod.istio-system.svc", 15012), True),
        ((), {"CA_ADDR": "x:1"}, ("istiod.istio-system.svc", 15012), True),
        ((), {"PROXY_CONFIG": "discoveryAddress: a:1"}, ("a", 1), False),
        (("--discoveryAddress=b:15011",), {"PROXY_CONFIG": "discoveryAddress: a:1"}, ("b", 15011), False),
        (("--discoveryAddress=b:15011", "--controlPlaneAuthPolicy", "MUTUAL_TLS"), {}, ("b", 15011), True),
        (("--controlPlaneAuthPolicy=NONE",), {"PROXY_CONFIG": "{}"}, ("istiod.istio-system.svc", 15012), False),
        ((), {"PROXY_CONFIG": "controlPlaneAuthPolicy: NONE"}, ("istiod.istio-system.svc", 15012), False),
        ((), {"PROXY_CONFIG": "{discoveryAddress: 'a:1', controlPlaneAuthPolicy: 1}"}, ("a", 1), True),
    ],
)
def test_the_control_plane(
    words: tuple[str, ...], environment: Mapping[str, str], address: tuple[str, int], secure: bool
) -> None:
    plane = planning.control_plane(given(*words, environment=environment))
    assert (plane.host, plane.port) == address
    assert (plane.files is not None) is secure
    assert bool(plane.names) is secure


def test_a_trust_domain_may_come_from_the_environment() -> None:
    words = ("--controlPlaneAuthPolicy=MUTUAL_TLS",)
    plane = planning.control_plane(given(*words, environment={"TRUST_DOMAIN": "td", "POD_NAMESPACE": "shop"}))
    assert plane.names == (("URI", "spiffe://td/ns/shop/sa/istio-pilot-service-account"),)
    plane = planning.control_plane(given(*words, "--trust-domain=flag", "--pilotIdentity=p"))
    assert plane.names == (("URI", "spiffe://flag/p"),)


def test_the_ports() -> None:
    assert planning.ports(given()) == Ports(15000, 15020, 15021, 15090)
    environment = {
        "ENVOY_STATUS_PORT": "3",
        "ENVOY_PROMETHEUS_PORT": "4",
        "PROXY_CONFIG": "{statusPort: 9, proxyAdminPort: 1}",
    }
    assert planning.ports(given("--statusPort=2", environment=environment)) == Ports(1, 2, 3, 4)
    assert planning.ports(given("--statusPort=0")).status == 0


@pytest.mark.parametrize(
    ("words", "environment", "own", "addresses"),
    [
        ((), {}, (), ["127.0.0.1"]),
        ((), {}, ("10.1.1.1", "fd00::1"), ["10.1.1.1", "fd00::1"]),
        ((), {"INSTANCE_IP": "10.0.0.7"}, ("10.0.0.7", "fd00::7"), ["10.0.0.7", "fd00::7"]),
        ((), {"INSTANCE_IP": "10.0.0.7", "INSTANCE_IPS": "10.0.0.7,fd00::9"}, ("fd00::7",), ["10.0.0.7", "fd00::9"]),
        (("--ip=10.0.0.8",), {"INSTANCE_IP": "10.0.0.7"}, (), ["10.0.0.8"]),
    ],
)
def test_the_addresses_of_the_pod(
    words: tuple[str, ...], environment: Mapping[str, str], own: tuple[str, ...], addresses: list[str]
) -> None:
    made = given(*words, environment=environment, addresses=own)
    assert [str(each) for each in planning.addresses(made).all] == addresses
    assert bool(made.notes) is (addresses == ["127.0.0.1"])


def test_a_bad_address_is_refused_with_its_source() -> None:
    with pytest.raises(UsageError, match="cannot use --ip: "):
        planning.addresses(given("--ip=x"))
    with pytest.raises(UsageError, match="cannot use INSTANCE_IP: "):
        planning.addresses(given(environment={"INSTANCE_IP": "x"}))


def test_the_cluster_of_the_node() -> None:
    assert planned(given()).node.cluster == "istio-proxy"
    assert planned(given(environment={"PROXY_CONFIG": "serviceCluster: a"})).node.cluster == "a"
    assert planned(given("--serviceCluster=b", environment={"PROXY_CONFIG": "serviceCluster: a"})).node.cluster == "b"


def test_statistics_are_sent_to_the_first_address_of_a_host() -> None:
    assert planned(given("--statsdUdpAddress=statsd:9125")).statsd == ("10.9.9.9", 9125)
    made = given("--statsdUdpAddress=nobody:9125", environment={"INSTANCE_IP": "10.0.0.7"})
    assert planned(made).statsd is None
    assert made.notes == ["no statistics are sent: nobody has no address; correct --statsdUdpAddress"]


def test_the_node_tells_of_ports_and_of_the_control_planes_name() -> None:
    plan = planned(given("--controlPlaneAuthPolicy=MUTUAL_TLS", "--pilotIdentity=p", "--outlierLogPath=/o"))
    metadata = plan.node.metadata
    assert metadata["PILOT_SAN"] == ["spiffe://cluster.local/p"]
    assert (metadata["ENVOY_STATUS_PORT"], metadata["ENVOY_PROMETHEUS_PORT"]) == (15021, 15090)
    assert metadata["OUTLIER_LOG_PATH"] == "/o"
    assert "PILOT_SAN" not in planned(given()).node.metadata


def test_times_and_paths_of_flags() -> None:
    plan = planned(given("--connectTimeout=2s", "--dnsRefreshRate=5s", "--outlierLogPath=/o"))
    assert (plan.connect_timeout, plan.dns_refresh_rate, plan.outlier_log) == (2.0, 5.0, "/o")
    plan = planned(given())
    assert (plan.connect_timeout, plan.dns_refresh_rate, plan.outlier_log) == (1.0, 300.0, None)
