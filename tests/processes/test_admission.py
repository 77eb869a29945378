"""The examination at the gate, of a candidate whose console says what the test wants it to say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.certificates.groups import CertificateGroup, Pin
from agent.core.errors import MachineError
from agent.core.events import Failure, FailureKind
from agent.core.revision import Revision
from agent.handoff.socket_store import ListenAddress
from agent.inputs.revisions import LoadedRevision
from agent.processes.admission import Admission
from agent.processes.candidate_status import reason_of
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Complaint, LoadedCertificate, Subscription
from tests import pki
from tests.processes.answering_epochs import BY_FILE, PLANE, STATIC, Epoch, Sockets, admission, counters, epoch
from tests.processes.conftest import MakeEpoch
from tests.processes.fakes import FakeAdmin, Revisions
from tests.processes.harness import until
from tests.processes.test_manifest import CHAIN, KEY, TEXT
from tests.processes.virtual_time import virtual_time


@asynccontextmanager
async def checking(of: Admission) -> AsyncIterator["asyncio.Task[Failure | None]"]:
    """Let an examination run while the test changes the answers."""
    task = asyncio.get_running_loop().create_task(of.check())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stays_open(task: "asyncio.Task[Failure | None]", candidate: Epoch) -> None:
    """See that it goes on asking: it asks twice more, and is not done."""
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
    """Envoy's request goes out in the moment in which it asks for its gate's routes."""
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
async def test_a_file_that_is_refused_is_a_verdict_that_names_it(tmp_path: Path, serves: bool) -> None:
    async with epoch(tmp_path, BY_FILE) as candidate, epoch(tmp_path, BY_FILE, 1) as serving:
        candidate.answers["/stats"] = counters(rejected=1)
        failure = await admission(candidate, serving if serves else None).check()
    assert failure is not None
    assert failure.sort is FailureKind.PERMANENT
    assert failure.reason == "cannot use /d/lds.yaml: envoy refuses its listeners (LDS) in it; see its log"


async def test_a_secret_that_the_serving_epoch_lacks_as_well_keeps_nobody_waiting(tmp_path: Path) -> None:
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
        serving.process.loaded.revision = Revision("digest", "another")  # type: ignore[misc]
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
    """The serving epoch shows the counters of its secrets, so the candidate has none: its listeners tell the rest."""
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


async def test_a_console_that_does_not_answer_is_the_machines_error(tmp_path: Path) -> None:
    async with epoch(tmp_path, PLANE) as candidate:
        candidate.answers.clear()
        with pytest.raises(MachineError):
            await admission(candidate).check()


# In detail, with an admin interface that is no server

LEAF = pki.Authority.create("ca").issue(["a.test"], serial=0xABC)
FILES = {CHAIN: LEAF.chain_pem, KEY: LEAF.key_pem}
LISTENERS = "listener_manager.lds"
TLS = TEXT.partition(', "dynamic_resources"')[0] + "}"
TWO_PLANES = """
dynamic_resources:
  lds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: one}}]}}
  cds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: two}}]}}
