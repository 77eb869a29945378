from collections.abc import Sequence

import pytest

from agent.sidecar.config.routes import virtual_hosts
from agent.sidecar.model import Reply, Route, VirtualHost
from tests.sidecar.config.messages import Read, read

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
GO = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}


def hosts(*given: object, **more: object) -> Read:
    return read(virtual_hosts, {"route_config": {"virtual_hosts": list(given), **more}}, MANAGER)


def host(*domains: object, name: object = "v", routes: Sequence[object] = ()) -> dict[str, object]:
    return {"name": name, "domains": list(domains), "routes": list(routes)}


def routed(*routes: object) -> Read:
    value, why = hosts(host("*", routes=list(routes)))
    return Read(value[0].routes, why.removeprefix("m.route_config.virtual_hosts[0].routes"))


def test_hosts_and_routes_keep_their_order() -> None:
    reply = {"match": {"prefix": ""}, "direct_response": {"status": 403, "body": {"inline_string": "no"}}}
    timed = {"name": "free", "match": {"prefix": "/a"}, "route": {"cluster": "d", "timeout": "0.5s"}}
    found = hosts(host("b", "a", routes=[timed, GO, reply]), host("*", name="w"), name="free")
    assert found == (
        (
            VirtualHost("v", ("b", "a"), (Route("/a", "d", 0.5), Route("/", "c", 15.0), Route("", Reply(403, b"no")))),
            VirtualHost("w", ("*",), ()),
        ),
        "",
    )


@pytest.mark.parametrize(
    "domain", ["a", "A.Example", "*", "*.example", "a.*", "a.example:8080", "1.2.3.4", "a-b_c", "*.1.2:80", "."]
)
def test_domains_are_names_suffixes_prefixes_or_all(domain: str) -> None:
    assert hosts(host(domain)) == ((VirtualHost("v", (domain.lower(),), ()),), "")


@pytest.mark.parametrize("domain", ["", "**", "*.", "*x", "*:80", "a*b", "*.*", "*a*", ".*", "a.*.*", "a**"])
def test_other_stars_are_refused(domain: str) -> None:
    why = hosts(host(domain)).why
    assert why.startswith("m.route_config.virtual_hosts[0].domains: ")
    assert repr(domain) in why


@pytest.mark.parametrize("domain", ["a\n", "a\0", "\t", "a\x7f"])
def test_a_domain_is_printable(domain: str) -> None:
    assert "m.route_config.virtual_hosts[0].domains: " in hosts(host(domain)).why


def test_a_domain_is_there_once_in_any_case() -> None:
    assert hosts(host("a.example"), host("b", "A.example")).why == (
        "m.route_config.virtual_hosts[1].domains: a.example occurs twice"
    )
    assert "m.route_config.virtual_hosts[0].domains: a" in hosts(host("a", "a")).why


@pytest.mark.parametrize("given", [{"name": "v"}, {"name": "v", "domains": []}])
def test_a_host_has_domains(given: object) -> None:
    assert hosts(given).why == "m.route_config.virtual_hosts[0].domains: it is missing"


def test_a_host_has_a_name() -> None:
    assert hosts(host("*", name="")).why == "m.route_config.virtual_hosts[0].name: it is empty"


def test_clusters_are_validated() -> None:
    assert hosts(validate_clusters=True).why == ""
    assert "validate_clusters: false" in hosts(validate_clusters=False).why


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ({"route": {"cluster": "c"}}, ".match"),
        ({"match": {}, "route": {"cluster": "c"}}, ".match"),
        ({"match": {"path": "/"}, "route": {"cluster": "c"}}, ".match.path"),
        ({"match": {"prefix": "/"}}, ""),
        ({"match": {"prefix": "/"}, "route": {}}, ".route.cluster"),
        ({"match": {"prefix": "/"}, "route": {"cluster": ""}}, ".route.cluster"),
        ({"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "-1s"}}, ".route.timeout"),
        ({**GO, "direct_response": {"status": 200}}, ".direct_response"),
        ({"match": {"prefix": "/"}, "direct_response": {}}, ".direct_response.status"),
        ({"match": {"prefix": "/"}, "redirect": {}}, ".redirect"),
        ({"match": {"prefix": 5}, "route": {"cluster": "c"}}, ".match.prefix"),
    ],
)
def test_a_route_that_cannot_be_is_told_once(route: object, path: str) -> None:
    why = routed(GO, route).why
    assert why.startswith(f"[1]{path}: ")
    assert "; m." not in why


@pytest.mark.parametrize(("status", "is_good"), [(199, False), (200, True), (599, True), (600, False), ("404", True)])
def test_a_status_is_200_to_599(status: object, is_good: bool) -> None:
    value, why = routed({"match": {"prefix": "/"}, "direct_response": {"status": status}})
    assert (why == "") is is_good
    assert value == (Route("/", Reply(int(str(status)) if is_good else 404)),)


@pytest.mark.parametrize(("size", "is_good"), [(4096, True), (4097, False)])
def test_a_body_has_4096_bytes_at_most(size: int, is_good: bool) -> None:
    body = {"inline_string": "x" * size}
    why = routed({"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": body}}).why
    assert (why == "") is is_good
    assert is_good or why.startswith("[0].direct_response.body: ")


def test_a_timeout_of_zero_is_none() -> None:
    assert routed({"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "0s"}}).value == (
        Route("/", "c", 0.0),
    )
