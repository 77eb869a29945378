import asyncio
import contextlib
import json
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import MachineError
from agent.handoff.socket_store import ListenAddress
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.proxies.envoy.admin_client import AdminClient
from agent.proxies.interface import ConnectFailures, LoadedCertificate, Upstream
from tests.processes.harness import EpochHandle, harness, until
from tests.proxies.envoy.envoys import wants_envoy
from tests.system.eventually import PATIENCE


@asynccontextmanager
async def admin(directory: Path, answers: dict[str, bytes], status: int = 200) -> AsyncIterator[AdminClient]:
    """An admin interface with these answers, by path."""

    async def answer(request: Request) -> Response:
        return Response(status, answers.get(request.path, b""))

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "admin"))
    server = Server(answer)
    await server.start(listener)
    try:
        yield AdminClient(directory / "admin")
    finally:
        await server.close()


def certs(*chains: dict[str, str]) -> dict[str, bytes]:
    return {"/certs": json.dumps({"certificates": [{"cert_chain": [chain]} for chain in chains]}).encode()}


async def test_serials_are_numbers_whatever_their_letters(tmp_path: Path) -> None:
    """Envoy prints whole bytes in lower case: 0abc for 0xABC, 01 for 1."""
    found = certs({"path": "/a", "serial_number": "0abc"}, {"path": "/b", "serial_number": "01"}, {"path": "/c"})
    async with admin(tmp_path, found) as asked:
        assert await asked.certificates() == [
            LoadedCertificate("/a", 0xABC),
            LoadedCertificate("/b", 1),
            LoadedCertificate("/c", 0),
        ]


async def test_authorities_are_no_chains(tmp_path: Path) -> None:
    text = json.dumps({"certificates": [{"ca_cert": [{"path": "/ca", "serial_number": "01"}]}, {}]})
    async with admin(tmp_path, {"/certs": text.encode()}) as asked:
        assert await asked.certificates() == []


async def test_clients_are_counted_once_and_admins_not(tmp_path: Path) -> None:
    lines = b"""listener.127.0.0.1_80.downstream_cx_active: 3
listener.127.0.0.1_80.worker_0.downstream_cx_active: 1
listener.127.0.0.1_80.worker_1.downstream_cx_active: 2
listener.[__]_443.downstream_cx_active: 4
listener.[__]_443.downstream_pre_cx_active: 8
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
"""
    async with admin(tmp_path, {"/stats": lines}) as asked:
        assert await asked.connections() == 15


async def test_failures_to_connect_are_counted_by_cause_for_one_cluster(tmp_path: Path) -> None:
    lines = b"""cluster.a_b.ssl.connection_error: 1
cluster.a_b.ssl.fail_verify_error: 2
cluster.a_b.ssl.fail_verify_san: 3
cluster.a_b.upstream_cx_connect_timeout: 4
cluster.a_b.x.ssl.connection_error: 50
cluster.other.ssl.connection_error: 60
"""
    async with admin(tmp_path, {"/stats": lines}) as asked:
        assert await asked.connect_failures("a:b") == ConnectFailures(untrusted=5, tls=1, unanswered=4)
        assert await asked.connect_failures("hidden") == ConnectFailures()


async def test_an_endpoint_has_its_configured_name_and_is_active_once_a_request_was_sent(tmp_path: Path) -> None:
    def host(name: str | None, **counts: int) -> dict[str, object]:
        stats = [{"name": each, **({"value": str(count)} if count else {})} for each, count in counts.items()]
        inner: dict[str, object] = {
            "address": {"socket_address": {"address": "10.0.0.1", "port_value": 1}},
            "stats": stats,
        }
        return inner if name is None else {**inner, "hostname": name}

    hosts = [host("istiod", cx_active=1, rq_total=0, cx_connect_fail=2), host(None, cx_active=1, rq_total=1)]
    hosts += [host("10.0.0.1", cx_active=1)]
    answer = json.dumps({"cluster_statuses": [{"name": "plane", "host_statuses": hosts}]}).encode()
    async with admin(tmp_path, {"/clusters": answer}) as asked:
        assert await asked.upstreams() == {
            "plane": [
                Upstream("10.0.0.1:1", 0, 2, "istiod:1"),
                Upstream("10.0.0.1:1", 1, 0),
                Upstream("10.0.0.1:1", 1, 0),
            ]
        }


UDP = {"socket_address": {"address": "1.2.3.4", "port_value": 5, "protocol": "UDP"}}


