import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.epoch import admin_documents, stats_format
from agent.epoch.admin_documents import Context, Pem, Server, parameters
from agent.handoff import gate
from agent.handoff.socket_store import ListenAddress
from agent.http.message import Response
from agent.stats.snapshot import Snapshot
from tests.epoch.envoy_console import EnvoyConsole, Page, envoy_console
from tests.pki import Authority
from tests.proxies.envoy.envoys import wants_envoy
from tests.system.eventually import PATIENCE

NOW = datetime(2030, 6, 1, tzinfo=UTC)
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
ECHO = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
ADDRESSES = ("127.0.0.1", "::1")


def page(response: Response) -> Page:
    assert isinstance(response.body, bytes)
    return Page(response.status, dict(response.headers)["content-type"], response.body.decode())


# Certificates


def test_dates_and_serials_are_whole() -> None:
    authority = Authority.create("root")
    leaf = authority.issue(["a.example"], serial=0xABC, not_before=NOW, not_after=NOW + timedelta(days=2, hours=23))
    chain = Pem("/chain", leaf.chain_pem)
    tree = page(admin_documents.certs([Context([chain])], NOW)).tree
    assert tree["certificates"] == [
        {
            "ca_cert": [],
            "cert_chain": [
                {
                    "path": "/chain",
                    "serial_number": "0abc",
                    "subject_alt_names": [{"dns": "a.example"}],
                    "days_until_expiration": "2",
                    "valid_from": "2030-06-01T00:00:00Z",
                    "expiration_time": "2030-06-03T23:00:00Z",
                }
            ],
        }
    ]
    late = page(admin_documents.certs([Context([chain])], NOW + timedelta(days=30))).tree
    assert late["certificates"][0]["cert_chain"][0]["days_until_expiration"] == "0"


def test_what_does_not_parse_is_left_out() -> None:
    tree = page(admin_documents.certs([Context([Pem("/a", b"nonsense")], Pem("/b", b""))], NOW)).tree
    assert tree == {"certificates": [{"ca_cert": [], "cert_chain": []}]}


# Other answers


def test_only_live_is_ready() -> None:
    words = (
        admin_documents.LIVE,
        admin_documents.DRAINING,
        admin_documents.INITIALIZING,
        admin_documents.PRE_INITIALIZING,
    )
    assert [admin_documents.ready(word).status for word in words] == [200, 503, 503, 503]


def test_of_a_parameter_given_twice_the_first_counts() -> None:
    assert parameters("/stats?filter=a%2Bb&filter=c&usedonly") == {"filter": "a+b", "usedonly": ""}


# Comparison with the real one


