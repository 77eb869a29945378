"""The bootstrap as a whole; a system test starts Envoy with it."""

import json

from agent.istio import bootstrap
from agent.istio.bootstrap import Ports
from tests.istio.plans import found, plan


def test_clusters_and_listeners_come_over_one_stream() -> None:
    dynamic = bootstrap.document(plan())["dynamic_resources"]
    assert dynamic["cds_config"] == {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    assert dynamic["lds_config"] == dynamic["cds_config"]
    assert found(dynamic, "ads_config", "grpc_services", 0, "envoy_grpc", "cluster_name") == "xds-grpc"


def test_the_node_is_the_plans() -> None:
    node = bootstrap.document(plan())["node"]
    assert (node["id"], node["cluster"]) == ("sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local", "web")


def test_the_ports_are_the_plans() -> None:
    document = bootstrap.document(plan("fd00::1", ports=Ports(1, 2, 3, 4)))
    assert found(document, "admin", "address", "socket_address") == {"address": "::1", "port_value": 1}
    clusters = {each["name"]: each for each in document["static_resources"]["clusters"]}
    address = ("load_assignment", "endpoints", 0, "lb_endpoints", 0, "endpoint", "address", "socket_address")
    assert found(clusters["prometheus_stats"], *address) == {"address": "::1", "port_value": 1}
    assert found(clusters["agent"], *address) == {"address": "::1", "port_value": 2}
    ports = {
        each["name"]: found(each, "address", "socket_address") for each in document["static_resources"]["listeners"]
    }
    assert ports["health"] == {"address": "::", "port_value": 3}
    assert ports["prometheus"] == {"address": "::", "port_value": 4}


def test_a_tracer_a_sink_and_an_outlier_log_are_there_only_if_they_are_asked_for() -> None:
    plain = bootstrap.document(plan())
    assert [each["name"] for each in plain["static_resources"]["clusters"]] == ["xds-grpc", "prometheus_stats", "agent"]
    assert not {"stats_sinks", "cluster_manager"} & plain.keys()
    more = bootstrap.document(plan(zipkin=("z", 9411), statsd=("127.0.0.1", 9125), outlier_log="/dev/stdout"))
    assert more["static_resources"]["clusters"][-1]["name"] == "zipkin"
    assert found(more, "stats_sinks", 0, "typed_config", "address", "socket_address", "port_value") == 9125
    assert found(more, "cluster_manager", "outlier_detection", "event_log_path") == "/dev/stdout"


def test_runtime_values_are_added() -> None:
    layers = bootstrap.document(plan(runtime_values={"a.b": "1"}))["layered_runtime"]["layers"]
    assert layers[0]["static_layer"]["a.b"] == "1"
    assert [layer["name"] for layer in layers] == ["static", "admin"]


def test_times_are_the_plans() -> None:
    cluster = bootstrap.document(plan(connect_timeout=2.5, dns_refresh_rate=5.0))["static_resources"]["clusters"][0]
    assert cluster["connect_timeout"] == "2.5s"
    assert found(cluster, "cluster_type", "typed_config", "dns_refresh_rate") == "5s"


def test_it_is_json() -> None:
    document = bootstrap.document(plan("10.0.0.7", "fd00::1", secure=True))
    assert json.loads(json.dumps(document)) == document
