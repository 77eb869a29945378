"""The subscriptions of an epoch, read from its counters, and those that a candidate must have completed."""

from agent.proxies.envoy.subscriptions import missing, parse, parse_versions, subscription
from agent.proxies.interface import Delivered, Subscription

TEXT = """cluster.ads.update_attempt: 0
cluster.ads.update_failure: 0
cluster.ads.update_success: 0
cluster.backend.init_fetch_timeout: 0
cluster.backend.update_failure: 0
cluster.backend.update_rejected: 0
cluster.backend.update_success: 3
http.agent_gate.rds.agent_gate.init_fetch_timeout: 0
http.agent_gate.rds.agent_gate.update_failure: 0
http.agent_gate.rds.agent_gate.update_rejected: 0
http.agent_gate.rds.agent_gate.update_success: 0
listener_manager.lds.init_fetch_timeout: 0
listener_manager.lds.update_failure: 2
listener_manager.lds.update_rejected: 1
listener_manager.lds.update_success: 0
sds.spiffe_//a.b/c.init_fetch_timeout: 0
sds.spiffe_//a.b/c.update_failure: 0
sds.spiffe_//a.b/c.update_rejected: 1
sds.spiffe_//a.b/c.update_success: 1
"""
LDS, CDS = "listener_manager.lds", "cluster_manager.cds"


def fetch(scope: str, applied: int = 0, rejected: int = 0) -> Subscription:
    return subscription(scope, applied, rejected, 0)


def scopes(found: list[Subscription]) -> list[str]:
    return [each.scope for each in found]


def test_subscriptions_are_distinguished_from_dns_and_from_the_gate() -> None:
    """A cluster with DNS lookups counts its updates under the same names, but fetches no resources."""
    assert parse(TEXT) == {
        "cluster.backend": subscription("cluster.backend", 3, 0, 0),
        LDS: subscription(LDS, 0, 1, 2),
        "sds.spiffe_//a.b/c": subscription("sds.spiffe_//a.b/c", 1, 1, 0),
    }


def test_nonsense_and_nothing_are_no_subscriptions() -> None:
    assert parse("") == parse("not a counter\nx.update_success: y\n") == {}


def test_what_came_and_could_not_be_used_is_refused_until_something_can() -> None:
    assert parse(TEXT)[LDS].is_refused
    assert not parse(TEXT)["sds.spiffe_//a.b/c"].is_refused


def test_sets_and_secrets_are_needed_when_nothing_serves() -> None:
    found = {each: fetch(each) for each in (CDS, "sds.a", "http.x.rds.r")} | {LDS: fetch(LDS, 1)}
    assert scopes(missing(found, {})) == [CDS, "sds.a"]


def test_what_the_serving_epoch_has_is_needed_and_what_it_lacks_is_not() -> None:
    found = {each: fetch(each) for each in ("sds.a", "sds.b", "http.x.rds.r", "cluster.eds", "cluster.new")}
    serving = {"sds.a": fetch("sds.a"), "sds.b": fetch("sds.b", 2), "http.x.rds.r": fetch("http.x.rds.r", 1)}
    serving["cluster.eds"] = fetch("cluster.eds")
    assert scopes(missing(found, serving)) == ["sds.b", "http.x.rds.r"]


def test_endpoints_are_waited_for_as_long_as_the_proxy_waits() -> None:
    serving = {"cluster.a": fetch("cluster.a", 1), "http.x.rds.r": fetch("http.x.rds.r", 1)}
    given_up = {scope: subscription(scope, 0, 0, 0, given_up=True) for scope in serving}
    assert scopes(missing({scope: fetch(scope) for scope in serving}, serving)) == ["cluster.a", "http.x.rds.r"]
    assert scopes(missing(given_up, serving)) == ["http.x.rds.r"]


def test_what_is_refused_is_named_first() -> None:
    found = {LDS: fetch(LDS), "sds.z": fetch("sds.z", rejected=1)}
    assert scopes(missing(found, {})) == ["sds.z", LDS]


def test_names_are_for_people() -> None:
    assert [str(fetch(each)) for each in (LDS, CDS, "sds.edge", "cluster.x")] == [
        "its listeners (LDS)",
        "its clusters (CDS)",
        "secret edge",
        "cluster.x",
    ]


def test_versions_are_read_with_what_was_rejected() -> None:
    text = """listener_manager.lds.update_rejected: 2
sds.agent_secret_0.update_rejected: 0
sds.agent_secret_1.update_rejected: 5
listener_manager.lds.version_text: "0123: 4"
sds.agent_secret_0.version_text: ""
sds.agent_secret_2.version_text: "no counter"
"""
    assert parse_versions(text) == {
        LDS: Delivered("0123: 4", 2),
        "sds.agent_secret_0": Delivered("", 0),
        "sds.agent_secret_2": Delivered("no counter", 0),
    }
    assert parse_versions("") == parse_versions("nonsense\n") == {}