def _bootstrap(directory: Path) -> dict[str, Any]:
    """Return listeners of all kinds of addresses, TLS with and without an authority, names that are hard to tag."""
    authority = Authority.create("root")
    leaf = authority.issue(["127.0.0.1", "a.example", "spiffe://x/y", "*.b.example", "::1"], serial=0x80)
    (directory / "chain").write_bytes(leaf.chain_pem)
    (directory / "key").write_bytes(leaf.key_pem)
    (directory / "ca").write_bytes(authority.pem + authority.intermediate("below").pem)
    pair = {
        "certificate_chain": {"filename": str(directory / "chain")},
        "private_key": {"filename": str(directory / "key")},
    }
    context = {"tls_certificates": [pair], "validation_context": {"trusted_ca": {"filename": str(directory / "ca")}}}
    secure = {"name": "tls", "typed_config": {"@type": TLS, "common_tls_context": context}}
    chain = {"filters": [{"name": "echo", "typed_config": ECHO}]}
    places = [{"socket_address": {"address": each, "port_value": 0}} for each in ADDRESSES]
    pipe = {"pipe": {"path": str(directory / "a.b.sock")}}
    return {
        "static_resources": {
            "listeners": [
                {"name": "tls", "address": places[0], "filter_chains": [{**chain, "transport_socket": secure}]},
                {
                    "name": "two",
                    "stat_prefix": "edge.x",
                    "address": places[1],
                    "additional_addresses": [{"address": places[0]}],
                    "filter_chains": [chain],
                },
                {"name": "pipe", "address": pipe, "filter_chains": [chain]},
            ],
            "clusters": [
                {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": name}}
                for name in ("plain", "a.b", "with space:colon")
            ],
        }
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="module")
def real(directory: Path) -> Iterator[EnvoyConsole]:
    with envoy_console(directory, _bootstrap(directory)) as console:
        _greet(console)
        yield console


def _greet(console: EnvoyConsole) -> None:
    """Connect as a client, to create statistics that only clients cause."""
    port = console.ask("/listeners").body.splitlines()[2].rpartition(":")[2]
    with socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def _values(console: EnvoyConsole, kind: str) -> dict[str, int]:
    listed = console.ask(f"/stats?format=json&type={kind}").tree["stats"]
    return {each["name"]: each["value"] for each in listed if "name" in each}


def _without_values(exposed: str) -> list[str]:
    """Return lines without their values, which change between two requests, and without histograms (not supported)."""
    kept, wanted = [], True
    for line in exposed.splitlines():
        if line.startswith("#"):
            wanted = not line.endswith("histogram")
        if wanted:
            kept.append(line if line.startswith("#") else line.rpartition(" ")[0])
    return kept


@wants_envoy
def test_names_are_tagged_as_envoy_tags_them(real: EnvoyConsole) -> None:
    snapshot = Snapshot(_values(real, "Counters"), _values(real, "Gauges"))
    assert len(snapshot.counters) > 200
    asked = real.ask("/stats/prometheus")
    ours = page(stats_format.prometheus(snapshot, {}))
    assert (ours.status, ours.content_type) == (asked.status, asked.content_type)
    assert _without_values(ours.body) == _without_values(asked.body)


@wants_envoy
@pytest.mark.parametrize(
    "query", ["", "?filter=two|tls", "?type=Counters", "?filter=zz", "?format=json&filter=downstream_cx_total",
              "?format=yaml", "?type=None", "?format=prometheus&filter=zz", "?format=json&filter=zz"],
)  # fmt: skip
def test_statistics_have_envoys_shape(real: EnvoyConsole, query: str) -> None:
    snapshot = Snapshot(_values(real, "Counters"), _values(real, "Gauges"))
    theirs = real.ask(f"/stats{query}")
    ours = page(stats_format.stats(snapshot, parameters(query)))
    assert (ours.status, ours.content_type) == (theirs.status, theirs.content_type)
    assert _scalars(ours.body) == _scalars(theirs.body)


def _scalars(body: str) -> str:
    """Return statistics without histograms, and without the values, which change."""
    lines = [line for line in body.splitlines(keepends=True) if "P0(" not in line and "No recorded" not in line]
    return re.sub(r'(: |"value":)\d+', r"\1N", "".join(lines))


@wants_envoy
def test_certificates_have_envoys_shape(real: EnvoyConsole, directory: Path) -> None:
    context = Context([Pem.read(str(directory / "chain"))], Pem.read(str(directory / "ca")))
    theirs, ours = real.ask("/certs"), page(admin_documents.certs([context], datetime.now(UTC)))
    assert ours == theirs


@wants_envoy
@pytest.mark.parametrize("form", ["text", "json", "other"])
def test_listeners_have_envoys_shape(real: EnvoyConsole, directory: Path, form: str) -> None:
    ports = [line.rpartition(":")[2] for line in real.ask("/listeners").body.splitlines()[:3]]
    bound = [
        ("tls", [ListenAddress.at("tcp", "127.0.0.1", ports[0], "")]),
        ("two", [ListenAddress.at("tcp", "::1", ports[1], ""), ListenAddress.at("tcp", "127.0.0.1", ports[2], "")]),
        ("pipe", [ListenAddress(f"unix://{directory}/a.b.sock")]),
    ]
    assert page(admin_documents.listeners(bound, form)) == real.ask(f"/listeners?format={form}")


@wants_envoy
def test_what_is_ready_waits_for_nothing(real: EnvoyConsole) -> None:
    assert page(admin_documents.init_dump({})) == real.ask("/init_dump")
    assert page(admin_documents.ready(admin_documents.LIVE)) == real.ask("/ready")
    assert page(admin_documents.post_required("GET")) == real.ask("/quitquitquit")


@wants_envoy
def test_the_server_has_envoys_members(real: EnvoyConsole) -> None:
    theirs = real.ask("/server_info")
    server = Server("v", "LIVE", 0.9, 61.2, "11.104", {}, {})
    ours = page(admin_documents.server_info(server))
    assert list(ours.tree) == list(theirs.tree)
    assert ours.body == json.dumps(ours.tree, indent=1) + "\n"
    assert (ours.tree["uptime_current_epoch"], ours.tree["uptime_all_epochs"]) == ("0s", "61s")


def _waiting(directory: Path) -> dict[str, Any]:
    """Return a listener that waits for routes which never arrive."""
    static = {"listeners": [gate.listener()], "clusters": [gate.cluster(str(directory / "nobody"))]}
    return {"node": {"id": "i", "cluster": "c"}, "static_resources": static}


@wants_envoy
def test_what_waits_has_envoys_shape(tmp_path: Path) -> None:
    with envoy_console(tmp_path, _waiting(tmp_path)) as console:
        theirs = console.ask("/init_dump")
        name = theirs.tree["unready_targets_dumps"][0]["name"].removeprefix("init manager ")
        target = f"shared target RdsRouteConfigSubscription RDS init {gate.NAME}"
        assert page(admin_documents.init_dump({name: [target]})) == theirs
        assert page(admin_documents.ready(admin_documents.INITIALIZING)) == console.ask("/ready")