"""


def answers(epoch: EpochProcess) -> dict[str, Any]:
    return cast(FakeAdmin, epoch.admin).answers


def asked(epoch: EpochProcess) -> list[str]:
    return cast(FakeAdmin, epoch.admin).asked


def subscribed(*found: Subscription) -> dict[str, Subscription]:
    return {each.scope: each for each in found}


def listeners(**counts: Any) -> Subscription:  # noqa: ANN401
    return Subscription(LISTENERS, "its listeners", is_essential=True, **counts)


def secret(name: str, **counts: Any) -> Subscription:  # noqa: ANN401
    return Subscription(f"sds.{name}", f"secret {name}", is_essential=True, secret=name, **counts)


def examination(
    candidate: EpochProcess,
    serving: EpochProcess | None = None,
    sockets: Sockets | None = None,
    bisection: object = None,
) -> Admission:
    return Admission(candidate, lambda: serving, cast(Any, sockets or Sockets()), cast(Any, bisection))


@pytest.fixture
def serving(make_epoch: MakeEpoch) -> EpochProcess:
    """An epoch that serves from the files that the candidate has."""
    made = make_epoch(TLS, FILES, number=1)
    assert made.loaded.configuration.is_static
    return made


@pytest.fixture
def candidate(make_epoch: MakeEpoch) -> EpochProcess:
    return make_epoch(TLS, FILES, number=2)


def loaded(epoch: EpochProcess, path: str, serial: int) -> LoadedCertificate:
    return LoadedCertificate(f"/dev/fd/{epoch.loaded.descriptors[path]}", serial)


@virtual_time
async def test_a_candidate_that_loaded_another_certificate_is_refused(
    candidate: EpochProcess, serving: EpochProcess
) -> None:
    answers(candidate)["certificates"] = [loaded(candidate, CHAIN, 0xABC), loaded(candidate, CHAIN, 0xDEF)]
    failure = await examination(candidate, serving).check()
    assert failure is not None
    assert failure.sort is FailureKind.TRANSIENT
    for word in ("epoch 2", "serial def", CHAIN, "0abc"):
        assert word in failure.reason


@pytest.mark.parametrize(
    "other",
    [
        [],
        [LoadedCertificate("<inline>", 0xDEF)],
        [LoadedCertificate("/dev/fd/999", 0xDEF)],
        [LoadedCertificate("/c/tls.crt", 0xDEF)],
    ],
    ids=str,
)
@virtual_time
async def test_a_candidate_that_loaded_its_own_certificate_is_good(
    candidate: EpochProcess, serving: EpochProcess, other: list[LoadedCertificate]
) -> None:
    answers(candidate)["certificates"] = [loaded(candidate, CHAIN, 0xABC), *other]
    assert await examination(candidate, serving).check() is None
    assert "certificates" in asked(candidate)


@virtual_time
async def test_a_static_candidate_beside_one_that_serves_is_examined(
    candidate: EpochProcess, serving: EpochProcess
) -> None:
    answers(candidate)["certificates"] = MachineError("silent")
    assert await examination(candidate).check() is None, "there is nothing to compare it with"
    with pytest.raises(MachineError):
        await examination(candidate, serving).check()


@virtual_time
async def test_what_still_initialises_is_waited_for_and_asked_at_most_every_tenth_of_a_second_or_so(
    candidate: EpochProcess, serving: EpochProcess
) -> None:
    answers(candidate)["waits_only_for_gate"] = False
    async with checking(examination(candidate, serving)) as task:
        await asyncio.sleep(10)
        assert not task.done()
        assert 38 <= asked(candidate).count("waits_only_for_gate") <= 46, "each quarter of a second, after a few more"
        answers(candidate)["waits_only_for_gate"] = True
        assert await task is None


@virtual_time
async def test_a_candidate_is_asked_again_soon_at_first(candidate: EpochProcess, serving: EpochProcess) -> None:
    """Most are whole within milliseconds."""
    whole = iter([False, True])
    answers(candidate)["waits_only_for_gate"] = whole.__next__
    async with checking(examination(candidate, serving)) as task:
        await asyncio.sleep(0.011)
        assert task.done()


@virtual_time
async def test_a_wrong_certificate_counts_before_a_missing_listener(
    candidate: EpochProcess, serving: EpochProcess
) -> None:
    answers(candidate)["certificates"] = [loaded(candidate, CHAIN, 1)]
    sockets = Sockets([ListenAddress("tcp://127.0.0.1:80")])
    failure = await examination(candidate, serving, sockets).check()
    assert failure is not None
    assert CHAIN in failure.reason


@pytest.mark.parametrize(
    ("ports", "shown"),
    [
        ([80], "on tcp://127.0.0.1:80,"),
        ([80, 81, 82], "tcp://127.0.0.1:80, tcp://127.0.0.1:81, tcp://127.0.0.1:82,"),
        ([80, 81, 82, 83], "tcp://127.0.0.1:82 and 1 more,"),
    ],
)
@virtual_time
async def test_a_missing_listener_of_a_static_configuration_is_a_failure(
    candidate: EpochProcess, serving: EpochProcess, ports: list[int], shown: str
) -> None:
    sockets = Sockets([ListenAddress(f"tcp://127.0.0.1:{port}") for port in ports])
    failure = await examination(candidate, serving, sockets).check()
    assert failure is not None
    assert failure.sort is FailureKind.TRANSIENT
    assert "epoch 2" in failure.reason
    assert shown in failure.reason
    assert sockets.followed == 0
    assert await examination(candidate, None, sockets).check() is None, "nothing serves"


@virtual_time
async def test_the_listeners_are_compared_with_the_configuration_that_serves(
    candidate: EpochProcess, serving: EpochProcess
) -> None:
    compared: list[tuple[object, object]] = []

    class Seen(Sockets):
        def missing(self, _candidate: EpochProcess, _before: Any) -> list[ListenAddress]:  # noqa: ANN401
            compared.append((_candidate, _before))
            return []

    assert await examination(candidate, serving, Seen()).check() is None
    assert compared[0] == (candidate, serving.loaded.configuration)


@virtual_time
async def test_a_control_planes_listener_that_is_missing_is_looked_for_at_the_epoch_that_serves(
    make_epoch: MakeEpoch,
) -> None:
    candidate, serving = make_epoch(PLANE, number=2), make_epoch(PLANE, number=1)
    answers(candidate)["subscriptions"] = answers(serving)["subscriptions"] = subscribed(listeners(applied=1))
    followed: list[object] = []

    class Seen(Sockets):
        async def follow(self, _serving: EpochProcess) -> None:
            followed.append(_serving)
            self.lacking.clear()

    sockets = Seen([ListenAddress("tcp://127.0.0.1:80")])
    assert await examination(candidate, serving, sockets).check() is None
    assert followed == [serving]
    assert asked(candidate).count("subscriptions") == 1, "there is nothing more to wait for"


# Subscriptions


@pytest.mark.parametrize(
    ("own", "served", "missing"),
    [
        ([listeners(applied=1), secret("a", applied=1)], [], []),
        ([listeners(applied=1), secret("a")], [], ["sds.a"]),
        ([listeners(), secret("a", applied=1)], [listeners(applied=1)], [LISTENERS]),
        ([listeners(), secret("a", applied=1)], [listeners(), secret("a", applied=1)], []),
        ([listeners(applied=1), secret("a", rejected=1), secret("b")], [], ["sds.a", "sds.b"]),
    ],
)
@virtual_time
async def test_what_it_needs_and_has_not_applied_is_missing(
    make_epoch: MakeEpoch, own: list[Subscription], served: list[Subscription], missing: list[str]
) -> None:
    candidate, serving = make_epoch(PLANE, number=2), make_epoch(PLANE, number=1)
    answers(candidate)["subscriptions"] = subscribed(*own)
    answers(serving)["subscriptions"] = subscribed(*served)
    assert [each.scope for each in await examination(candidate, serving).missing()] == missing


@virtual_time
async def test_a_static_configuration_misses_nothing_and_is_not_asked(candidate: EpochProcess) -> None:
    answers(candidate)["subscriptions"] = MachineError("silent")
    assert await examination(candidate).missing() == []
    assert asked(candidate) == []


@virtual_time
async def test_one_that_has_applied_all_is_compared_with_nobody(make_epoch: MakeEpoch) -> None:
    candidate, serving = make_epoch(PLANE, number=2), make_epoch(PLANE, number=1)
    answers(candidate)["subscriptions"] = subscribed(listeners(applied=1), secret("a", applied=1))
    assert await examination(candidate, serving).missing() == []
    assert asked(serving) == []


UNSEEN = [secret("a"), Subscription("cluster_manager.cds", "its clusters"), Subscription(LISTENERS, "its listeners")]


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ([], ["sds.a", LISTENERS]),
        ([listeners(applied=1)], ["sds.a"]),
        ([secret("b", applied=1)], [LISTENERS]),
    ],
    ids=["all counters are hidden", "those of secrets are", "those of sets are"],
)
@virtual_time
async def test_a_first_candidate_whose_counters_are_hidden_misses_what_has_no_update(
    make_epoch: MakeEpoch, shown: list[Subscription], missing: list[str]
) -> None:
    """Only the sets that the configuration has: it fetches no clusters."""
    candidate = make_epoch(PLANE, number=2)
    answers(candidate)["subscriptions"] = subscribed(*shown)
    answers(candidate)["unseen"] = UNSEEN
    assert [each.scope for each in await examination(candidate).missing()] == missing


@virtual_time
async def test_what_comes_from_a_file_is_not_missed_where_no_counter_is_shown(
    make_epoch: MakeEpoch, revisions: Revisions
) -> None:
    candidate = make_epoch(number=2)
    candidate.loaded = revisions.load(BY_FILE, None, {"/d/lds.yaml": b"resources: []"})
    answers(candidate)["unseen"] = UNSEEN
    assert [each.scope for each in await examination(candidate).missing()] == ["sds.a"]


def certificates(inline: int, files: int) -> list[LoadedCertificate]:
    return [LoadedCertificate("<inline>", 1)] * inline + [LoadedCertificate("/dev/fd/9", 1)] * files


@pytest.mark.parametrize(
    ("own", "served", "is_missing"),
    [
        (certificates(1, 0), certificates(2, 0), True),
        (certificates(2, 0), certificates(2, 0), False),
        (certificates(3, 0), certificates(2, 0), False),
        (certificates(0, 5), certificates(1, 0), True),
        (certificates(1, 0), certificates(1, 5), False),
    ],
)
@virtual_time
async def test_without_counters_as_many_fetched_certificates_are_needed_as_the_serving_epoch_has(
    make_epoch: MakeEpoch, own: list[LoadedCertificate], served: list[LoadedCertificate], is_missing: bool
) -> None:
    candidate, serving = make_epoch(PLANE, number=2), make_epoch(PLANE, number=1)
    answers(candidate)["certificates"], answers(serving)["certificates"] = own, served
    assert [str(each) for each in await examination(candidate, serving).missing()] == ["certificates"] * is_missing


@virtual_time
async def test_without_counters_a_serving_epoch_that_hangs_is_no_measure(make_epoch: MakeEpoch) -> None:
    candidate, serving = make_epoch(PLANE, number=2), make_epoch(PLANE, number=1)
    answers(serving)["subscriptions"] = answers(serving)["certificates"] = MachineError("it hangs")
    assert await examination(candidate, serving).missing() == []


@virtual_time
async def test_an_epoch_of_another_configuration_is_no_measure(make_epoch: MakeEpoch) -> None:
    candidate, serving = make_epoch(PLANE, number=2), make_epoch(TWO_PLANES, number=1)
    answers(serving)["certificates"] = certificates(2, 0)
    assert await examination(candidate, serving).missing() == []


# Refusals


@virtual_time
async def test_a_refusal_names_every_control_plane_and_every_reason(make_epoch: MakeEpoch) -> None:
    candidate, serving = make_epoch(TWO_PLANES, number=2), make_epoch(TWO_PLANES, number=1)
    answers(candidate)["subscriptions"] = subscribed(listeners(rejected=3), secret("a"))
    answers(candidate)["rejections"] = ["no such filter", "no such cluster"]
    failure = await examination(candidate, serving).check()
    assert failure is not None
    assert failure.sort is FailureKind.TRANSIENT
    for word in ("epoch 2", "its listeners", "one or two", "no such filter; no such cluster"):
        assert word in failure.reason


@virtual_time
async def test_a_refusal_that_comes_while_others_are_waited_for_is_found(make_epoch: MakeEpoch) -> None:
    candidate, serving = make_epoch(PLANE, number=2), make_epoch(PLANE, number=1)
    answers(candidate)["subscriptions"] = subscribed(listeners(), secret("a"))
    async with checking(examination(candidate, serving)) as task:
        await asyncio.sleep(5)
        assert not task.done()
        answers(candidate)["subscriptions"] = subscribed(listeners(), secret("a", rejected=1))
        failure = await task
    assert failure is not None
    assert "secret a" in failure.reason


class Accuser:
    """Blames these groups for whatever is in a file."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.accused: list[tuple[str, int, Complaint]] = []

    def accuse_in(self, document: str, refused: EpochProcess, complaint: Complaint) -> tuple[object, ...]:
        self.accused.append((document, refused.number, complaint))
        return tuple(SimpleNamespace(fault=fault) for fault in self.faults)


