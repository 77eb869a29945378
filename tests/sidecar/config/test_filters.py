from pathlib import Path

import pytest

from agent.sidecar.config.filters import network_filter
from agent.sidecar.model import DirectResponse, Echo, HttpManager, Reply, Route, TcpProxy, VirtualHost
from tests.sidecar.config.messages import Read, read, typed

FILTER = "envoy.config.listener.v3.Filter"
ROUTER = typed("filters.http.router.v3.Router")
ROUTES = {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": []}]}
AT = "m.typed_config"


def made(kind: str, **members: object) -> Read:
    return read(network_filter, typed(f"filters.network.{kind}", **members), FILTER)


def proxy(**members: object) -> Read:
    return made("tcp_proxy.v3.TcpProxy", **{"stat_prefix": "t", "cluster": "c", **members})


def manager(**members: object) -> Read:
    given = {"stat_prefix": "h", "http_filters": [ROUTER], "route_config": ROUTES, "generate_request_id": False}
    return made("http_connection_manager.v3.HttpConnectionManager", **{**given, **members})


HOSTS = (VirtualHost("v", ("*",), ()),)
API = {"api_type": "REST", "transport_api_version": "V3", "cluster_names": ["g"], "refresh_delay": "1s"}
RDS = {
    "route_config_name": "agent_gate",
    "config_source": {"resource_api_version": "V3", "initial_fetch_timeout": "0s", "api_config_source": API},
}


# TCP and the small ones


def test_a_tcp_proxy_has_a_cluster() -> None:
    assert proxy() == (TcpProxy("t", "c", 3600.0, 1), "")
    assert proxy(idle_timeout="0s", max_connect_attempts=3) == (TcpProxy("t", "c", 0.0, 3), "")


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"stat_prefix": ""}, "stat_prefix"),
        ({"stat_prefix": None}, "stat_prefix"),
        ({"cluster": None}, "cluster"),
        ({"cluster": ""}, "cluster"),
        ({"cluster": 5}, "cluster"),
        ({"max_connect_attempts": 0}, "max_connect_attempts"),
        ({"idle_timeout": "-1s"}, "idle_timeout"),
        ({"weighted_clusters": {}}, "weighted_clusters"),
    ],
)
def test_a_tcp_proxy_that_cannot_be_is_told(members: dict[str, object], field: str) -> None:
    why = proxy(**members).why
    assert why.startswith(f"{AT}.{field}: ")
    assert "; m." not in why or field == "cluster"


def test_an_echo_has_no_fields() -> None:
    assert made("echo.v3.Echo") == (Echo(), "")
    assert made("echo.v3.Echo", a=1).why.startswith(f"{AT}.a: ")


def test_a_direct_response_has_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"from a file")
    for source, body in (
        ({"inline_string": "text"}, b"text"),
        ({"inline_bytes": "aGk="}, b"hi"),
        ({"filename": str(tmp_path / "f")}, b"from a file"),
    ):
        assert made("direct_response.v3.Config", response=source) == (DirectResponse(body), "")
    assert made("direct_response.v3.Config") == (DirectResponse(b""), "")


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"name": "n"}, "m.typed_config"),
        ({"typed_config": typed("filters.network.echo.v3.Echo")["typed_config"]}, "m.name"),
        (typed("filters.network.redis_proxy.v3.RedisProxy"), "m.typed_config.@type"),
        ({"name": "n", "config_discovery": {}}, "m.config_discovery"),
    ],
)
def test_a_filter_has_a_name_and_a_type(tree: dict[str, object], path: str) -> None:
    value, why = read(network_filter, tree, FILTER)
    assert value == Echo()
    assert why.startswith(f"{path}: ")
    assert "; m." not in why


# HTTP


def test_a_manager_has_defaults() -> None:
    assert manager() == (HttpManager("h", HOSTS, None, "envoy", 61440, 60.0, 300.0, 0.0, 3600.0), "")


def test_every_field_of_a_manager_is_read() -> None:
    reply = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    found = manager(
        codec_type="HTTP1",
        server_name="us",
        max_request_headers_kb=96,
        request_headers_timeout="1s",
        stream_idle_timeout="2s",
        request_timeout="3s",
        common_http_protocol_options={"idle_timeout": "4s"},
        use_remote_address=False,
        route_config={"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [reply]}]},
    )
    hosts = (VirtualHost("v", ("*",), (Route("/", Reply(200)),)),)
    assert found == (HttpManager("h", hosts, None, "us", 98304, 1.0, 2.0, 3.0, 4.0), "")


def test_options_without_a_timeout_leave_it() -> None:
    assert manager(common_http_protocol_options={}).value.idle_timeout == 3600.0
    assert manager(common_http_protocol_options={"idle_timeout": "0s"}).value.idle_timeout == 0.0


@pytest.mark.parametrize(("size", "is_good"), [(0, False), (1, True), (8192, True), (8193, False)])
def test_heads_have_1_to_8192_kb(size: int, is_good: bool) -> None:
    value, why = manager(max_request_headers_kb=size)
    assert value.max_request_headers == (size * 1024 if is_good else 61440)
    assert (why == "") is is_good


def test_an_empty_server_name_is_the_default() -> None:
    assert manager(server_name="").value.server_name == "envoy"
    assert manager(server_name="a\nb").why.startswith(f"{AT}.server_name: ")


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"codec_type": "HTTP2"}, "codec_type"),
        ({"codec_type": 3}, "codec_type"),
        ({"generate_request_id": True}, "generate_request_id"),
        ({"use_remote_address": True}, "use_remote_address"),
        ({"stat_prefix": ""}, "stat_prefix"),
        ({"http_filters": []}, "http_filters"),
        ({"http_filters": [ROUTER, ROUTER]}, "http_filters"),
        ({"http_filters": [typed("filters.http.lua.v3.Lua")]}, "http_filters[0].typed_config.@type"),
        ({"http_filters": [{"typed_config": ROUTER["typed_config"]}]}, "http_filters[0].name"),
        ({"http_filters": [{"name": "router"}]}, "http_filters[0].typed_config"),
        ({"route_config": {"virtual_hosts": {}}}, "route_config.virtual_hosts"),
        ({"rds": RDS}, "route_config"),
        ({"request_timeout": "x"}, "request_timeout"),
        (
            {"common_http_protocol_options": {"max_stream_duration": "1s"}},
            "common_http_protocol_options.max_stream_duration",
        ),
    ],
)
def test_a_manager_that_cannot_be_is_told(members: dict[str, object], path: str) -> None:
    why = manager(**members).why
    assert why.startswith(f"{AT}.{path}: ")
    assert "; m." not in why


