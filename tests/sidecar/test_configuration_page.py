"""The page of the configuration documents every supported field, and no other."""

import re
from pathlib import Path

from agent import sidecar
from agent.sidecar.config.subset import KINDS
from tests.sidecar.patches import (
    BY_SDS,
    CA_BY_SDS,
    COMMON,
    CONTEXT,
    HOST,
    MANAGER,
    PIPE,
    PORT,
    PROXY,
    ROUTES,
    SECOND,
    STATIC,
    TLS,
    UPSTREAM,
    UPSTREAM_COMMON,
    WEB,
    Json,
    bootstrap,
    patched,
    place,
    secret,
    typed,
    write_files,
)
from tests.sidecar.test_admin_server import ask
from tests.sidecar.test_config import gated, why_not

PAGE = Path(sidecar.__path__[0]) / "CONFIGURATION.md"


def documented() -> dict[str, set[str]]:
    """The fields of each table, by the message in its heading."""
    found: dict[str, set[str]] = {}
    fields: set[str] = set()
    for line in PAGE.read_text().splitlines():
        if line.startswith("### "):
            fields = found.setdefault(line.removeprefix("### "), set())
        elif row := re.match(r"\| `(\w+)` \|", line):
            fields.add(row[1])
    return found


def test_every_field_that_is_heeded_is_documented_and_no_other() -> None:
    assert documented() == {kind: set(fields.heeded) for kind, fields in KINDS.items()}


def test_every_row_has_three_cells() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.count("|") != 4] == []


async def test_every_path_of_the_admin_server_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| `(/[\w/]*)` \| (POST)?", PAGE.read_text(), re.MULTILINE)
    listed = re.findall(r"^  (/[\w/]*)(?: \((POST)\))?: ", (await ask("/help")).body, re.MULTILINE)
    assert sorted(rows) == sorted(listed)


def everything(directory: Path) -> Json:
    """Return a bootstrap with a message of every kind."""
    write_files(directory)
    tree = gated(bootstrap(directory))
    original = typed("filters.listener.original_dst.v3.OriginalDst")
    direct = typed("filters.network.direct_response.v3.Config", response={"inline_string": "x"})
    for path, value in (
        ("admin.allow_paths", [{"exact": "/"}]),
        ("application_log_config.log_format.text_format", "%v"),
        (f"{TLS}.listener_filters[1]", {"name": "original", "typed_config": original}),
        (f"{WEB}.additional_addresses", [{"address": place("127.0.0.1", 2)}]),
        (f"{COMMON}.tls_params", {}),
        (UPSTREAM_COMMON, {BY_SDS: [secret()], "combined_validation_context": COMBINED}),
        (f"{MANAGER}.common_http_protocol_options", {}),
        (f"{PIPE}.filter_chains[0].transport_socket", PLAIN),
        (SECOND, {"filters": [{"name": "direct", "typed_config": direct}]}),
    ):
        tree = patched(tree, path, value)
    assert why_not(tree) == ""
    return tree


COMBINED = {"default_validation_context": {}, CA_BY_SDS: secret("ca")}
PLAIN = {"name": "plain", "typed_config": typed("transport_sockets.raw_buffer.v3.RawBuffer")}
RDS = "static_resources.listeners[3].filter_chains[0].filters[0].typed_config.rds"
GROUP = f"{STATIC}.load_assignment.endpoints[0]"
PLACES = {
    "Bootstrap": "",
    "Node": "node",
    "StaticResources": "static_resources",
    "Admin": "admin",
    "StringMatcher": "admin.allow_paths[0]",
    "ApplicationLogConfig": "application_log_config",
    "LogFormat": "application_log_config.log_format",
    "Address": f"{TLS}.address",
    "SocketAddress": PORT,
    "Pipe": f"{PIPE}.address.pipe",
    "DataSource": f"{ROUTES}.virtual_hosts[0].routes[1].direct_response.body",
    "Listener": TLS,
    "AdditionalAddress": f"{WEB}.additional_addresses[0]",
    "ListenerFilter": f"{TLS}.listener_filters[0]",
    "FilterChain": f"{TLS}.filter_chains[0]",
    "FilterChainMatch": f"{TLS}.filter_chains[0].filter_chain_match",
    "Filter": f"{TLS}.filter_chains[0].filters[0]",
    "TransportSocket": f"{TLS}.filter_chains[0].transport_socket",
    "DownstreamTlsContext": CONTEXT,
    "UpstreamTlsContext": UPSTREAM,
    "CommonTlsContext": COMMON,
    "TlsParameters": f"{COMMON}.tls_params",
    "TlsCertificate": f"{COMMON}.tls_certificates[0]",
    "CertificateValidationContext": f"{COMMON}.validation_context",
    "CombinedCertificateValidationContext": f"{UPSTREAM_COMMON}.combined_validation_context",
    "SdsSecretConfig": f"{UPSTREAM_COMMON}.{BY_SDS}[0]",
    "TcpProxy": PROXY,
    "Config": f"{SECOND}.filters[0].typed_config",
    "HttpConnectionManager": MANAGER,
    "HttpFilter": f"{MANAGER}.http_filters[0]",
    "HttpProtocolOptions": f"{MANAGER}.common_http_protocol_options",
    "Rds": RDS,
    "ConfigSource": f"{RDS}.config_source",
    "ApiConfigSource": f"{RDS}.config_source.api_config_source",
    "RouteConfiguration": ROUTES,
    "VirtualHost": HOST,
    "Route": f"{HOST}.routes[0]",
    "RouteMatch": f"{HOST}.routes[0].match",
    "RouteAction": f"{HOST}.routes[0].route",
    "DirectResponseAction": f"{HOST}.routes[1].direct_response",
    "Cluster": STATIC,
    "ClusterLoadAssignment": f"{STATIC}.load_assignment",
    "LocalityLbEndpoints": GROUP,
    "LbEndpoint": f"{GROUP}.lb_endpoints[0]",
    "Endpoint": f"{GROUP}.lb_endpoints[0].endpoint",
}


def test_every_field_that_is_heeded_is_read(tmp_path: Path) -> None:
    """An impossible value in each field is refused: an unread field would be ignored silently."""
    tree = everything(tmp_path)
    places = {kind: PLACES.get(kind.rpartition(".")[2]) for kind, fields in KINDS.items() if fields.heeded}
    ignored = []
    for kind, place_of_it in places.items():
        assert place_of_it is not None, kind
        for field in KINDS[kind].heeded:
            path = f"{place_of_it}.{field}".removeprefix(".")
            if path not in why_not(patched(tree, path, [5])):
                ignored.append(path)
    assert ignored == []


def test_every_field_that_is_not_heeded_is_refused(tmp_path: Path) -> None:
    tree = everything(tmp_path)
    for kind, fields in KINDS.items():
        path = PLACES.get(kind.rpartition(".")[2], "")
        changed = tree
        for field in fields.refused if path or kind.endswith("Bootstrap") else ():
            changed = patched(changed, f"{path}.{field}".removeprefix("."), {})
        assert refusals(why_not(changed)) == (0 if changed is tree else len(fields.refused)), kind


def refusals(why: str) -> int:
    """Return the number of unsupported fields, including those that are not listed."""
    more = re.search(r"; and (\d+) more$", why)
    return why.count(": not supported by sidecar") + (int(more[1]) if more else 0)
