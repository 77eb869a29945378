"""The listeners of the bootstrap."""

from agent.istio.bootstrap_listeners import listeners
from agent.istio.pod import Addresses
from tests.istio.plans import found


def of(*addresses: str) -> list[dict[str, object]]:
    return listeners(Addresses.parse(addresses, "it"), 15090, 15021)


def test_each_leads_one_path_to_one_cluster() -> None:
    routes = {}
    for listener in of("10.0.0.7"):
        manager = found(listener, "filter_chains", 0, "filters", 0, "typed_config")
        route = found(manager, "route_config", "virtual_hosts", 0, "routes", 0)
        routes[listener["name"]] = (route["match"]["prefix"], route["route"]["cluster"])
    assert routes == {"prometheus": ("/stats/prometheus", "prometheus_stats"), "health": ("/healthz/ready", "agent")}


def test_they_are_not_counted_against_a_limit_of_connections() -> None:
    assert all(listener["ignore_global_conn_limit"] for listener in of("10.0.0.7"))


def test_both_families_are_served_where_the_pod_has_both() -> None:
    assert all("additional_addresses" not in listener for listener in of("fd00::7"))
    for listener in of("fd00::7", "10.0.0.7"):
        assert found(listener, "address", "socket_address", "address") == "::"
        assert found(listener, "additional_addresses", 0, "address", "socket_address", "address") == "0.0.0.0"
