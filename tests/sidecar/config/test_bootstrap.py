from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.sidecar.config.bootstrap import read, read_tree
from agent.sidecar.model import Admin, Cluster, Configuration, Pipe, SocketAddress
from tests.sidecar.config.messages import typed
from tests.sidecar.patches import secret

Json = dict[str, object]
ECHO = [{"filters": [typed("filters.network.echo.v3.Echo")]}]


def at(host: str = "127.0.0.1", port: int = 0) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def on(path: str) -> Json:
    return {"pipe": {"path": path}}


def listener(name: str, address: Json, *more: Json, **fields: object) -> Json:
    others = [{"address": each} for each in more]
    return {"name": name, "address": address, "additional_addresses": others, "filter_chains": ECHO, **fields}


def why(tree: Json) -> str:
    try:
        read_tree(tree, "it")
    except BadInput as error:
        return str(error).removeprefix("cannot use it: ")
    return ""


def static(*listeners: Json, clusters: tuple[Json, ...] = ()) -> Json:
    return {"static_resources": {"listeners": list(listeners), "clusters": list(clusters)}}


def test_an_empty_document_is_an_empty_configuration() -> None:
    assert read_tree({}, "it") == Configuration((), ())


def test_every_part_is_read() -> None:
    tree: Json = {
        "node": {"id": "n", "cluster": "g", "metadata": {"aB": {"no_such_field": 1}}},
        "admin": {
            "address": on("/a"),
            "allow_paths": [{"exact": "/x"}, {"prefix": "/y"}],
            "ignore_global_conn_limit": True,
        },
        "application_log_config": {"log_format": {"text_format": "%v"}},
        "stats_flush_interval": "0.5s",
        **static(listener("l", at()), clusters=({"name": "c"},)),
    }
    made = read_tree(tree, "it")
    assert [each.name for each in made.listeners] == ["l"]
    assert made[1:] == ((Cluster("c", "STATIC"),), Admin(Pipe("/a"), ("/x", "/y*")), "n", "g", "%v", 0.5, tree)


def test_listeners_without_a_name_are_numbered_from_0() -> None:
    tree = static(listener("", at()), listener("l", at()), listener("", at()))
    assert [each.name for each in read_tree(tree, "it").listeners] == ["unnamed_0", "l", "unnamed_2"]


# Names of the node


@pytest.mark.parametrize(("node", "cluster"), [("flag", ""), ("", "flag"), ("a", "b"), ("", "")])
def test_names_of_the_command_line_go_first(node: str, cluster: str) -> None:
    made = read_tree({"node": {"id": "n", "cluster": "c"}}, "it", node=node, cluster=cluster)
    assert (made.node_id, made.node_cluster) == (node or "n", cluster or "c")


def test_names_of_the_command_line_are_enough() -> None:
    made = read_tree({}, "it", node="a", cluster="b")
    assert (made.node_id, made.node_cluster) == ("a", "b")


@pytest.mark.parametrize("node", [5, {"id": 5}, {"cluster": []}, {"metadata": 5}, {"locality": {}}, {"ID": "x"}])
def test_a_node_that_cannot_be_is_told(node: object) -> None:
    assert why({"node": node}).startswith("node")


def gated(**node: str) -> Json:
    api = {"api_type": "REST", "transport_api_version": "V3", "cluster_names": ["g"], "refresh_delay": "1s"}
    source = {"resource_api_version": "V3", "initial_fetch_timeout": "0s", "api_config_source": api}
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="h",
        http_filters=[typed("filters.http.router.v3.Router")],
        rds={"route_config_name": "agent_gate", "config_source": source},
    )
    return {"node": node, **static(listener("g", at(), filter_chains=[{"filters": [manager]}]))}


@pytest.mark.parametrize(
    ("node", "is_good"),
    [({}, False), ({"id": "n"}, False), ({"cluster": "c"}, False), ({"id": "n", "cluster": "c"}, True)],
)
def test_a_gate_wants_both_names(node: dict[str, str], is_good: bool) -> None:
    told = why(gated(**node))
    assert (told == "") is is_good
    assert is_good or told.startswith("node: ")
    assert read_tree(gated(**node), "it", node="n", cluster="c").node_id == "n"


# Names and addresses of several


@pytest.mark.parametrize("kind", ["listeners", "clusters"])
def test_a_name_is_there_once(kind: str) -> None:
    a, b = (static(listener(n, at()), listener("x", at())) for n in ("x", "y"))
    if kind == "clusters":
        a, b = (static(clusters=({"name": n}, {"name": "x"})) for n in ("x", "y"))
    assert why(b) == ""
    assert why(a).startswith(f"static_resources.{kind}[1].name: ")
    assert "x" in why(a)


