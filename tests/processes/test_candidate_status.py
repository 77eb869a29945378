"""Why a candidate waits is told once each time it changes, with what an operator can do about it."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.core.errors import MachineError
from agent.handoff.socket_store import ListenAddress
from agent.processes import candidate_status
from agent.processes.admission import Admission
from agent.processes.candidate_status import observe, reason_of
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import ConnectFailures, Subscription, Upstream
from tests.processes.conftest import MakeEpoch
from tests.processes.fakes import FakeAdmin
from tests.processes.links import link_of
from tests.processes.virtual_time import now, virtual_time, within

PLANE = """
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3}
  ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: PLANE}}]}
"""
TWO = """
dynamic_resources:
  lds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: one}}]}}
  cds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: two}}]}}
"""
SCOPE = "listener_manager.lds"


class Sockets:
    """The listeners that a candidate lacks."""

    def __init__(self, *ports: int) -> None:
        self.lacking = [ListenAddress(f"tcp://127.0.0.1:{port}") for port in ports]

    def missing(self, *_: object) -> list[ListenAddress]:
        return self.lacking


def lacks(**counts: Any) -> dict[str, Subscription]:  # noqa: ANN401
    """A set of listeners that has not been applied."""
    return {SCOPE: Subscription(SCOPE, "its listeners", is_essential=True, **counts)}


@pytest.fixture
def candidate(make_epoch: MakeEpoch) -> EpochProcess:
    """A candidate that initialises and has all that it needs."""
    made = make_epoch(PLANE, number=2)
    answers(made)["state"] = "INITIALIZING"
    answers(made)["subscriptions"] = {
        SCOPE: Subscription(SCOPE, "its listeners", applied=1),
        "sds.x": Subscription("sds.x", "secret x", applied=1, secret="x"),
    }
    return made


def answers(epoch: EpochProcess) -> dict[str, Any]:
    return cast(FakeAdmin, epoch.admin).answers


def admission(candidate: EpochProcess, serving: EpochProcess | None = None, *lacking: int) -> Admission:
    return Admission(candidate, lambda: serving, cast(Any, Sockets(*lacking)))


@pytest.mark.parametrize("state", ["LIVE", "DRAINING", ""])
async def test_one_that_does_not_initialise_waits_for_nothing(candidate: EpochProcess, state: str) -> None:
    answers(candidate).update({"state": state, "subscriptions": lacks(), "waits_for": ["RDS x"]})
    assert await reason_of(admission(candidate)) == ""


@pytest.mark.parametrize("state", ["PRE_INITIALIZING", "INITIALIZING"])
async def test_what_initialises_is_named(candidate: EpochProcess, state: str) -> None:
    answers(candidate).update({"state": state, "waits_for": ["RDS a", "RDS b", "RDS c", "RDS d"]})
    assert (await reason_of(admission(candidate))).endswith(" RDS a, RDS b, RDS c")


async def test_one_that_has_everything_waits_for_nothing(candidate: EpochProcess) -> None:
    assert await reason_of(admission(candidate)) == ""


async def test_a_listener_that_is_served_and_still_to_come_is_named(
    candidate: EpochProcess, make_epoch: MakeEpoch
) -> None:
    serving = make_epoch(PLANE, number=1)
    assert "tcp://127.0.0.1:80" in await reason_of(admission(candidate, serving, 80))
    assert await reason_of(admission(candidate, None, 80)) == "", "nothing serves"


async def test_a_subscription_that_is_missing_comes_before_what_initialises(candidate: EpochProcess) -> None:
    answers(candidate).update({"subscriptions": lacks(), "waits_for": ["RDS a"], "upstreams": {"PLANE": []}})
    reason = await reason_of(admission(candidate))
    assert "its listeners" in reason
    assert "RDS a" not in reason


async def test_a_console_that_does_not_answer_raises(candidate: EpochProcess) -> None:
    answers(candidate)["state"] = MachineError("silent")
    with pytest.raises(MachineError):
        await reason_of(admission(candidate))


async def test_no_more_than_three_subscriptions_are_named(candidate: EpochProcess) -> None:
    names = [f"sds.{number}" for number in range(4)]
    secrets = {name: Subscription(name, name, is_essential=True, secret=name) for name in names}
    answers(candidate)["subscriptions"] = secrets
    assert "sds.0, sds.1, sds.2 …:" in await reason_of(admission(candidate))
    del secrets["sds.3"]
    reason = await reason_of(admission(candidate))
    assert "sds.0, sds.1, sds.2:" in reason


async def test_a_refusal_tells_why_and_where_it_can_be_corrected(candidate: EpochProcess) -> None:
    answers(candidate).update({"subscriptions": lacks(rejected=1), "rejections": ["no such cluster: x"]})
    reason = await reason_of(admission(candidate))
    assert "refuses its listeners: no such cluster: x" in reason
    assert reason.endswith("control plane PLANE")


async def test_a_refusal_comes_before_what_is_only_missing(candidate: EpochProcess) -> None:
    secret = Subscription("sds.x", "secret x", rejected=1, is_essential=True, secret="x")
    answers(candidate)["subscriptions"] = lacks() | {"sds.x": secret}
    reason = await reason_of(admission(candidate))
    assert "refuses secret x" in reason
    assert "its listeners" not in reason


BY_FILE = "dynamic_resources: {lds_config: {path_config_source: {path: /d/lds.yaml}}}"


async def test_a_refused_file_is_no_control_planes(make_epoch: MakeEpoch, revisions: Any) -> None:  # noqa: ANN401
    candidate = make_epoch(number=2)
    candidate.loaded = revisions.load(BY_FILE, None, {"/d/lds.yaml": b"resources: []"})
    answers(candidate).update({"state": "INITIALIZING", "subscriptions": lacks(rejected=1), "rejections": ["bad"]})
    assert (await reason_of(admission(candidate))).endswith("refuses its listeners: bad")
    answers(candidate)["subscriptions"] = lacks()
    assert (await reason_of(admission(candidate))).endswith("waits for its listeners")


def reaches(port: int, active: int = 0, failed: int = 0, host: str = "127.0.0.1") -> Upstream:
    return Upstream(f"{host}:{port}", active, failed)


@pytest.mark.parametrize(
    ("upstreams", "failures", "words"),
    [
        ({}, 0, "no cluster"),
        ({"OTHER": [reaches(9, 1)]}, 0, "no cluster"),
        ({"PLANE": []}, 0, "no address"),
        ({"PLANE": [reaches(9)]}, 0, "127.0.0.1:9 is not connected"),
        ({"PLANE": [reaches(9, 1)]}, 0, "127.0.0.1:9 is connected and does not answer"),
        ({"PLANE": [reaches(9, 1)]}, 3, "127.0.0.1:9 is connected and its streams are closed"),
        ({"PLANE": [reaches(8, 0, 4), reaches(9, 1)]}, 0, "127.0.0.1:8, 127.0.0.1:9 is connected"),
        ({"PLANE": [reaches(port) for port in range(1, 5)]}, 0, "127.0.0.1:2, 127.0.0.1:3 is not"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_the_state_of_the_control_plane_is_part_of_the_reason(
    candidate: EpochProcess, upstreams: dict[str, list[Upstream]], failures: int, words: str
) -> None:
    answers(candidate).update({"subscriptions": lacks(failed=failures), "upstreams": upstreams})
    reason = await reason_of(admission(candidate))
    assert "its listeners" in reason
    assert "control plane PLANE" in reason
    assert words in reason


async def test_each_control_plane_is_named_with_its_own_state(make_epoch: MakeEpoch) -> None:
    candidate = make_epoch(TWO, number=2)
    upstreams = {"one": [], "two": [reaches(9)]}
    answers(candidate).update({"state": "INITIALIZING", "subscriptions": lacks(), "upstreams": upstreams})
    reason = await reason_of(admission(candidate))
    assert "one has no address yet; " in reason
    assert reason.endswith("two at 127.0.0.1:9 is not connected")


async def why(candidate: EpochProcess, address: str) -> str:
    """Have a control plane at this address that the proxy cannot reach."""
    answers(candidate).update({"subscriptions": lacks(), "upstreams": {"PLANE": [Upstream(address, 0, 1)]}})
    reason = await reason_of(admission(candidate))
    return reason.partition(f"{address} cannot be reached: ")[2].removesuffix(" (once)")


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        (ConnectFailures(untrusted=2, tls=1, unanswered=1), "its certificate fails the verification"),
        (ConnectFailures(tls=1, unanswered=1), "as if it refused the client certificate"),
        (ConnectFailures(unanswered=3), "does not answer on them"),
        (ConnectFailures(), "TLS or HTTP/2"),
    ],
)
async def test_a_control_plane_that_accepts_connections_tells_by_counters_what_fails(
    candidate: EpochProcess, failures: ConnectFailures, words: str
) -> None:
    answers(candidate)["connect_failures"] = failures
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert words in await why(candidate, f"127.0.0.1:{server.getsockname()[1]}")


async def test_the_configured_name_comes_before_the_resolved_address(candidate: EpochProcess) -> None:
    found = {"PLANE": [Upstream("10.0.0.1:15012", 1, 0, "istiod.istio-system.svc:15012")]}
    answers(candidate).update({"subscriptions": lacks(), "upstreams": found})
    assert "at istiod.istio-system.svc:15012 (10.0.0.1:15012) is connected" in await reason_of(admission(candidate))


@pytest.mark.parametrize(("failed", "words"), [(1, "once"), (3, "at least 2 times"), (64, "at least 64 times")])
async def test_the_count_of_failures_changes_the_reason_only_when_it_doubles(
    candidate: EpochProcess, failed: int, words: str
) -> None:
    with unreachable() as port:
        answers(candidate).update({"subscriptions": lacks(), "upstreams": {"PLANE": [reaches(port, 0, failed)]}})
        assert (await reason_of(admission(candidate))).endswith(f"connection refused ({words})")


STATIC = """
static_resources:
  clusters:
  - name: PLANE
    load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: ADDRESS}}}]}]}
