"""The examination at the gate: whether a candidate is whole, and is what was judged good on the disk."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from agent.certificates.groups import Pin
from agent.core.errors import MachineError
from agent.core.events import Failure, FailureKind
from agent.handoff.socket_store import ListenAddress
from agent.processes.bisection import Bisection
from agent.processes.epoch_process import EpochProcess
from agent.processes.listeners import Listeners
from agent.proxies.interface import Complaint, LoadedCertificate, Proxy, Subscription, Subscriptions

_NAMED = 3  # so many addresses are named


class _NotYet(Exception):
    """It is not whole yet: it is asked again."""


_RETRYING = AsyncRetrying(
    retry=retry_if_exception_type(_NotYet), wait=wait_exponential(multiplier=0.01, max=0.25), reraise=True
)


@dataclass(frozen=True, slots=True)
class Admission:
    """Examines one candidate. `serving` returns the epoch that serves, if any; `bisection` finds groups at fault."""

    candidate: EpochProcess
    serving: Callable[[], EpochProcess | None]
    listeners: Listeners
    bisection: Bisection | None = None

    @property
    def _kind(self) -> Proxy:
        return self.candidate.material.program.kind

    async def check(self) -> Failure | None:
        """Wait until the candidate is whole; None if it is good. Raises `MachineError` if it does not answer.

        To reach the gate means that its own routes are asked for, not that the rest has come: sets of listeners and
        clusters, secrets and routes may still be on their way. The start deadline ends the wait, not this function.
        """
        if self.serving() is None and self.candidate.material.configuration.is_static:
            return None  # there is nothing to wait for, and nothing to compare with

        async def check() -> Failure | None:
            return await self._check()

        return await _RETRYING.copy()(check)

    async def _check(self) -> Failure | None:
        """Examine it once; raise `_NotYet` where the answer may still change."""
        if missing := await self.missing():
            return await self._refused(missing)
        admin = self.candidate.admin
        whole, loaded = await asyncio.gather(admin.waits_only_for_gate(), admin.certificates())
        if not whole:
            raise _NotYet
        return self._wrong_certificate(loaded) or await self._missing_listener()

    async def missing(self) -> list[Subscription]:
        """Return what it fetches and has not applied, as far as it needs that. Raises `MachineError`."""
        configuration = self.candidate.material.configuration
        if configuration.is_static:
            return []
        found = await self.candidate.admin.subscriptions()
        hidden = configuration.sets.keys() - found.keys()
        if all(each.applied for each in found.values()) and not hidden and _shows_secrets(found):
            return []
        served = await self._served()
        if needed := self._kind.missing(found, served):
            return needed
        secrets = not _shows_secrets(found) and not _shows_secrets(served)
        return await self._missing_unseen(hidden, secrets=secrets) if hidden or secrets else []

    async def _served(self) -> Subscriptions:
        """Return the serving epoch's subscriptions; none where it hangs: then whatever is essential is needed."""
        serving = self.serving()
        with contextlib.suppress(MachineError):
            return {} if serving is None else await serving.admin.subscriptions()
        return {}

    async def _missing_unseen(self, hidden: Collection[str], *, secrets: bool) -> list[Subscription]:
        """Where the operator hides the counters of sets or `secrets`, what else the console tells counts.

        Of the same configuration it should have loaded as many certificates as the epoch that serves.
        """
        serving, admin, material = self.serving(), self.candidate.admin, self.candidate.material
        if serving is None:
            unseen = [each for each in await admin.unseen() if material.configuration.source_of(each) is None]
            return [each for each in unseen if (secrets if each.secret else each.scope in hidden)]
        if serving.material.revision.config_digest != material.revision.config_digest:
            return []
        try:
            before = await serving.admin.certificates()
        except MachineError:
            return []  # it hangs
        lacks = sum(map(_is_fetched, await admin.certificates())) < sum(map(_is_fetched, before))
        return [Subscription("certificates", "certificates")] if lacks else []

    async def _refused(self, missing: Iterable[Subscription]) -> Failure | None:
        """End the wait for what the candidate refused, unless nothing serves and its control plane may mend it."""
        refused = next((each for each in missing if each.is_refused), None)
        if refused is None:
            raise _NotYet
        source = self.candidate.material.configuration.source_of(refused)
        if source is None and self.serving() is None:
            raise _NotYet
        if source is not None:
            return await self._verdict(source, refused)
        why = await self.why_refused()
        planes = self.candidate.material.configuration.control_planes
        plane = f" of the control plane {' or '.join(planes)}" if planes else ""
        return Failure(FailureKind.TRANSIENT, f"epoch {self.candidate.number} refuses {refused}{plane}{why}")

    async def _verdict(self, source: str, refused: Subscription) -> Failure:
        """Blame the groups of certificates at fault for what a file of resources brought, or else the file."""
        complaint = await self._complaint()
        program = self.candidate.material.program.binary.path.name
        pins: tuple[Pin, ...] = ()
        if self.bisection is not None:
            said = f"{program} refuses {refused} in {source}{_behind(complaint)}"
            pins = self.bisection.accuse_in(source, self.candidate, replace(complaint, text=said))
        named = "; ".join(str(pin.fault) for pin in pins)
        reason = named or f"cannot use {source}: {program} refuses {refused} in it{_behind(complaint)}"
        return Failure(FailureKind.PERMANENT, reason, pinned=bool(pins))

    async def why_refused(self) -> str:
        """Return the candidate's reasons for a refusal, to be put behind a statement; of secrets it gives none."""
        return _behind(await self._complaint())

    async def _complaint(self) -> Complaint:
        texts, paths = await self.candidate.admin.rejections(), self.candidate.material.paths
        said = [self._kind.rejection(text, paths) for text in texts]
        return Complaint("; ".join(each.text for each in said), frozenset().union(*(each.paths for each in said)))

    def _wrong_certificate(self, loaded: Iterable[LoadedCertificate]) -> Failure | None:
        """What it has loaded from memory must be what was put there."""
        material = self.candidate.material
        expected = {
            f"/dev/fd/{material.descriptors[chain.path]}": chain
            for unit in material.outcome.units.values()
            for chain in unit.chains
        }
        for certificate in loaded:
            chain = expected.get(certificate.path)
            if chain is not None and certificate.serial not in {each.serial_number for each in chain.certificates}:
                reason = f"it loaded serial {certificate.serial:x} where {chain.path} has {chain.leaf.serial_hex}"
                return Failure(FailureKind.TRANSIENT, f"epoch {self.candidate.number} is not what was judged: {reason}")
        return None

    async def _missing_listener(self) -> Failure | None:
        """It must have asked for every address that is served now and still wanted."""
        serving = self.serving()
        if serving is None or not self.missing_listeners():
            return None
        if not self.candidate.material.configuration.has_dynamic_listeners:
            reason = f"epoch {self.candidate.number} does not listen on {self.described_listeners()}, which serves now"
            return Failure(FailureKind.TRANSIENT, reason)
        await self.listeners.follow(serving)  # its control plane may have taken a listener away, or be about to add one
        if self.missing_listeners():
            raise _NotYet
        return None

    def missing_listeners(self) -> list[ListenAddress]:
        """The listeners that the serving epoch has and the candidate has not, though it should."""
        serving = self.serving()
        return [] if serving is None else self.listeners.missing(self.candidate, serving.material.configuration)

    def described_listeners(self) -> str:
        """The first of them, and how many more there are."""
        missing = self.missing_listeners()
        names = ", ".join(place.address for place in missing[:_NAMED])
        return names + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")


def _behind(complaint: Complaint) -> str:
    return f": {complaint.text}" if complaint.text else "; its log tells why"


def _shows_secrets(found: Subscriptions) -> bool:
    return any(each.secret for each in found.values())


def _is_fetched(certificate: LoadedCertificate) -> bool:
    """Whether it came by no file that was materialised."""
    return not certificate.path.startswith("/dev/fd/")