@pytest.fixture
def by_file(make_epoch: MakeEpoch, revisions: Revisions) -> EpochProcess:
    """A candidate that refuses its resource file."""
    made = make_epoch(number=2)
    made.loaded = revisions.load(BY_FILE, None, {"/d/lds.yaml": b"resources: []"})
    answers(made)["subscriptions"] = subscribed(listeners(rejected=1))
    answers(made)["rejections"] = ["bad key in /dev/fd/99"]
    return made


@virtual_time
async def test_a_refused_file_is_a_permanent_failure_that_names_it(by_file: EpochProcess) -> None:
    accuser = Accuser()
    failure = await examination(by_file, None, None, accuser).check()
    assert failure is not None
    assert (failure.sort, failure.pinned) == (FailureKind.PERMANENT, False)
    for word in ("/d/lds.yaml", "true refuses its listeners", "bad key"):
        assert word in failure.reason
    [(document, number, complaint)] = accuser.accused
    assert (document, number) == ("/d/lds.yaml", 2)
    assert "/d/lds.yaml: bad key" in complaint.text


@virtual_time
async def test_the_groups_at_fault_are_named_in_its_place(by_file: EpochProcess) -> None:
    failure = await examination(by_file, None, None, Accuser("/c/a.pem is weak", "/c/b.pem is weak")).check()
    assert failure is not None
    assert (failure.sort, failure.pinned) == (FailureKind.PERMANENT, True)
    assert failure.reason == "/c/a.pem is weak; /c/b.pem is weak"


