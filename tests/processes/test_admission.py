"""The check at the gate, for a candidate whose admin interface answers as the test specifies."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.certificates.selection import LastGood, select_files
from agent.core.errors import MachineError
from agent.core.events import Failure, FailureKind
from agent.core.revision import Revision
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.processes.admission import Admission
from agent.processes.candidate_status import reason_of
from agent.processes.epoch_process import EpochProcess
from agent.proxies.envoy.admin_client import AdminClient
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.processes.harness import until
from tests.proxies.envoy.test_subscriptions import LDS

STATIC = "static_resources: {}"
PLANE = """
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3}
  ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: ads}}]}
"""
BY_FILE = "dynamic_resources: {lds_config: {path_config_source: {path: /d/lds.yaml}}}"
WELL: dict[str, Any] = {
    "/certs": {},
    "/init_dump": {},
    "/clusters": {},
    "/server_info": {"state": "INITIALIZING"},
}


def counters(applied: int = 0, rejected: int = 0, failed: int = 0, scope: str = LDS) -> str:
    values = {"init_fetch_timeout": 0, "update_success": applied, "update_rejected": rejected, "update_failure": failed}
    return "".join(f"{scope}.{name}: {value}\n" for name, value in values.items())


class Epoch:
    """An epoch with an admin interface whose `answers` (path to JSON or text) may change."""

    def __init__(self, path: Path, configuration: Configuration, number: int) -> None:
        self.answers: dict[str, Any] = {"/stats": "", **WELL}
        self.asked = 0  # the number of requests for its counters
        outcome = select_files([], {}, LastGood(), clock.calendar())
        program = SimpleNamespace(binary=SimpleNamespace(path=Path("/usr/bin/envoy")), kind=Envoy(Flags(), 1.0))
        material = SimpleNamespace(
            revision=Revision("digest", "shape"),
            configuration=configuration,
            outcome=outcome,
            descriptors={},
            paths={9: "/c/tls.key"},
            program=program,
        )
        self.process = cast(EpochProcess, SimpleNamespace(number=number, admin=AdminClient(path), material=material))

    async def answer(self, request: Request) -> Response:
        self.asked += request.path == "/stats"
        target = request.target if request.target in self.answers else request.path
        answer = self.answers.get(target)
        if answer is None:
            return Response(404, b"")
        return Response(200, (answer if isinstance(answer, str) else json.dumps(answer)).encode())


class Sockets:
    """The socket queries of the admission: the listeners that a candidate lacks, until they are followed."""

    def __init__(self, missing: Collection[ListenAddress] = ()) -> None:
        self.lacking, self.gone, self.followed = list(missing), False, 0

    def missing(self, _candidate: EpochProcess, _before: Configuration | None) -> list[ListenAddress]:
        return self.lacking

    async def follow(self, _serving: EpochProcess) -> None:
        self.followed += 1
        if self.gone:
            self.lacking.clear()


@asynccontextmanager
async def epoch(directory: Path, text: str, number: int = 2) -> AsyncIterator[Epoch]:
    path = directory / f"admin{number}"
    resources = {"/d/lds.yaml": b"resources: []"} if "/d/lds.yaml" in text else {}
    made = Epoch(path, Configuration(text, "envoy.yaml", None, resources), number)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    server = Server(made.answer)
    await server.start(listener)
    try:
        yield made
    finally:
        await server.close()


def admission(candidate: Epoch, serving: Epoch | None = None, sockets: Sockets | None = None) -> Admission:
    return Admission(
        candidate.process, lambda: None if serving is None else serving.process, cast(Any, sockets or Sockets())
    )


@asynccontextmanager
async def checking(of: Admission) -> AsyncIterator["asyncio.Task[Failure | None]"]:
    """Run a check while the test changes the answers."""
    task = asyncio.get_running_loop().create_task(of.check())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stays_open(task: "asyncio.Task[Failure | None]", candidate: Epoch) -> None:
    """Check that it keeps asking: two more requests, and it is not done."""
    asked = candidate.asked
    await until(lambda: candidate.asked >= asked + 2)
    assert not task.done()


async def test_a_static_first_candidate_is_asked_nothing(tmp_path: Path) -> None:
    async with epoch(tmp_path, STATIC) as candidate:
        candidate.answers.clear()
        assert await admission(candidate).check() is None


async def test_a_candidate_is_good_once_its_set_is_applied_and_not_before(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers["/stats"] = counters()
        async with checking(admission(candidate)) as task:
            await stays_open(task, candidate)
            candidate.answers["/stats"] = counters(applied=1)
            assert await task is None


async def test_a_set_that_was_not_even_asked_for_is_waited_for(tmp_path: Path) -> None:
    """Envoy sends the request at the same moment as the one for its gate's routes."""
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers["/stats"] = counters(applied=1, scope="cluster_manager.cds")
        async with checking(admission(candidate)) as task:
            await stays_open(task, candidate)
            candidate.answers["/stats"] += counters(applied=1)
            assert await task is None


