"""A push ends well only if it was applied and is served; any other end says what an operator can act upon."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from agent.certificates.groups import CertificateGroup, Pin
from agent.certificates.x509 import Leaf
from agent.core.errors import MachineError
from agent.core.events import Failure, FailureKind
from agent.handoff.socket_store import ListenAddress
from agent.inputs.revisions import LoadedRevision
from agent.inputs.settings import OnCertificate, Settings
from agent.processes import pushing as module
from agent.processes.bisection import Bisection
from agent.processes.epoch_process import EpochProcess
from agent.processes.pushing import Push, PushResult
from agent.proxies.envoy.subscriptions import LISTENERS
from agent.proxies.interface import Delivered
from agent.status.model import ProbeResult
from tests.processes.fakes import FakeAdmin
from tests.processes.pushed_into import CHAIN, KEY, Epoch, pushed_into, read
from tests.processes.virtual_time import now, virtual_time

GROUP = CertificateGroup(CHAIN, frozenset(), {CHAIN: b"x", KEY: b"y"}, (), ())
PLACE = ListenAddress("tcp://127.0.0.1:8443")
SERVED = ProbeResult(PLACE.address, "20", matches=True)
MIB = 1 << 20


class Accuser:
    """A bisection that finds `pins` for the reason `why`, or raises it."""

    def __init__(self) -> None:
        self.why: str | Exception = "see its log"
        self.pins: tuple[Pin, ...] = ()
        self.asked: list[LoadedRevision] = []

    async def accuse_delivered(self, _: EpochProcess, loaded: LoadedRevision) -> tuple[str, tuple[Pin, ...]]:
        """Accuse the groups that a test chose."""
        self.asked.append(loaded)
        if isinstance(self.why, Exception):
            raise self.why
        return self.why, self.pins


class Verification:
    """What a TLS client sees, in place of `verify_served`."""

    def __init__(self) -> None:
        self.seen: tuple[ProbeResult, ...] = (SERVED,)
        self.error: Exception | None = None
        self.asked: list[tuple[list[Leaf], list[ListenAddress]]] = []

    async def __call__(self, _: FakeAdmin, leaves: list[Leaf], named: list[ListenAddress]) -> tuple[ProbeResult, ...]:
        self.asked.append((leaves, named))
        if self.error is not None:
            raise self.error
        return self.seen


class Bed:
    """A push into an epoch whose admin interface answers as the test says."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.loaded = epoch.renewed()
        self.admin = FakeAdmin(epoch.revisions.program.binary.path)
        self.applies()
        self.accuser, self.pid = Accuser(), 4711
        self.memory: dict[int, int | None] = {}

    @property
    def _newest(self) -> str:
        delivery = self.epoch.target.delivery
        assert delivery is not None
        return str(delivery._offers[LISTENERS].version)  # type: ignore[attr-defined]

    def applies(self) -> None:
        """Let it apply whatever is sent."""
        self.admin.answers["deliveries"] = lambda: {LISTENERS: Delivered(self._newest, 0)}

    def refuses(self) -> None:
        """Let it refuse whatever is sent."""
        counts = iter(range(1000))
        self.admin.answers["deliveries"] = lambda: {LISTENERS: Delivered("old", next(counts))}

    async def push(
        self, loaded: LoadedRevision | None = None, *, restores: bool = False, prove: bool = True, mode: str = "push"
    ) -> PushResult:
        """Run a push."""
        process = SimpleNamespace(
            number=1, pid=self.pid, target=self.epoch.target, loaded=self.epoch.loaded, admin=self.admin
        )
        settings = SimpleNamespace(prove=prove, on_certificate=OnCertificate(mode))
        return await Push(
            cast("EpochProcess", process),
            loaded or self.loaded,
            restores,
            cast("Settings", settings),
            cast("Bisection", self.accuser),
        ).run()

    @property
    def offered(self) -> bytes:
        """The key that the process is to use."""
        return read(self.epoch.target.slots.offered[KEY])


@asynccontextmanager
async def bed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Bed, Verification]]:
    """Make one, in which time is the loop's."""
    verification = Verification()
    with pushed_into() as epoch, monkeypatch.context() as patched:
        made = Bed(epoch)
        patched.setattr(module, "verify_served", verification)
        patched.setattr(module, "clock", SimpleNamespace(monotonic=now))
        patched.setattr(module, "resident", made.memory.get)
        yield made, verification


def accident(result: PushResult) -> str:
    """Return the reason of a transient failure, without its beginning."""
    failure = result.failure
    assert failure is not None
    assert (failure.sort, failure.pinned) == (FailureKind.TRANSIENT, False)
    beginning = "certificates could not be pushed into epoch 1: "
    assert failure.reason.startswith(beginning)
    return failure.reason.removeprefix(beginning)


@virtual_time
async def test_a_push_that_is_applied_and_served_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, verification):
        result = await made.push()
        assert (result.failure, result.is_intact) == (None, False)
        assert list(result.phases) == ["apply", "verify"]
        assert made.offered == made.loaded.selection.files[KEY]
        [(leaves, named)] = verification.asked
        [group] = [each for each in made.loaded.selection.groups.values() if each.chains]
        assert (leaves, named) == ([group.chains[0].leaf], [PLACE])
        assert made.epoch.target.slots.used[KEY] == 0, "the commit follows"


@virtual_time
async def test_its_phases_are_how_long_it_took_to_apply_and_to_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, verification):
        began = now()
        made.admin.answers["deliveries"] = lambda: {
            LISTENERS: Delivered(made._newest if now() - began > 0.9 else "", 0)
        }
        result = await made.push()
        assert result.phases["apply"] == pytest.approx(0.9, abs=0.02)
        assert result.phases["verify"] == 0
        assert len(verification.asked) == 1