@virtual_time
async def test_a_complaint_carries_the_paths_of_the_files_that_it_names(
    make_epoch: MakeEpoch, revisions: Revisions
) -> None:
    candidate, accuser = make_epoch(number=2), Accuser()
    candidate.loaded = revisions.load(TEXT, FILES, {"/d/lds.yaml": b"resources: []"})
    numbers = [candidate.loaded.descriptors[path] for path in (KEY, CHAIN)]
    answers(candidate)["subscriptions"] = subscribed(listeners(rejected=1))
    answers(candidate)["rejections"] = [f"bad /dev/fd/{number}" for number in numbers]
    await examination(candidate, None, None, accuser).check()
    [(_, _, complaint)] = accuser.accused
    assert complaint.paths == {KEY, CHAIN}
    assert f"bad {KEY}; bad {CHAIN}" in complaint.text


@pytest.mark.parametrize(("said", "end"), [([], "see its log"), (["no"], ": no"), (["no", "nor"], ": no; nor")])
@virtual_time
async def test_why_it_refused_is_appended_to_a_message(make_epoch: MakeEpoch, said: list[str], end: str) -> None:
    candidate = make_epoch(number=2)
    answers(candidate)["rejections"] = said
    assert (await examination(candidate).why_refused()).endswith(end)