def test_a_manager_without_routes_is_told() -> None:
    assert manager(route_config=None).why == f"{AT}: one of rds, route_config is missing"


@pytest.mark.parametrize("codec", ["AUTO", "HTTP1", 0, 1, "auto"])
def test_both_codecs_are_the_same(codec: object) -> None:
    assert manager(codec_type=codec).why == ""


# The gate


def gated(api: object = API, name: object = "agent_gate", **source: object) -> Read:
    config = {"resource_api_version": "V3", "initial_fetch_timeout": "0s", "api_config_source": api, **source}
    return manager(route_config=None, rds={"route_config_name": name, "config_source": config})


def test_a_gate_is_a_cluster_and_has_no_routes() -> None:
    assert gated() == (HttpManager("h", (), "g"), "")
    more = {**API, "request_timeout": "5s"}
    assert gated(more) == (HttpManager("h", (), "g"), "")


@pytest.mark.parametrize(
    ("found", "path"),
    [
        (lambda: gated(name="mine"), "route_config_name"),
        (lambda: gated(name=None), "route_config_name"),
        (lambda: gated(resource_api_version="V2"), "config_source.resource_api_version"),
        (lambda: gated(resource_api_version=0), "config_source.resource_api_version"),
        (lambda: gated(initial_fetch_timeout="1s"), "config_source.initial_fetch_timeout"),
        (lambda: gated(initial_fetch_timeout=None), "config_source.initial_fetch_timeout"),
        (lambda: gated(ads={}), "config_source.ads"),
        (lambda: gated(None), "config_source.api_config_source"),
        (lambda: gated({**API, "api_type": None}), "config_source.api_config_source.api_type"),
        (lambda: gated({**API, "api_type": "GRPC"}), "config_source.api_config_source.api_type"),
        (lambda: gated({**API, "api_type": 5}), "config_source.api_config_source.api_type"),
        (lambda: gated({**API, "api_type": 0}), "config_source.api_config_source.api_type"),
        (
            lambda: gated({**API, "transport_api_version": "AUTO"}),
            "config_source.api_config_source.transport_api_version",
        ),
        (lambda: gated({**API, "cluster_names": []}), "config_source.api_config_source.cluster_names"),
        (lambda: gated({**API, "cluster_names": ["a", "b"]}), "config_source.api_config_source.cluster_names"),
        (lambda: gated({**API, "refresh_delay": "0s"}), "config_source.api_config_source.refresh_delay"),
        (lambda: gated({**API, "request_timeout": "0s"}), "config_source.api_config_source.request_timeout"),
        (lambda: gated({**API, "grpc_services": []}), "config_source.api_config_source.grpc_services"),
        (lambda: manager(route_config=None, rds={"route_config_name": "agent_gate"}), "config_source"),
        (lambda: manager(route_config=None, rds=5), None),
    ],
)
def test_routes_come_from_the_agent_s_gate_only(found: object, path: str | None) -> None:
    assert callable(found)
    why = found().why
    assert why.startswith(f"{AT}.rds.{path}: " if path else f"{AT}.rds: ")
    assert "; m." not in why


@pytest.mark.parametrize(
    ("field", "number", "name"),
    [
        ("api_type", 0, "DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE"),
        ("api_type", 2, "GRPC"),
        ("api_type", 3, "DELTA_GRPC"),
        ("api_type", 4, "4"),
        ("api_type", 5, "AGGREGATED_GRPC"),
        ("api_type", 6, "AGGREGATED_DELTA_GRPC"),
        ("transport_api_version", 0, "AUTO"),
        ("transport_api_version", 1, "V2"),
        ("transport_api_version", 3, "3"),
    ],
)
def test_a_gate_of_another_kind_is_named_as_in_the_api(field: str, number: int, name: str) -> None:
    why = gated({**API, field: number}).why
    assert why.startswith(
        f"{AT}.rds.config_source.api_config_source.{field}: {name} is not supported by sidecar, only "
    )


def test_a_gate_s_numbers_are_those_of_the_api() -> None:
    numbers = {**API, "api_type": 1, "transport_api_version": 2}
    assert gated(numbers, resource_api_version=2) == (HttpManager("h", (), "g"), "")


@pytest.mark.parametrize(("number", "name"), [(2, "HTTP2"), (3, "HTTP3"), (4, "4")])
def test_a_codec_that_is_not_supported_is_named(number: int, name: str) -> None:
    assert manager(codec_type=number).why.startswith(f"{AT}.codec_type: {name} is not supported by sidecar, only ")


def test_one_attempt_to_connect_is_enough() -> None:
    assert proxy(max_connect_attempts=1) == (TcpProxy("t", "c", 3600.0, 1), "")