"""


async def test_a_control_plane_whose_name_is_not_resolved_is_named_as_configured(
    make_epoch: MakeEpoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    candidate = make_epoch(PLANE + STATIC.replace("ADDRESS", "{address: plane.invalid, port_value: 15012}"), number=2)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    answers(candidate).update({"state": "INITIALIZING", "subscriptions": lacks(), "upstreams": {"PLANE": []}})
    reason = await reason_of(admission(candidate))
    assert reason.endswith("PLANE has no address yet (plane.invalid:15012): name or service not known")


async def test_a_google_grpc_target_is_tried_although_it_is_no_cluster(make_epoch: MakeEpoch) -> None:
    with unreachable() as port:
        source = f"{{api_type: GRPC, grpc_services: [{{google_grpc: {{target_uri: '127.0.0.1:{port}'}}}}]}}"
        candidate = make_epoch(f"dynamic_resources: {{ads_config: {source}, lds_config: {{ads: {{}}}}}}", number=2)
        answers(candidate).update({"state": "INITIALIZING", "subscriptions": lacks(), "upstreams": {}})
        assert (await reason_of(admission(candidate))).endswith("cannot be reached: connection refused")


async def test_endpoints_that_do_not_come_are_a_reason_while_nothing_serves(
    candidate: EpochProcess, make_epoch: MakeEpoch
) -> None:
    """Envoy waits for the endpoints of its clusters (EDS) before it asks for listeners."""
    found = answers(candidate)["subscriptions"]
    found["cluster.backend"] = Subscription("cluster.backend", "cluster.backend")
    answers(candidate)["upstreams"] = {"PLANE": [reaches(9, 1)]}
    assert "waits for cluster.backend: the control plane PLANE at" in await reason_of(admission(candidate))
    assert await reason_of(admission(candidate, make_epoch(PLANE, number=1))) == "", "the start deadline counts"
    found["cluster.backend"] = Subscription("cluster.backend", "cluster.backend", given_up=True)
    assert await reason_of(admission(candidate)) == "", "Envoy goes on without them"


@contextlib.contextmanager
def unreachable() -> Iterator[int]:
    """A port that nobody listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def test_a_control_plane_that_refuses_connections_is_told(candidate: EpochProcess) -> None:
    with unreachable() as port:
        assert await why(candidate, f"127.0.0.1:{port}") == "connection refused"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_control_plane_that_accepts_connections_fails_later(
    candidate: EpochProcess, family: socket.AddressFamily
) -> None:
    host, shown = ("127.0.0.1", "127.0.0.1") if family is socket.AF_INET else ("::1", "[::1]")
    with socket.create_server((host, 0), family=family) as server:
        for form in {shown, host}:
            reason = await why(candidate, f"{form}:{server.getsockname()[1]}")
            assert "TLS or HTTP/2" in reason
            server.accept()[0].close()