def test_without_an_epoch_that_serves_no_listener_is_missing(candidate: EpochProcess) -> None:
    of = examination(candidate, None, Sockets([ListenAddress("tcp://127.0.0.1:80")]))
    assert (of.missing_listeners(), of.described_listeners()) == ([], "")


# What the agent itself delivers


class Blames:
    """A bisection that finds `pins`."""

    def __init__(self, *pins: Pin) -> None:
        self.pins = pins

    async def accuse_delivered(self, _: EpochProcess, __: LoadedRevision) -> tuple[str, tuple[Pin, ...]]:
        return "weak key", self.pins


def delivered(make_epoch: MakeEpoch, *shown: Subscription) -> EpochProcess:
    """A candidate with a static configuration whose listeners come from the agent."""
    candidate = make_epoch(number=2)
    delivery, slots = SimpleNamespace(scopes=[LISTENERS], refused=()), SimpleNamespace(close=lambda: None)
    candidate.target = cast(Any, SimpleNamespace(delivery=delivery, slots=slots, paths={}))
    answers(candidate)["subscriptions"] = subscribed(*shown)
    return candidate


@virtual_time
async def test_what_the_agent_delivers_is_waited_for_though_the_configuration_is_static(make_epoch: MakeEpoch) -> None:
    waiting = delivered(make_epoch, listeners())
    assert [each.scope for each in await examination(waiting).missing()] == [LISTENERS]
    answers(waiting)["subscriptions"] = subscribed(listeners(applied=1))
    assert await examination(waiting).missing() == []
    assert await examination(waiting).check() is None


@virtual_time
@pytest.mark.parametrize("pinned", [True, False])
async def test_a_refused_delivery_is_the_fault_of_certificates_or_of_the_configuration(
    make_epoch: MakeEpoch, pinned: bool
) -> None:
    group = CertificateGroup(CHAIN, frozenset(), {CHAIN: b"x"}, (), ())
    pins = [Pin(group, CHAIN, "weak key")] if pinned else []
    candidate = delivered(make_epoch, listeners(rejected=1))
    failure = await replace(examination(candidate), bisection=cast(Any, Blames(*pins))).check()
    reason = str(pins[0].fault) if pins else ("cannot use /etc/envoy.yaml: true refuses its listeners: weak key")
    assert failure == Failure(FailureKind.PERMANENT, reason, pinned=pinned)


@virtual_time
async def test_without_a_bisection_a_refused_delivery_is_an_accident(make_epoch: MakeEpoch) -> None:
    failure = await replace(examination(delivered(make_epoch, listeners(rejected=1))), bisection=None).check()
    assert failure == Failure(FailureKind.TRANSIENT, "epoch 2 refuses its listeners")
