import json
import time
from collections.abc import Callable
from pathlib import Path
from ssl import TLSVersion
from typing import Any

import pytest
import yaml

from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.handoff import gate
from agent.proxies.envoy import default_bootstrap
from agent.proxies.envoy.bootstrap import Bootstrap as Dialect
from agent.sidecar.config import document
from agent.sidecar.config.bootstrap import read, read_tree
from agent.sidecar.config.subset import KINDS
from agent.sidecar.model import (
    Admin,
    Certificate,
    Cluster,
    Configuration,
    DirectResponse,
    DownstreamTls,
    Echo,
    FilterChain,
    HttpManager,
    Listener,
    Match,
    Pipe,
    Reply,
    Route,
    SocketAddress,
    TcpProxy,
    UpstreamTls,
    VirtualHost,
)
from tests.sidecar.cases_refused import refused
from tests.sidecar.cases_taken import taken
from tests.sidecar.cases_unsupported import unsupported
from tests.sidecar.patches import (
    CONTEXT,
    GONE,
    MANAGER,
    PROXY,
    TLS,
    WEB,
    Case,
    bootstrap,
    echo_chain,
    patched,
    place,
    write_files,
)
from tests.system import bootstrap as system


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path


def why_not(tree: dict[str, Any]) -> str:
    """Return why a document is refused; empty if it is accepted."""
    try:
        read_tree(document.parse(json.dumps(tree), "it.json"), "it")
    except BadInput as error:
        return str(error)
    return ""


# Accepted


def test_all_that_is_heeded_is_in_the_model(directory: Path) -> None:
    pair = Certificate(str(directory / "chain"), str(directory / "key"))
    ca = str(directory / "ca")
    web = HttpManager(
        "web", (VirtualHost("all", ("*",), (Route("/up", "dns", 3.0), Route("/", Reply(200, b"ok")))),)
    )  # fmt: skip
    made = read_tree(bootstrap(directory), "it")
    assert made.listeners == (
        Listener(
            "tls",
            (SocketAddress("127.0.0.1", 0),),
            (FilterChain(TcpProxy("tcp", "static"), "", Match(("a.example",)), DownstreamTls((pair,), ca)),),
            inspects_tls=True,
        ),
        Listener("web", (SocketAddress("127.0.0.1", 0),), (FilterChain(web),)),
        Listener("pipe", (Pipe(str(directory / "s")),), (FilterChain(Echo()),)),
    )
    assert made.clusters == (
        Cluster("static", "STATIC", (SocketAddress("127.0.0.1", 9),), tls=UpstreamTls((pair,), ca, "a.example")),
        Cluster("dns", "STRICT_DNS", (SocketAddress("localhost", 9),)),
        Cluster("original", "ORIGINAL_DST"),
    )
    assert (made.node_id, made.node_cluster, made.admin) == ("node", "test", None)


def listened(directory: Path, *changes: Case) -> Listener:
    """Return the first listener after some changes."""
    tree = bootstrap(directory)
    for change in changes:
        tree = patched(tree, *change)
    return read_tree(tree, "it").listeners[0]


