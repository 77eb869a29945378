import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.epoch.admin_documents import Context
from agent.epoch.arguments import Arguments
from agent.http.message import Response
from agent.sidecar.admin_documents import Certificates, config_dump, node, options
from agent.sidecar.config.bootstrap import read_tree
from agent.sidecar.model import (
    Certificate,
    Cluster,
    Configuration,
    DownstreamTls,
    Echo,
    FilterChain,
    Listener,
    LoadedCertificate,
    LoadedPem,
    SecretSource,
    SocketAddress,
    Tls,
    UpstreamTls,
)
from tests.sidecar.patches import Json, bootstrap, patched, write_files

LOADED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
AT = "2026-01-02T03:04:05.678Z"
DUMPS = "type.googleapis.com/envoy.admin.v3"


# Certificates


def listener(*chains: FilterChain, default: FilterChain | None = None) -> Listener:
    return Listener("l", (SocketAddress("::1", 1),), chains, default)


def tls(*names: str, ca: str | None = None) -> DownstreamTls:
    return DownstreamTls(tuple(Certificate(name, "/key") for name in names), ca)


def in_use(configuration: Configuration, fill: Callable[[Tls], Tls | None] = lambda tls: tls) -> list[Context]:
    return Certificates(configuration).contexts(fill)


def test_contexts_are_those_of_listeners_then_of_clusters(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "ca"):
        (tmp_path / name).write_text(name)
    at = {name: str(tmp_path / name) for name in ("a", "b", "c", "ca")}
    configuration = Configuration(
        (
            listener(FilterChain(Echo(), tls=tls(at["a"], at["b"], ca=at["ca"])), FilterChain(Echo())),
            listener(default=FilterChain(Echo(), tls=tls(at["c"]))),
        ),
        (Cluster("x", "STATIC"), Cluster("y", "STATIC", tls=UpstreamTls((), at["ca"]))),
    )
    found = in_use(configuration)
    assert [[each.path for each in one.chains] for one in found] == [[at["a"], at["b"]], [at["c"]], []]
    authorities = [None if one.authorities is None else one.authorities.path for one in found]
    assert authorities == [at["ca"], None, at["ca"]]


def test_a_file_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    path = str(tmp_path / "a")
    configuration = Configuration((listener(FilterChain(Echo(), tls=tls(path, path, ca=path))),), ())
    [found] = in_use(configuration)
    assert found.chains[0] is found.chains[1] is found.authorities


def test_a_file_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    [found] = in_use(Configuration((listener(FilterChain(Echo(), tls=tls(str(tmp_path / "no")))),), ()))
    assert found.chains[0].path == str(tmp_path / "no")
    assert found.chains[0].content == b""