@pytest.mark.parametrize(
    ("first", "second", "is_taken"),
    [
        (at("127.0.0.1", 80), at("127.0.0.1", 80), True),
        (at("127.0.0.1", 80), at("127.0.0.1", 81), False),
        (at("127.0.0.1", 80), at("127.0.0.2", 80), False),
        (at("::", 80), at("0:0:0:0::0", 80), True),
        (at("127.0.0.1", 0), at("127.0.0.1", 0), False),
        (on("/x"), on("/x"), True),
        (on("@x"), on("@x"), True),
        (on("/x"), on("@x"), False),
    ],
)
def test_an_address_belongs_to_one_listener(first: Json, second: Json, is_taken: bool) -> None:
    told = why(static(listener("a", first), listener("b", second)))
    assert (told == "") is not is_taken
    assert not is_taken or (told.startswith("static_resources.listeners[1].address: ") and told.endswith(" a"))


def test_an_additional_address_is_one_too() -> None:
    told = why(static(listener("a", at(port=1), at(port=2)), listener("b", at(port=3), at(port=2))))
    assert told.startswith("static_resources.listeners[1].address: tcp://127.0.0.1:2 ")


@pytest.mark.parametrize(
    ("addresses", "bound", "is_good"),
    [
        ((at(port=1), at(port=1)), True, False),
        ((at(port=1), at(port=2)), True, True),
        ((at(port=0), at(port=0)), True, True),
        ((at(port=0), at(port=0)), False, False),
        ((on("/x"), on("/x")), True, False),
    ],
)
def test_a_listener_has_no_address_twice(addresses: tuple[Json, Json], bound: bool, is_good: bool) -> None:
    told = why(static(listener("a", *addresses, bind_to_port=bound)))
    assert (told == "") is is_good
    assert is_good or told.startswith("static_resources.listeners[0].additional_addresses: ")


def test_listeners_that_are_not_bound_share_no_address_either() -> None:
    assert why(static(*(listener(name, at(), bind_to_port=False) for name in "ab"))) != ""


# The rest of the root


@pytest.mark.parametrize(
    ("span", "is_good"), [("0.001s", True), ("0.0009s", False), ("299.999s", True), ("300s", False), ("0s", False)]
)
def test_an_interval_lies_between_envoy_s_limits(span: str, is_good: bool) -> None:
    told = why({"stats_flush_interval": span})
    assert (told == "") is is_good
    assert is_good or told.startswith("stats_flush_interval: ")


@pytest.mark.parametrize(
    ("config", "form"),
    [({}, None), ({"log_format": {"text_format": ""}}, ""), ({"log_format": {"text_format": "%v"}}, "%v")],
)
def test_a_log_has_a_format_of_text(config: Json, form: str | None) -> None:
    assert read_tree({"application_log_config": config}, "it").log_format == form


@pytest.mark.parametrize("form", [{}, {"json_format": {}}, {"text_format": 5}])
def test_another_format_is_refused(form: Json) -> None:
    assert why({"application_log_config": {"log_format": form}}).startswith("application_log_config.log_format")


def test_without_an_address_there_is_no_console() -> None:
    assert read_tree({"admin": {}}, "it").admin is None
    assert read_tree({"admin": {"address": at("::1", 9)}}, "it").admin == Admin(SocketAddress("::1", 9))


@pytest.mark.parametrize(
    ("matcher", "path"),
    [
        ({}, "allow_paths[0]"),
        ({"exact": "/a", "prefix": "/b"}, "allow_paths[0].prefix"),
        ({"exact": "/a*"}, "allow_paths[0].exact"),
        ({"prefix": ""}, "allow_paths[0].prefix"),
        ({"suffix": "x"}, "allow_paths[0].suffix"),
    ],
)
def test_an_allowed_path_is_exact_or_a_prefix(matcher: Json, path: str) -> None:
    assert why({"admin": {"address": at(), "allow_paths": [matcher]}}).startswith(f"admin.{path}: ")


# Files and the command line


def test_a_file_is_read_and_the_command_line_merged_into_it(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text("node: {id: file, cluster: c}")
    assert read(str(path), None).node_id == "file"
    made = read(str(path), "node: {id: line}")
    assert (made.node_id, made.node_cluster) == ("line", "c")
    assert read(str(path), "", node="flag").node_id == "flag"
    assert read(None, "node: {id: line}", cluster="flag")[3:5] == ("line", "flag")


def test_reasons_name_the_file_or_the_option(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text("{a: 1}")
    with pytest.raises(BadInput, match=f"{path}: a: "):
        read(str(path), None)
    with pytest.raises(BadInput, match="--config-yaml: a: "):
        read(None, "{a: 1}")
    with pytest.raises(BadInput, match="--config-yaml"):
        read(str(path), "[")


@pytest.mark.parametrize(("path", "text"), [(None, None), ("", ""), (None, "")])
def test_without_any_of_both_there_is_nothing_to_read(path: str | None, text: str | None) -> None:
    with pytest.raises(BadInput, match="--config-path"):
        read(path, text)


def test_secrets_want_both_names_of_a_node() -> None:
    kind = "transport_sockets.tls.v3.UpstreamTlsContext"
    tls = typed(kind, common_tls_context={"tls_certificate_sds_secret_configs": [secret(cluster_names=["c"])]})
    tree = static(clusters=({"name": "c", "transport_socket": tls},))
    assert why(tree).startswith("node: secrets need id and cluster; write them here or give --service-node")
    assert why({**tree, "node": {"id": "n", "cluster": "c"}}) == ""
