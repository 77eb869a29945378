"""The statistics that the proxy keeps."""

import re

from agent.istio import bootstrap_stats
from agent.istio.pod import Addresses
from agent.istio.proxy_config import StatsMatcher

ADDRESSES = Addresses.parse(["10.0.0.7", "fd00::7"], "it")


def patterns(given: StatsMatcher) -> list[dict[str, object]]:
    found: list[dict[str, object]] = bootstrap_stats.config(given, (), ADDRESSES)["stats_matcher"]["inclusion_list"][
        "patterns"
    ]
    return found


def test_the_counters_that_the_agent_reads_are_always_kept() -> None:
    kept = patterns(StatsMatcher())
    for prefix in ("cluster_manager", "listener_manager", "server", "cluster.xds-grpc"):
        assert {"prefix": prefix} in kept
    assert {"suffix": "downstream_cx_active"} in kept


def test_given_ones_are_added_once() -> None:
    kept = patterns(StatsMatcher(("server", "tcp."), ("_rq",), ("a.*b",)))
    assert kept.count({"prefix": "server"}) == 1
    assert [
        each for each in kept if each in ({"prefix": "tcp."}, {"suffix": "_rq"}, {"safe_regex": {"regex": "a.*b"}})
    ] == [{"prefix": "tcp."}, {"suffix": "_rq"}, {"safe_regex": {"regex": "a.*b"}}]


def test_a_pattern_with_the_pods_address_stands_for_each() -> None:
    kept = patterns(StatsMatcher(("listener.{pod_ip}_",)))
    assert {"prefix": "listener.10.0.0.7_"} in kept
    assert {"prefix": "listener.fd00::7_"} in kept


def test_a_further_label_is_read_out_of_a_name() -> None:
    tags = bootstrap_stats.config(StatsMatcher(), ("dest.x",), ADDRESSES)["stats_tags"]
    [pattern] = [each["regex"] for each in tags if each["tag_name"] == "dest.x"]
    match = re.search(pattern, "istio_requests;.;reporter=.=source;.;dest.x=.=shop;.;end=.=1;.;")
    assert match is not None
    assert match[2] == "shop"
    assert re.search(pattern, "dest_x=.=shop;.;") is None


def test_no_label_is_named_twice() -> None:
    tags = bootstrap_stats.config(StatsMatcher(), ("cluster_name", "a", "a"), ADDRESSES)["stats_tags"]
    names = [each["tag_name"] for each in tags]
    assert len(names) == len(set(names))


def test_a_sink_is_reached_by_udp() -> None:
    address = bootstrap_stats.statsd("10.0.0.1", 9125)["typed_config"]["address"]["socket_address"]
    assert address == {"address": "10.0.0.1", "port_value": 9125, "protocol": "UDP"}


def test_the_metrics_of_requests_are_kept() -> None:
    kept = patterns(StatsMatcher())
    for prefix in ("reporter=", "istio", "wasm", "component"):
        assert {"prefix": prefix} in kept
    assert {"suffix": "rbac.denied"} in kept