def test_a_context_has_the_secrets_of_the_moment_and_none_before_they_come(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("CA")
    waiting = DownstreamTls((), str(tmp_path / "ca"), certificate_secrets=(SecretSource("s", "c", 1.0),))
    configuration = Configuration((listener(FilterChain(Echo(), tls=waiting)),), ())
    assert in_use(configuration, lambda _: None) == []
    pem = LoadedPem("chain of secret s", "<inline>", b"CHAIN")
    [found] = in_use(configuration, lambda tls: tls._replace(certificates=(LoadedCertificate(pem, pem),)))
    assert [(each.path, each.content) for each in found.chains] == [("<inline>", b"CHAIN")]
    assert found.authorities is not None
    assert found.authorities.content == b"CA"


# The command line


def test_the_default_command_line_is_that_of_envoy() -> None:
    assert options(Arguments()) == {
        "base_id": "0",
        "concurrency": 1,
        "config_path": "",
        "config_yaml": "",
        "admin_address_path": "",
        "log_level": "info",
        "log_format": "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v",
        "log_path": "",
        "service_cluster": "",
        "service_node": "",
        "drain_time": "600s",
        "parent_shutdown_time": "900s",
        "mode": "Serve",
        "disable_hot_restart": False,
        "restart_epoch": 0,
        "drain_strategy": "Gradual",
        "socket_path": "@envoy_domain_socket",
        "socket_mode": 0,
    }


def test_every_option_is_told() -> None:
    given = Arguments(
        config_path="/c",
        config_yaml="{}",
        mode="validate",
        restart_epoch=3,
        base_id=7,
        socket_path="/run/s",
        socket_mode=0o640,
        drain_time=30,
        drain_strategy="immediate",
        parent_shutdown_time=45,
        admin_address_path="/a",
        log_level="warn",
        log_format="",
        log_path="/l",
        service_node="n",
        service_cluster="g",
        disable_hot_restart=True,
    )
    assert options(given) == {
        "base_id": "7",
        "concurrency": 1,
        "config_path": "/c",
        "config_yaml": "{}",
        "admin_address_path": "/a",
        "log_level": "warning",
        "log_format": "",
        "log_path": "/l",
        "service_cluster": "g",
        "service_node": "n",
        "drain_time": "30s",
        "parent_shutdown_time": "45s",
        "mode": "Validate",
        "disable_hot_restart": True,
        "restart_epoch": 3,
        "drain_strategy": "Immediate",
        "socket_path": "/run/s",
        "socket_mode": 0o640,
    }
    assert options(Arguments(mode="init_only"))["mode"] == "InitOnly"


# The node


@pytest.mark.parametrize(
    ("tree", "metadata"),
    [
        ({}, None),
        ({"node": {"metadata": {}}}, None),
        ({"node": None}, None),
        ({"node": {"metadata": {"private_key": {"a": "b"}}}}, {"private_key": {"a": "b"}}),
    ],
)
def test_a_node_has_names_and_its_metadata(tree: Json, metadata: object) -> None:
    told = node(Configuration((), (), node_id="n", node_cluster="g", tree=tree))
    more = {} if metadata is None else {"metadata": metadata}
    assert told == {"id": "n", "cluster": "g", **more, "user_agent_name": "sidecar"}


# The configuration


def dump(tree: Json, **asked: str) -> Response:
    return config_dump(Configuration((), (), node_id="n", tree=tree), LOADED, asked)


def told(response: Response) -> Any:  # noqa: ANN401  # any tree
    assert response.status == 200
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_an_empty_configuration_has_all_parts_in_envoy_s_order() -> None:
    bootstrap_dump, *others = told(dump({}))["configs"]
    assert bootstrap_dump == {
        "@type": f"{DUMPS}.BootstrapConfigDump",
        "bootstrap": {"node": {"id": "n", "cluster": "", "user_agent_name": "sidecar"}},
        "last_updated": AT,
    }
    names = ["Clusters", "Listeners", "ScopedRoutes", "Routes", "Secrets"]
    assert others == [{"@type": f"{DUMPS}.{name}ConfigDump"} for name in names]


@pytest.fixture
def tree(tmp_path: Path) -> Json:
    write_files(tmp_path)
    made = bootstrap(tmp_path)
    read_tree(made, "it")
    return made


def test_parts_are_there_with_their_types_and_times(tree: Json) -> None:
    parts = {each["@type"].rpartition(".")[2]: each for each in told(dump(tree))["configs"]}
    clusters = parts["ClustersConfigDump"]["static_clusters"]
    assert [each["cluster"]["name"] for each in clusters] == ["dns", "original", "static"], "by name"
    assert clusters[0]["last_updated"] == AT
    assert clusters[0]["cluster"]["@type"] == "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    listeners = parts["ListenersConfigDump"]["static_listeners"]
    assert [each["listener"]["name"] for each in listeners] == ["tls", "web", "pipe"], "as configured"
    assert listeners[0]["listener"]["@type"] == "type.googleapis.com/envoy.config.listener.v3.Listener"
    [route] = parts["RoutesConfigDump"]["static_route_configs"]
    assert route["route_config"]["@type"] == "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    assert route["route_config"]["name"] == "local"
    whole = parts["BootstrapConfigDump"]["bootstrap"]
    assert whole.keys() == {"node", "static_resources"}
    assert whole["node"]["user_agent_name"] == "sidecar"


def test_private_keys_are_redacted_everywhere_but_in_metadata(tree: Json, tmp_path: Path) -> None:
    tree = patched(tree, "node.metadata", {"private_key": {"filename": "free"}})
    response = dump(tree)
    assert isinstance(response.body, bytes)
    assert str(tmp_path / "key").encode() not in response.body
    assert str(tmp_path / "chain").encode() in response.body
    context = told(response)["configs"][2]["static_listeners"][0]["listener"]["filter_chains"][0]["transport_socket"]
    pair = context["typed_config"]["common_tls_context"]["tls_certificates"][0]
    assert pair["private_key"] == {"filename": "[redacted]"}
    assert pair["certificate_chain"] == {"filename": str(tmp_path / "chain")}


def test_routes_of_a_default_chain_are_routes(tree: Json) -> None:
    listeners = tree["static_resources"]["listeners"]
    [chain] = listeners[1].pop("filter_chains")
    listeners[1]["default_filter_chain"] = chain
    names = [each["route_config"]["name"] for each in told(dump(tree, resource="static_route_configs"))["configs"]]
    assert names == ["local"]


@pytest.mark.parametrize(
    ("resource", "kind", "names"),
    [
        ("static_clusters", "ClustersConfigDump.StaticCluster", ["dns", "original", "static"]),
        ("static_listeners", "ListenersConfigDump.StaticListener", ["tls", "web", "pipe"]),
        ("static_route_configs", "RoutesConfigDump.StaticRouteConfig", ["local"]),
    ],
)
def test_one_resource_may_be_asked_for(tree: Json, resource: str, kind: str, names: list[str]) -> None:
    configs = told(dump(tree, resource=resource))["configs"]
    assert {each["@type"] for each in configs} == {f"{DUMPS}.{kind}"}
    member = {"static_clusters": "cluster", "static_listeners": "listener", "static_route_configs": "route_config"}
    assert [each[member[resource]]["name"] for each in configs] == names


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["dns", "original", "static"]),
        ("st", []),
        ("st.*", ["static"]),
        ("dns|static", ["dns", "static"]),
        ("x", []),
    ],
)
def test_a_name_matches_as_a_whole(tree: Json, pattern: str, names: list[str]) -> None:
    found = told(dump(tree, resource="static_clusters", name_regex=pattern))
    assert [each["cluster"]["name"] for each in found.get("configs", [])] == names
    assert (found == {}) is (names == [])
    parts = told(dump(tree, name_regex=pattern))["configs"]
    assert len(parts[1].get("static_clusters", [])) == len(names)