@virtual_time
async def test_without_proof_nothing_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, verification):
        assert (await made.push(prove=False)).failure is None
        assert verification.asked == []


@virtual_time
async def test_an_epoch_that_still_serves_the_old_certificate_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, verification):
        verification.seen = (SERVED, ProbeResult("tcp://127.0.0.1:9", "1f", matches=False))
        result = await made.push()
        assert accident(result) == "tcp://127.0.0.1:9 still serves the certificate with serial 1f"
        assert not result.is_intact
        assert list(result.phases) == ["apply", "verify"]


@virtual_time
async def test_an_address_that_cannot_be_reached_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, verification):
        verification.seen = (ProbeResult("tcp://127.0.0.1:9", None, matches=False, error="timed out"), SERVED)
        assert (await made.push()).failure is None


@virtual_time
async def test_an_epoch_that_does_not_apply_it_in_time_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, verification):
        made.admin.answers["deliveries"] = {}
        began = now()
        result = await made.push()
        assert now() - began == pytest.approx(5, abs=0.01)
        assert accident(result) == "it did not apply them within 5 s"
        assert (result.is_intact, verification.asked) == (False, [])


@virtual_time
@pytest.mark.parametrize("error", [MachineError("it does not answer"), OSError("it does not answer")])
async def test_an_epoch_that_does_not_answer_fails(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, _):
        made.admin.answers["deliveries"] = error
        result = await made.push()
        assert accident(result) == "it does not answer"
        assert not result.is_intact, "it may have received it"


@virtual_time
async def test_a_verification_that_fails_is_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, verification):
        verification.error = MachineError("it does not answer")
        assert accident(await made.push()) == "it does not answer"


@virtual_time
async def test_what_cannot_be_written_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, _):

        def refuse(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("os.pwrite", refuse)
            result = await made.push()
        assert accident(result).startswith("cannot store /c/tls.")
        assert (result.is_intact, made.admin.asked) == (True, [])


# Refused


@virtual_time
async def test_a_refusal_is_the_fault_of_the_groups_that_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, _):
        made.refuses()
        made.accuser.pins = (Pin(GROUP, KEY, "weak"), Pin(GROUP, CHAIN, "old"))
        result = await made.push()
        reason = "; ".join(str(pin.fault) for pin in made.accuser.pins)
        assert result.failure == Failure(FailureKind.PERMANENT, reason, pinned=True)
        assert KEY in reason
        assert not result.is_intact, "it may have been applied in part"
        assert made.accuser.asked == [made.loaded]


@virtual_time
async def test_a_refusal_without_a_culprit_is_left_to_a_new_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, _):
        made.refuses()
        assert accident(await made.push()) == f"true refuses {LISTENERS}: see its log"


@virtual_time
async def test_a_refusal_that_cannot_be_examined_is_left_to_a_new_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, _):
        made.refuses()
        made.accuser.why = MachineError("it did not end")
        assert accident(await made.push()) == f"true refuses {LISTENERS}: it did not end"


# Restored


@virtual_time
async def test_what_undoes_a_push_offers_what_is_used_and_sends_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, _):
        before = made.epoch.push()
        served, version = made.offered, made._newest
        made.admin.answers["deliveries"] = {}
        await made.push()
        assert made.offered != served
        made.applies()
        versions = {version, made._newest}
        assert (await made.push(before, restores=True)).failure is None
        assert made.offered == served == before.selection.files[KEY]
        assert made._newest not in versions, "even if it looks the same"


# Memory


@virtual_time
@pytest.mark.parametrize(
    ("first", "at_present", "mode", "is_pushed"),
    [
        (50 * MIB, 100 * MIB, "auto", False),
        (50 * MIB, 100 * MIB - 1, "auto", True),
        (50 * MIB, 100 * MIB, "push", True),
        (None, 100 * MIB, "auto", True),
        (50 * MIB, None, "auto", True),
    ],
    ids=["doubled", "less", "not to be chosen", "unknown at first", "unknown now"],
)
async def test_an_epoch_whose_memory_has_doubled_is_replaced_if_the_agent_may_choose(
    first: int | None, at_present: int | None, mode: str, is_pushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bed(monkeypatch) as (made, _):
        made.epoch.target.first_memory, made.memory[made.pid] = first, at_present
        result = await made.push(mode=mode)
        if is_pushed:
            assert result.failure is None
            return
        assert accident(result) == "it uses 100 MiB of memory, and 50 MiB when it began to serve"
        assert (result.is_intact, made.admin.asked) == (True, [])
        assert made.epoch.target.slots.offered[KEY] == made.epoch.loaded.descriptors[KEY], "nothing is written"
        restored = await made.push(made.epoch.loaded, restores=True, mode=mode)
        assert restored.failure is None, "what undoes a push is never refused"


@virtual_time
async def test_without_a_process_its_memory_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bed(monkeypatch) as (made, _):
        made.pid = cast("int", None)
        made.epoch.target.first_memory = 1
        assert (await made.push(mode="auto")).failure is None


def test_a_push_into_what_takes_none_is_a_bug() -> None:
    process = cast("EpochProcess", SimpleNamespace(target=None))
    push = Push(process, cast("LoadedRevision", None), False, cast("Settings", None), cast("Bisection", None))
    with pytest.raises(AssertionError, match="only into an epoch that takes pushes"):
        _ = push._target
