import pytest

from agent.sidecar.config.clusters import CLUSTER, cluster
from agent.sidecar.model import Cluster, Pipe, SocketAddress
from tests.sidecar.config.messages import Read, read


def made(**members: object) -> Read:
    return read(cluster, {"name": "c", **members}, CLUSTER)


def endpoint(**address: object) -> dict[str, object]:
    return {"endpoint": {"address": address}}


def at(host: str, port: int = 1) -> dict[str, object]:
    return endpoint(socket_address={"address": host, "port_value": port})


def assigned(*groups: list[object]) -> dict[str, object]:
    return {"cluster_name": "c", "endpoints": [{"lb_endpoints": group} for group in groups]}


def test_a_name_is_enough() -> None:
    assert made() == (Cluster("c", "STATIC"), "")
    assert made().value == Cluster("c", "STATIC", (), 5.0, None, 5.0, "AUTO", "")
    assert read(cluster, {}, CLUSTER).why == "m.name: it is missing"


def test_every_field_is_read() -> None:
    found = made(
        type="STRICT_DNS",
        connect_timeout="0.5s",
        lb_policy="ROUND_ROBIN",
        dns_refresh_rate="60s",
        dns_lookup_family="V6_ONLY",
        alt_stat_name="other",
        load_assignment=assigned([at("a.example", 1), at("b.example", 2)], [], [at("127.0.0.1", 3)]),
    )
    endpoints = (SocketAddress("a.example", 1), SocketAddress("b.example", 2), SocketAddress("127.0.0.1", 3))
    assert found == (Cluster("c", "STRICT_DNS", endpoints, 0.5, None, 60.0, "V6_ONLY", "other"), "")


@pytest.mark.parametrize(
    ("kind", "policy", "is_good"),
    [
        ("STATIC", None, True),
        ("STATIC", "ROUND_ROBIN", True),
        ("STATIC", "CLUSTER_PROVIDED", False),
        ("STRICT_DNS", "CLUSTER_PROVIDED", False),
        ("ORIGINAL_DST", "CLUSTER_PROVIDED", True),
        ("ORIGINAL_DST", 6, True),
        ("ORIGINAL_DST", None, False),
        ("ORIGINAL_DST", "ROUND_ROBIN", False),
        ("STATIC", "LEAST_REQUEST", False),
        ("STATIC", "RANDOM", False),
        ("STATIC", 4, False),
    ],
)
def test_a_policy_belongs_to_its_type(kind: str, policy: object, is_good: bool) -> None:
    why = made(type=kind, lb_policy=policy).why
    assert (why == "") is is_good
    assert is_good or why.startswith("m.lb_policy: ")


@pytest.mark.parametrize("kind", ["LOGICAL_DNS", "EDS", 2, 3, "OTHER", 9])
def test_other_types_are_refused(kind: object) -> None:
    assert made(type=kind).why.startswith("m.type: ")


@pytest.mark.parametrize(
    ("number", "name"), [(0, "AUTO"), (1, "V4_ONLY"), (2, "V6_ONLY"), (3, "V4_PREFERRED"), (4, "ALL")]
)
def test_families_have_numbers(number: int, name: str) -> None:
    assert made(dns_lookup_family=number).value.dns_family == name


@pytest.mark.parametrize(("number", "name"), [(0, "STATIC"), (1, "STRICT_DNS")])
def test_types_have_numbers(number: int, name: str) -> None:
    assert made(type=number).value.kind == name


@pytest.mark.parametrize(("rate", "is_good"), [("0.001s", False), ("0.0011s", True), ("0s", False), ("3600s", True)])
def test_names_are_resolved_again_after_more_than_a_millisecond(rate: str, is_good: bool) -> None:
    why = made(dns_refresh_rate=rate).why
    assert (why == "") is is_good
    assert is_good or why.startswith("m.dns_refresh_rate: ")


@pytest.mark.parametrize("timeout", ["0s", "-1s"])
def test_connecting_takes_time(timeout: str) -> None:
    assert made(connect_timeout=timeout).why.startswith("m.connect_timeout: ")


def test_endpoints_are_an_assignment_with_a_name() -> None:
    assert made(load_assignment={}).why == "m.load_assignment.cluster_name: it is missing"
    assert made(load_assignment=assigned()) == (Cluster("c", "STATIC"), "")


@pytest.mark.parametrize(
    ("kind", "given", "is_good"),
    [
        ("STATIC", at("127.0.0.1"), True),
        ("STATIC", at("a.example"), False),
        ("STATIC", endpoint(pipe={"path": "/x"}), True),
        ("STRICT_DNS", at("a.example"), True),
        ("STRICT_DNS", at("::1"), True),
        ("STRICT_DNS", endpoint(pipe={"path": "/x"}), False),
    ],
)
def test_an_endpoint_belongs_to_its_type(kind: str, given: object, is_good: bool) -> None:
    why = made(type=kind, load_assignment=assigned([given])).why
    assert (why == "") is is_good
    assert is_good or why.startswith("m.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address: ")


def test_a_path_is_an_endpoint() -> None:
    found = made(load_assignment=assigned([endpoint(pipe={"path": "@x"})]))
    assert found.value.endpoints == (Pipe("@x"),)


@pytest.mark.parametrize("given", [{}, {"endpoint": {}}, at("")])
def test_an_endpoint_without_an_address_is_told_once(given: object) -> None:
    why = made(load_assignment=assigned([at("::1"), given])).why
    assert why.startswith("m.load_assignment.endpoints[0].lb_endpoints[1].endpoint")
    assert ";" not in why


def test_an_original_destination_has_no_endpoints() -> None:
    why = made(type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", load_assignment=assigned([])).why
    assert why.startswith("m.load_assignment: ")


def test_tls_is_read() -> None:
    config = {"@type": "x/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "a.example"}
    found = made(transport_socket={"name": "tls", "typed_config": config})
    assert found.value.tls.sni == "a.example"


@pytest.mark.parametrize(
    ("field", "number", "name"),
    [
        ("type", 2, "LOGICAL_DNS"),
        ("type", 3, "EDS"),
        ("lb_policy", 1, "LEAST_REQUEST"),
        ("lb_policy", 2, "RING_HASH"),
        ("lb_policy", 3, "RANDOM"),
        ("lb_policy", 4, "4"),
        ("lb_policy", 5, "MAGLEV"),
        ("lb_policy", 7, "LOAD_BALANCING_POLICY_CONFIG"),
    ],
)
def test_what_is_not_supported_is_named_as_in_the_api(field: str, number: int, name: str) -> None:
    assert made(**{field: number}).why.startswith(f"m.{field}: {name} is not supported by sidecar, only ")


def test_supported_numbers_are_those_of_the_api() -> None:
    assert made(lb_policy=0).why == ""
    assert made(type=4, lb_policy=6) == (Cluster("c", "ORIGINAL_DST"), "")