def test_what_has_no_name_matches_all() -> None:
    tree: Json = {"static_resources": {"listeners": [{}, {"name": None}, {"name": "a\nb"}]}}
    assert len(told(dump(tree, resource="static_listeners"))["configs"]) == 3
    assert len(told(dump(tree, resource="static_listeners", name_regex="a.b"))["configs"]) == 1


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"mask": ""}, 400, "mask"),
        ({"mask": "bootstrap", "resource": "static_clusters"}, 400, "mask"),
        ({"name_regex": "("}, 400, "name_regex from ("),
        ({"name_regex": "(" * 5000}, 400, "name_regex"),
        ({"name_regex": "a{99999999999999999999}"}, 400, "name_regex"),
        ({"resource": "dynamic_listeners"}, 404, "dynamic_listeners"),
        ({"resource": ""}, 404, "not found"),
    ],
)
def test_what_cannot_be_told_is_refused(asked: dict[str, str], status: int, said: str) -> None:
    response = dump({}, **asked)
    assert response.status == status
    assert dict(response.headers)["content-type"] == "text/plain"
    assert isinstance(response.body, bytes)
    assert said in response.body.decode()


@pytest.mark.parametrize(
    "tree", [{"static_resources": None}, {"static_resources": {"listeners": None, "clusters": None}}]
)
def test_absent_resources_are_none(tree: Json) -> None:
    assert all("static" not in part or part == "@type" for each in told(dump(tree))["configs"][1:] for part in each)