async def test_listeners_have_the_protocols_spelling(tmp_path: Path) -> None:
    inner = [
        {"name": "a", "local_address": {"socket_address": {"address": "::", "port_value": 80}}},
        {"name": "b", "local_address": {"pipe": {"path": "@x"}},
         "additional_local_addresses": [UDP]},
        {"name": "agent_gate", "local_address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}},
        {"name": "internal", "local_address": {"envoy_internal_address": {"server_listener_name": "x"}}},
    ]  # fmt: skip
    async with admin(tmp_path, {"/listeners": json.dumps({"listener_statuses": inner}).encode()}) as asked:
        assert await asked.listeners() == {
            ListenAddress("tcp://[::]:80"),
            ListenAddress("unix://@x"),
            ListenAddress("udp://1.2.3.4:5"),
        }


async def test_a_candidate_waits_only_for_its_gate_when_nothing_else_is_named(tmp_path: Path) -> None:
    for names, alone in (
        (["RdsRouteConfigSubscription RDS init agent_gate"], True),
        ([], True),
        (["RdsRouteConfigSubscription RDS init agent_gate", "LDS"], False),
    ):
        text = json.dumps({"unready_targets_dumps": [{"name": "init manager", "target_names": names}]})
        home = tmp_path / str(len(names))
        home.mkdir()
        async with admin(home, {"/init_dump": text.encode()}) as asked:
            assert await asked.waits_only_for_gate() is alone
            assert await asked.waits_at_gate() is bool(names)


@pytest.mark.parametrize("body", [b"", b"not json", b"[", b"\xff"])
async def test_nonsense_is_a_machine_error(tmp_path: Path, body: bytes) -> None:
    async with admin(tmp_path, {"/certs": body}) as asked:
        with pytest.raises(MachineError, match="cannot read the answer"):
            await asked.certificates()


KEYS = [
    *("state", "configs", "unready_targets_dumps", "target_names", "certificates", "cert_chain", "path"),
    *("serial_number", "listener_statuses", "name", "local_address", "additional_local_addresses", "socket_address"),
    *("address", "port_value", "pipe", "listener", "active_state", "traffic_direction", "error_state", "details"),
    *("cluster_statuses", "host_statuses", "stats", "value", "version_info", "additional_addresses"),
]
QUESTIONS = [
    *("state", "waits_for", "rejections", "unseen", "upstreams", "certificates", "listeners", "connections", "inbound"),
    *("subscriptions", "listener_changes", "waits_at_gate"),
]


@pytest.mark.parametrize("question", QUESTIONS)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
        max_leaves=20,
    )
)
@settings(max_examples=40, deadline=None)
def test_an_answer_of_any_shape_is_an_answer_or_a_machine_error(question: str, value: object) -> None:
    """A compromised proxy answers; no answer may cause a bug in the agent."""

    async def ask() -> None:
        admin = AdminClient(Path("/nowhere"))

        async def get(_: str, method: str = "GET") -> bytes:
            return json.dumps(value).encode()

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(MachineError):
            patch.setattr(admin, "_get", get)
            await getattr(admin, question)()

    asyncio.run(ask())


async def test_an_answer_that_is_nested_without_end_is_a_machine_error(tmp_path: Path) -> None:
    async with admin(tmp_path, {"/certs": b"[" * 1_000_000}) as asked:
        with pytest.raises(MachineError, match="nested too deep"):
            await asked.certificates()


async def test_an_admin_interface_that_refuses_or_has_exited_is_a_machine_error(tmp_path: Path) -> None:
    async with admin(tmp_path, {}, status=403) as asked:
        with pytest.raises(MachineError, match="status 403"):
            await asked.connections()
    (tmp_path / "admin").unlink(missing_ok=True)
    with pytest.raises(MachineError, match="cannot ask"):
        await AdminClient(tmp_path / "admin").listeners()


# The real Envoy


def listening(*names: str, more: dict[str, object] | None = None) -> str:
    """Return a bootstrap with a TCP listener at each abstract name, into a cluster that is always down."""
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo",
    }
    chains = [{"filters": [{"name": "envoy.filters.network.echo", "typed_config": proxy}]}]
    listeners = [{"name": name, "address": {"pipe": {"path": name}}, "filter_chains": chains} for name in names]
    return json.dumps({"static_resources": {"listeners": listeners}, **(more or {})})


def abstract() -> str:
    """Return a unique abstract name."""
    return f"@agent-test-{secrets.token_hex(8)}"


@contextlib.contextmanager
def client(name: str) -> Iterator[socket.socket]:
    """Return an open connection that has received one response."""
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(PATIENCE)
        made.connect("\0" + name[1:])
        made.sendall(b"x")
        assert made.recv(1) == b"x"
        yield made


async def _counts(role: EpochHandle, wanted: int) -> None:
    async def counted() -> bool:
        return await role.process.admin.connections() == wanted

    await until(counted)


@wants_envoy
async def test_a_real_envoy_is_understood() -> None:
    name = abstract()
    async with harness() as stage:
        role = stage.start(listening(name))
        await role.reach_gate()
        assert await role.process.admin.waits_only_for_gate()
        assert await role.process.admin.certificates() == []
        await role.serve()
        assert await role.process.admin.listeners() == {ListenAddress(f"unix://{name}")}
        assert await role.process.admin.listener_changes() == await role.process.admin.listener_changes() != ""
        assert await role.process.admin.connections() == 0
        with client(name), client(name):
            await _counts(role, 2)
        await _counts(role, 0)


NO_STATS: dict[str, object] = {"stats_config": {"stats_matcher": {"reject_all": True}}}


@wants_envoy
async def test_statistics_that_the_operator_does_not_want_are_not_taken_for_zero() -> None:
    """Istio's own bootstrap includes only some prefixes: a drain must not read a missing counter as zero."""
    name = abstract()
    async with harness() as stage:
        role = await stage.serving(listening(name, more=NO_STATS))
        with client(name):
            assert await role.process.admin.connections() is None


@wants_envoy
async def test_changes_of_listeners_are_seen_though_the_operator_wants_no_statistics(tmp_path: Path) -> None:
    lds = tmp_path / "lds.yaml"
    names = [abstract() for _ in range(2)]
    kind = "type.googleapis.com/envoy.config.listener.v3.Listener"

    def publish(*published: str) -> None:
        tree = json.loads(listening(*published))["static_resources"]["listeners"]
        beside = lds.with_suffix(".new")
        beside.write_text(json.dumps({"resources": [{"@type": kind, **each} for each in tree]}))
        beside.replace(lds)

    source = {"lds_config": {"path_config_source": {"path": str(lds)}, "resource_api_version": "V3"}}
    publish(names[0])
    async with harness() as stage:
        role = await stage.serving(json.dumps({"dynamic_resources": source, **NO_STATS}))
        before = await role.process.admin.listener_changes()
        publish(*names)

        async def added() -> bool:
            return len(await role.process.admin.listeners()) == 2

        await until(added)
        assert await role.process.admin.listener_changes() != before