async def test_what_warms_up_is_waited_for(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers["/stats"] = counters(applied=1)
        candidate.answers["/init_dump"] = {"unready_targets_dumps": [{"target_names": ["RDS x"]}]}
        async with checking(admission(candidate)) as task:
            await stays_open(task, candidate)
            candidate.answers["/init_dump"] = {}
            assert await task is None


async def test_what_a_control_plane_sent_and_was_refused_ends_it_at_once(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        candidate.answers["/stats"] = counters(rejected=1)
        details = "Failed to load private key from /dev/fd/9, {secret}"
        dump = {"configs": [{"error_state": {"details": details}}]}
        candidate.answers["/config_dump?resource=dynamic_listeners"] = dump
        failure = await admission(candidate, serving).check()
    assert failure is not None
    assert failure.sort is FailureKind.TRANSIENT
    assert failure.reason.startswith("epoch 2 refuses its listeners (LDS) of the control plane ads: Failed to load")
    assert "/c/tls.key" in failure.reason
    assert "secret" not in failure.reason


async def test_while_nothing_serves_the_control_plane_may_mend_it(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers["/stats"] = counters(rejected=1)
        async with checking(admission(candidate)) as task:
            await stays_open(task, candidate)
            candidate.answers["/stats"] = counters(applied=1, rejected=1)
            assert await task is None


@pytest.mark.parametrize("serves", [True, False])
async def test_a_refused_file_is_a_permanent_failure_that_names_it(tmp_path: Path, serves: bool) -> None:
    async with epoch(tmp_path, BY_FILE) as candidate, epoch(tmp_path, BY_FILE, 1) as serving:
        candidate.answers["/stats"] = counters(rejected=1)
        failure = await admission(candidate, serving if serves else None).check()
    assert failure is not None
    assert failure.sort is FailureKind.PERMANENT
    assert failure.reason == "cannot use /d/lds.yaml: envoy refuses its listeners (LDS) in it; see its log"


async def test_a_secret_that_the_serving_epoch_lacks_as_well_is_not_awaited(tmp_path: Path) -> None:
    text = counters(applied=1) + counters(scope="sds.edge")
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        candidate.answers["/stats"] = serving.answers["/stats"] = text
        assert await admission(candidate, serving).check() is None


async def test_where_the_serving_epoch_hangs_whatever_is_essential_is_needed(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        candidate.answers["/stats"] = counters(applied=1) + counters(scope="sds.edge")
        serving.answers.clear()
        async with checking(admission(candidate, serving)) as task:
            await stays_open(task, candidate)
            candidate.answers["/stats"] = counters(applied=1) + counters(applied=1, scope="sds.edge")
            assert await task is None


async def test_without_counters_it_has_to_load_as_many_certificates_as_the_one_that_serves(tmp_path: Path) -> None:
    loaded = {"certificates": [{"cert_chain": [{"path": "<inline>", "serial_number": "01"}]}]}
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        serving.answers["/certs"] = loaded
        async with checking(admission(candidate, serving)) as task:
            await stays_open(task, candidate)
            candidate.answers["/certs"] = loaded
            assert await task is None
        serving.answers.clear()
        candidate.answers["/certs"] = {}
        assert await admission(candidate, serving).check() is None, "it hangs, and cannot be compared with"


async def test_of_another_configuration_it_may_load_fewer_certificates(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        serving.answers["/certs"] = {"certificates": [{"cert_chain": [{"path": "<inline>", "serial_number": "01"}]}]}
        serving.process.material.revision = Revision("digest", "another")  # type: ignore[misc]
        assert await admission(candidate, serving).check() is None


async def test_where_only_the_counters_of_secrets_are_hidden_these_are_found_otherwise(tmp_path: Path) -> None:
    """As in Istio's bootstrap, whose inclusion list has listener_manager and no sds."""
    loaded = {"certificates": [{"cert_chain": [{"path": "<inline>", "serial_number": "01"}]}]}
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        candidate.answers["/stats"] = serving.answers["/stats"] = counters(applied=1)
        serving.answers["/certs"] = loaded
        async with checking(admission(candidate, serving)) as task:
            await stays_open(task, candidate)
            candidate.answers["/certs"] = loaded
            assert await task is None


async def test_without_a_listener_that_uses_a_secret_no_certificate_is_missed(tmp_path: Path) -> None:
    """The serving epoch shows the counters of its secrets, so the candidate has none: its listeners suffice."""
    loaded = {"certificates": [{"cert_chain": [{"path": "<inline>", "serial_number": "01"}]}]}
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        candidate.answers["/stats"] = counters(applied=1)
        serving.answers |= {"/stats": counters(applied=1) + counters(applied=1, scope="sds.edge"), "/certs": loaded}
        assert await admission(candidate, serving).check() is None


async def test_without_counters_a_first_candidate_waits_for_a_listener_and_for_its_secrets(tmp_path: Path) -> None:
    listeners = {"configs": [{"name": "edge"}]}
    secrets = {"configs": [{"name": "edge", "version_info": "uninitialized"}, {"name": "b", "version_info": "1"}]}
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers["/config_dump?resource=dynamic_active_secrets"] = secrets
        async with checking(admission(candidate)) as task:
            await stays_open(task, candidate)
            candidate.answers["/config_dump?resource=dynamic_listeners"] = listeners
            await stays_open(task, candidate)
            assert await reason_of(admission(candidate)) == (
                "it waits for secret edge: the control plane ads is no cluster of this configuration"
            )
            secrets["configs"][0]["version_info"] = "2"
            assert await task is None


async def test_a_listener_that_the_control_plane_took_away_meanwhile_is_not_missed(tmp_path: Path) -> None:
    sockets = Sockets([ListenAddress("tcp://127.0.0.1:80")])
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        candidate.answers["/stats"] = counters(applied=1)
        async with checking(admission(candidate, serving, sockets)) as task:
            await until(lambda: sockets.followed > 1)
            assert not task.done()
            sockets.gone = True
            assert await task is None


async def test_a_listener_of_the_configuration_itself_that_is_missing_is_a_failure(tmp_path: Path) -> None:
    sockets = Sockets([ListenAddress(f"tcp://127.0.0.1:{port}") for port in range(80, 85)])
    async with epoch(tmp_path, STATIC) as candidate, epoch(tmp_path, STATIC, 1) as serving:
        failure = await admission(candidate, serving, sockets).check()
    assert failure is not None
    named = "tcp://127.0.0.1:80, tcp://127.0.0.1:81, tcp://127.0.0.1:82 and 2 more"
    assert failure.reason == f"epoch 2 does not listen on {named}, which serves now"


async def test_an_admin_interface_that_does_not_answer_is_a_machine_error(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers.clear()
        with pytest.raises(MachineError):
            await admission(candidate).check()


# Reasons for waiting


def endpoint(port: int, **stats: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"address": address, "stats": [{"name": name, "value": str(value)} for name, value in stats.items()]}


def clusters(*endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"cluster_statuses": [{"name": "ads", "host_statuses": list(endpoints)}]}


@pytest.mark.parametrize(
    ("endpoints", "failed", "state"),
    [
        ([], 0, "has no address yet"),
        ([endpoint(9)], 0, "at 127.0.0.1:9 is not connected"),
        ([endpoint(9, cx_active=1)], 0, "at 127.0.0.1:9 is connected and does not answer"),
        ([endpoint(9, cx_active=1)], 3, "at 127.0.0.1:9 is connected and its streams are closed repeatedly"),
    ],
)
async def test_the_state_of_the_control_plane_is_part_of_the_reason(
    tmp_path: Path, endpoints: list[dict[str, Any]], failed: int, state: str
) -> None:
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers |= {"/stats": counters(failed=failed), "/clusters": clusters(*endpoints)}
        expected = f"it waits for its listeners (LDS): the control plane ads {state}"
        assert await reason_of(admission(candidate)) == expected


async def test_a_connection_is_tried_to_report_why_there_is_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with epoch(tmp_path, PLANE) as candidate:
            candidate.answers |= {"/stats": counters(), "/clusters": clusters(endpoint(port, cx_connect_fail=1))}
            open_reason = await reason_of(admission(candidate))
            server.close()
            closed_reason = await reason_of(admission(candidate))
    assert open_reason.endswith("cannot be reached: it accepts connections, but TLS or HTTP/2 on them fails")
    assert closed_reason.endswith(f"at 127.0.0.1:{port} cannot be reached: connection refused")


async def test_rejections_and_initialising_targets_are_reported(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers["/stats"] = counters(rejected=1, scope="sds.edge") + counters(applied=1)
        reason = await reason_of(admission(candidate))
        assert reason == "it refuses secret edge; see its log; correct it at the control plane ads"
        candidate.answers["/stats"] = counters(applied=1)
        candidate.answers["/init_dump"] = {"unready_targets_dumps": [{"target_names": ["RDS x", "agent_gate"]}]}
        assert await reason_of(admission(candidate)) == "it is initialising RDS x"
        candidate.answers["/init_dump"] = {}
        assert await reason_of(admission(candidate)) == ""
        candidate.answers["/server_info"] = {"state": "LIVE"}
        assert await reason_of(admission(candidate)) == ""


async def test_a_missing_listener_is_reported(tmp_path: Path) -> None:
    sockets = Sockets([ListenAddress("tcp://127.0.0.1:80")])
    async with epoch(tmp_path, PLANE) as candidate, epoch(tmp_path, PLANE, 1) as serving:
        candidate.answers["/stats"] = counters(applied=1)
        reason = await reason_of(admission(candidate, serving, sockets))
    assert reason == "it has no listener on tcp://127.0.0.1:80 yet, which serves now"