@pytest.mark.parametrize("abstract", [True, False])
async def test_a_control_plane_at_a_unix_socket_is_tried_as_well(
    candidate: EpochProcess, tmp_path: Path, abstract: bool
) -> None:
    name = f"@{tmp_path.name}-plane" if abstract else str(tmp_path / "plane")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name.replace("@", "\0") if abstract else name)
        server.listen()
        assert "TLS or HTTP/2" in await why(candidate, name)
    (tmp_path / "plane").unlink(missing_ok=True)
    assert await why(candidate, name) == ("connection refused" if abstract else "no such file or directory")


async def test_a_name_that_is_not_found_is_told(candidate: EpochProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    assert await why(candidate, "plane.invalid:1") == "name or service not known"


@pytest.mark.parametrize("address", [":", "", "envoy_internal", "127.0.0.1:http", f"{'a' * 70}.test:1"])
async def test_an_address_that_only_the_proxy_can_connect_to_is_told(candidate: EpochProcess, address: str) -> None:
    """An endpoint may be an internal listener, which the console shows without a port."""
    assert "such an address" in await why(candidate, address)


async def test_several_failures_at_once_are_told(candidate: EpochProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: str) -> None:
        raise OSError("Multiple exceptions: one, two")

    monkeypatch.setattr(candidate_status, "_connect", fail)
    assert await why(candidate, "plane:1") == "multiple exceptions: one, two"


async def test_the_first_endpoint_is_tried(candidate: EpochProcess) -> None:
    with unreachable() as port, socket.create_server(("127.0.0.1", 0)) as server:
        first, second = reaches(port, 0, 2), reaches(server.getsockname()[1], 0, 1)
        answers(candidate).update({"subscriptions": lacks(), "upstreams": {"PLANE": [first, second]}})
        assert (await reason_of(admission(candidate))).endswith("connection refused (at least 2 times)")


@virtual_time
async def test_a_control_plane_that_does_not_answer_is_waited_for_a_second(
    candidate: EpochProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(candidate_status, "_connect", hang)
    began = now()
    assert "1 s" in await why(candidate, "192.0.2.1:1")
    assert now() - began == pytest.approx(1.0)


# Observing


def observed(
    candidate: EpochProcess, lives: Callable[[], bool] = lambda: True, deadline: float = 30.0
) -> tuple["asyncio.Task[None]", list[str]]:
    told: list[str] = []
    return asyncio.create_task(observe(admission(candidate), lives, told.append, deadline)), told


@virtual_time
async def test_a_reason_is_told_when_it_changes_and_not_before_a_second_has_passed(candidate: EpochProcess) -> None:
    answers(candidate)["waits_for"] = ["RDS a"]
    task, told = observed(candidate)
    await asyncio.sleep(0.99)
    assert told == []
    await asyncio.sleep(3)
    assert [text.rpartition(" ")[2] for text in told] == ["a"]
    answers(candidate)["waits_for"] = ["RDS b"]
    await asyncio.sleep(2)
    answers(candidate)["waits_for"] = []
    await asyncio.sleep(2)
    assert [text.rpartition(" ")[2] for text in told] == ["a", "b", ""]
    link_of(candidate).gate.open()
    await within(1.1, task)


@virtual_time
async def test_the_first_reason_comes_before_a_short_start_deadline(candidate: EpochProcess) -> None:
    answers(candidate)["waits_for"] = ["RDS a"]
    task, told = observed(candidate, deadline=0.6)
    await asyncio.sleep(0.5)
    assert len(told) == 1
    link_of(candidate).gate.open()
    await within(1.1, task)


@virtual_time
async def test_a_candidate_that_waits_for_nothing_is_not_told_of(candidate: EpochProcess) -> None:
    task, told = observed(candidate)
    await asyncio.sleep(5)
    link_of(candidate).gate.open()
    await within(1.1, task)
    assert told == []


@virtual_time
async def test_a_console_that_is_silent_for_a_moment_ends_the_reason_and_not_the_observation(
    candidate: EpochProcess,
) -> None:
    answers(candidate)["waits_for"] = ["RDS a"]
    task, told = observed(candidate)
    await asyncio.sleep(2)
    answers(candidate)["state"] = MachineError("busy")
    await asyncio.sleep(2)
    answers(candidate)["state"] = "INITIALIZING"
    await asyncio.sleep(2)
    assert [bool(text) for text in told] == [True, False, True]
    link_of(candidate).gate.open()
    await within(1.1, task)


@pytest.mark.parametrize("end", ["it is gone", "its gate is open"])
@virtual_time
async def test_the_observation_ends_with_the_wait(candidate: EpochProcess, end: str) -> None:
    alive = [True]
    task, _ = observed(candidate, lambda: alive[0])
    await asyncio.sleep(3.5)
    asked = len(cast(FakeAdmin, candidate.admin).asked)
    if end == "it is gone":
        alive.clear()
        alive.append(False)
    else:
        link_of(candidate).gate.open()
    await within(1.1, task)
    assert len(cast(FakeAdmin, candidate.admin).asked) == asked