def test_every_setting_of_a_listener_is_read(directory: Path) -> None:
    original = {"@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}
    found = listened(
        directory,
        (f"{TLS}.address", place("::0", 15000)),
        (f"{TLS}.address.socket_address.ipv4_compat", True),
        (f"{TLS}.additional_addresses", [{"address": place("127.0.0.2", 15001)}]),
        (f"{TLS}.stat_prefix", "edge"),
        (f"{TLS}.default_filter_chain", echo_chain(name="rest", transport_socket_connect_timeout="3s")),
        (f"{TLS}.listener_filters[0]", {"name": "original", "typed_config": original}),
        (f"{TLS}.listener_filters_timeout", "0.25s"),
        (f"{TLS}.continue_on_listener_filters_timeout", True),
        (f"{TLS}.per_connection_buffer_limit_bytes", 32768),
        (f"{TLS}.bind_to_port", False),
        (f"{TLS}.enable_reuse_port", False),
        (f"{TLS}.tcp_backlog_size", 4096),
        (f"{TLS}.traffic_direction", "INBOUND"),
    )
    assert found.addresses == (SocketAddress("::", 15000, dual_stack=True), SocketAddress("127.0.0.2", 15001))
    assert found.default_chain == FilterChain(Echo(), "rest", connect_timeout=3.0)
    assert (found.stat_prefix, found.inspection_timeout, found.continue_on_timeout) == ("edge", 0.25, True)
    assert (found.buffer_limit, found.bind_to_port, found.reuse_port) == (32768, False, False)
    assert (found.backlog, found.inbound, found.original_dst) == (4096, True, True)
    assert found.inspects_tls, "a chain asks for a server name"
    assert not listened(directory, (TLS, {"address": place(), "filter_chains": [echo_chain()]})).inspects_tls


def test_every_setting_of_tls_is_read(directory: Path) -> None:
    versions = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": 4}
    found = listened(
        directory,
        (f"{CONTEXT}.require_client_certificate", True),
        (f"{CONTEXT}.common_tls_context.alpn_protocols", ["h2", "http/1.1"]),
        (f"{CONTEXT}.common_tls_context.tls_params", versions),
    )
    tls = found.chains[0].tls
    assert tls is not None
    assert (tls.require_client_certificate, tls.alpn) == (True, ("h2", "http/1.1"))
    assert (tls.minimum, tls.maximum) == (TLSVersion.TLSv1_3, TLSVersion.TLSv1_3)


def test_every_setting_of_the_http_manager_is_read(directory: Path) -> None:
    tree = bootstrap(directory)
    for name, value in (
        ("codec_type", "HTTP1"), ("server_name", "us"), ("max_request_headers_kb", 96), ("request_timeout", "4s"),
        ("request_headers_timeout", "5s"), ("stream_idle_timeout", "6s"),
        ("common_http_protocol_options", {"idle_timeout": "7s"}),
    ):  # fmt: skip
        tree = patched(tree, f"{MANAGER}.{name}", value)
    found = read_tree(tree, "it").listeners[1].chains[0].filter
    assert isinstance(found, HttpManager)
    assert (found.server_name, found.max_request_headers, found.request_timeout) == ("us", 96 << 10, 4.0)
    assert (found.request_headers_timeout, found.stream_idle_timeout, found.idle_timeout) == (5.0, 6.0, 7.0)


def test_bodies_come_from_files_too(directory: Path) -> None:
    kind = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config"
    response = {"@type": kind, "response": {"filename": str(directory / "body")}}
    assert listened(directory, (PROXY, response)).chains[0].filter == DirectResponse(b"body")


def test_the_root_is_read() -> None:
    tree = {
        "admin": {"address": place("::1", 1), "allow_paths": [{"exact": "/a"}, {"prefix": "/b"}]},
        "application_log_config": {"log_format": {"text_format": "%v"}},
        "stats_flush_interval": "60s",
    }
    assert read_tree(tree, "it", node="n", cluster="c") == Configuration(
        (), (), Admin(SocketAddress("::1", 1), ("/a", "/b*")), "n", "c", "%v", 60.0, tree
    )


def test_a_listener_without_a_name_gets_one(directory: Path) -> None:
    unnamed = [{"address": place(), "filter_chains": [echo_chain()]} for _ in range(2)]
    tree = patched(bootstrap(directory), "static_resources.listeners", unnamed)
    assert len({each.name for each in read_tree(tree, "it").listeners}) == 2


# Refused


JUDGED: list[tuple[Callable[[Path], list[Case]], Callable[[str], bool]]] = [
    (taken, lambda why: not why),
    (unsupported, lambda why: "not supported by sidecar" in why),
    (refused, bool),
]


@pytest.mark.parametrize(("cases", "is_right"), JUDGED, ids=["taken", "unsupported", "refused"])
def test_documents_are_accepted_and_refused_as_by_envoy(
    directory: Path, cases: Callable[[Path], list[Case]], is_right: Callable[[str], bool]
) -> None:
    tree = bootstrap(directory)
    judged = [(case, why_not(patched(tree, *case))) for case in cases(directory)]
    assert [each for each in judged if not is_right(each[1])] == []


def test_a_reason_has_the_full_path(directory: Path) -> None:
    path = f"{PROXY}.access_log"
    assert why_not(patched(bootstrap(directory), path, [])) == f"cannot use it: {path}: not supported by sidecar"


def test_an_unknown_field_is_distinguished_from_an_unsupported_one(directory: Path) -> None:
    why = why_not(patched(bootstrap(directory), f"{PROXY}.stat_prefx", "x"))
    assert why.endswith("stat_prefx: no such field in envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy")


def test_the_first_few_reasons_are_listed_and_the_rest_counted(directory: Path) -> None:
    tree = patched(bootstrap(directory), PROXY, {"@type": f"x/{TCP}", **dict.fromkeys(map(str, range(7)), 1)})
    why = why_not(tree)
    assert why.count("no such field") == 5
    assert why.endswith("; and 2 more")


TCP = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def test_one_error_is_reported_once(directory: Path) -> None:
    for path, value in (
        (f"{TLS}.address.socket_address", "127.0.0.1:80"),
        (f"{WEB}.filter_chains[0].transport_socket", {"name": "x", "config_discovery": {}}),
        (f"{MANAGER}.route_config", {"virtual_hosts": {}}),
        ("static_resources.clusters[1].load_assignment", 5),
    ):
        assert why_not(patched(bootstrap(directory), path, value)).count(";") == 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_is_both_heeded_and_refused(kind: str) -> None:
    assert not KINDS[kind].heeded & KINDS[kind].refused


# Bootstraps from other sources


def gated(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a bootstrap as the agent passes it to an epoch."""
    template = Dialect(json.dumps(tree), "bootstrap.json").template([])
    made: dict[str, Any] = yaml.safe_load(template.fill("/run/agent/epoch", 7, {}))
    return made


def test_the_agents_own_copy_is_read(directory: Path) -> None:
    made = read_tree(gated(bootstrap(directory)), "it")
    assert made.admin == Admin(Pipe("/run/agent/epoch/admin", 0o600))
    waiting = made.listeners[-1]
    assert (waiting.name, waiting.bind_to_port) == (gate.NAME, False)
    assert waiting.chains == (FilterChain(HttpManager(gate.NAME, gate=gate.NAME)),)
    assert made.clusters[-1] == Cluster(gate.NAME, "STATIC", (Pipe("/run/agent/epoch/gate"),))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("route_config_name", "mine"),
        ("config_source.initial_fetch_timeout", "1s"),
        ("config_source.initial_fetch_timeout", GONE),
        ("config_source.ads", {}),
        ("config_source.api_config_source.api_type", "GRPC"),
        ("config_source.api_config_source.cluster_names", ["a", "b"]),
    ],
)
def test_routes_come_from_the_gate_only(directory: Path, path: str, value: object) -> None:
    tree = patched(gated(bootstrap(directory)), f"static_resources.listeners[3].{RDS}.{path}", value)
    assert "static_resources.listeners[3]" in why_not(tree)


RDS = "filter_chains[0].filters[0].typed_config.rds"


def test_a_gate_wants_a_node_with_names(directory: Path) -> None:
    tree = patched(gated(bootstrap(directory)), "node.cluster", GONE)
    assert "node: a gate needs id and cluster" in why_not(tree)
    assert read_tree(tree, "it", cluster="flag").node_cluster == "flag"


def test_the_small_bootstrap_is_read(tmp_path: Path) -> None:
    pairs = [
        Reference(f"/{number}/{name}", role, f"/{number}/chain")
        for number in range(3)
        for name, role in (("chain", Role.CHAIN), ("key", Role.KEY))
    ]
    (tmp_path / "small.yaml").write_text(default_bootstrap.bootstrap(("0.0.0.0", 15443), ("localhost", 8080), pairs))
    made = read(str(tmp_path / "small.yaml"), None)
    tls = made.listeners[0].chains[0].tls
    assert tls is not None
    assert tls.certificates == tuple(Certificate(f"/{number}/chain", f"/{number}/key") for number in range(3))
    assert made.clusters == (
        Cluster("application", "STRICT_DNS", (SocketAddress("localhost", 8080),), connect_timeout=1.0),
    )


def test_the_bootstraps_of_the_system_tests_are_read(directory: Path) -> None:
    one = system.Secured(directory / "chain", directory / "key", "a.example", directory / "ca")
    tree = system.Bootstrap(15443, 15080, [one], 15000, body="hello").tree()
    made = read_tree(tree, "it")
    assert [each.name for each in made.listeners] == ["tls", "plain"]
    assert all(isinstance(each.chains[0].filter, HttpManager) for each in made.listeners)


def test_many_pairs_are_read_in_no_time(directory: Path) -> None:
    """A thousand pairs in 300 listeners need about ten times as long as a hundred in 30, and not a hundred times."""
    listener = bootstrap(directory)["static_resources"]["listeners"][0]
    pairs = [
        {"certificate_chain": {"filename": f"/c/{number}"}, "private_key": {"filename": f"/k/{number}"}}
        for number in range(4)
    ]
    listener = patched({"it": listener}, "it." + CONTEXT.removeprefix(f"{TLS}.") + ".common_tls_context", {
        "tls_certificates": pairs
    })["it"]  # fmt: skip
    spans = {}
    for many in (30, 300):
        listeners = [{**listener, "name": str(number)} for number in range(many)]
        path = directory / f"{many}.yaml"
        path.write_text(yaml.dump({"static_resources": {"listeners": listeners}}, Dumper=Plain))
        begun = time.process_time()
        assert len(read(str(path), None).listeners) == many
        spans[many] = time.process_time() - begun
    assert spans[300] < 40 * spans[30], spans


class Plain(yaml.CSafeDumper):
    """Writes equal objects twice, instead of an alias."""

    def ignore_aliases(self, _data: object) -> bool:
        return True
