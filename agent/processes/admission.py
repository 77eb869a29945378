"""Checks at the gate whether a candidate is fully loaded and matches the validated files."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
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

_NAMED = 3  # maximum number of addresses in a message


class _NotYet(Exception):
    """The candidate is not fully loaded yet; the check is repeated."""


_RETRYING = AsyncRetrying(
    retry=retry_if_exception_type(_NotYet), wait=wait_exponential(multiplier=0.01, max=0.25), reraise=True
)


@dataclass(frozen=True, slots=True)
class Admission:
    """Checks one candidate.

    `serving` returns the serving epoch, if any; `bisection` finds the certificate groups at fault.
    """

    candidate: EpochProcess
    serving: Callable[[], EpochProcess | None]
    listeners: Listeners
    bisection: Bisection | None = None

    @property
    def _kind(self) -> Proxy:
        return self.candidate.loaded.program.kind

    async def check(self) -> Failure | None:
        """Wait until the candidate is fully loaded; return why it fails, or None if it passes.

        Raises `MachineError` if it does not respond. A candidate at the gate has requested the gate's routes, but sets
        of listeners and clusters, secrets and other routes may still be loading. The start deadline limits the wait,
        not this function.
        """
        if self.serving() is None and self._is_static:
            return None  # nothing to wait for, and no serving epoch to compare it with

        async def check() -> Failure | None:
            return await self._check()

        return await _RETRYING.copy()(check)

    @property
    def _is_static(self) -> bool:
        """Whether the candidate is fully loaded without fetching any resource, not even from the agent."""
        return self.candidate.loaded.configuration.is_static and not self._delivered

    @property
    def _delivered(self) -> Collection[str]:
        """The scopes of what the agent itself delivers to the candidate."""
        delivery = self.candidate.delivery
        return () if delivery is None else delivery.scopes

    @property
    def _refused_unseen(self) -> Sequence[Subscription]:
        """The agent's own deliveries that the candidate refuses, as its requests at the gate tell."""
        delivery = self.candidate.delivery
        return () if delivery is None else delivery.refused

    async def _check(self) -> Failure | None:
        """Check it once; raise `_NotYet` while the result may still change."""
        if missing := await self.missing():
            return await self._refused(missing)
        admin = self.candidate.admin
        whole, certificates = await asyncio.gather(admin.waits_only_for_gate(), admin.certificates())
        if not whole:
            raise _NotYet
        return self._wrong_certificate(certificates) or await self._missing_listener()

    async def missing(self) -> list[Subscription]:
        """Return the subscriptions that it needs and has not applied. Raises `MachineError`."""
        if self._is_static:
            return []
        found = await self.candidate.admin.subscriptions()
        hidden = {*self.candidate.loaded.configuration.sets, *self._delivered} - found.keys()
        if all(each.applied for each in found.values()) and not hidden and _shows_secrets(found):
            return []
        if refused := [each for each in self._refused_unseen if each.scope in hidden]:
            return refused
        served = await self._served()
        if needed := self._kind.missing(found, served):
            return needed
        secrets = not _shows_secrets(found) and not _shows_secrets(served)
        return await self._missing_unseen(hidden, secrets=secrets) if hidden or secrets else []

    async def unanswered(self) -> list[Subscription]:
        """Return the subscriptions without an update: it may wait for the endpoints of a cluster before it listens."""
        found = (await self.candidate.admin.subscriptions()).values()
        return [each for each in found if not (each.applied or each.given_up)]

    async def _served(self) -> Subscriptions:
        """Return the serving epoch's subscriptions, or none if it hangs.

        With none, the candidate needs every essential subscription.
        """
        serving = self.serving()
        with contextlib.suppress(MachineError):
            return {} if serving is None else await serving.admin.subscriptions()
        return {}

    async def _missing_unseen(self, hidden: Collection[str], *, secrets: bool) -> list[Subscription]:
        """Find missing subscriptions whose counters the operator hides: sets, or `secrets`.

        If an epoch with the same configuration serves, the candidate must have loaded as many fetched certificates.
        """
        serving, admin, loaded = self.serving(), self.candidate.admin, self.candidate.loaded
        if serving is None:
            unseen = [each for each in await admin.unseen() if loaded.configuration.source_of(each) is None]
            return [each for each in unseen if (secrets if each.secret else each.scope in hidden)]
        if serving.loaded.revision.config_digest != loaded.revision.config_digest:
            return []
        try:
            before = await serving.admin.certificates()
        except MachineError:
            return []  # the serving epoch hangs
        lacks = sum(map(_is_fetched, await admin.certificates())) < sum(map(_is_fetched, before))
        return [Subscription("certificates", "certificates")] if lacks else []

    async def _refused(self, missing: Iterable[Subscription]) -> Failure | None:
        """Return a failure for a rejected subscription; raise `_NotYet` to keep waiting.

        The wait continues if none is rejected, or if nothing serves and a control plane may correct its update.
        """
        refused = next((each for each in missing if each.is_refused), None)
        if refused is None:
            raise _NotYet
        if refused.scope in self._delivered:
            return await self._refused_delivery(refused)
        source = self.candidate.loaded.configuration.source_of(refused)
        if source is None and self.serving() is None:
            raise _NotYet
        if source is not None:
            return await self._verdict(source, refused)
        why = await self.why_refused()
        planes = self.candidate.loaded.configuration.control_planes
        plane = f" of the control plane {' or '.join(planes)}" if planes else ""
        return Failure(FailureKind.TRANSIENT, f"epoch {self.candidate.number} refuses {refused}{plane}{why}")

    async def _refused_delivery(self, refused: Subscription) -> Failure:
        """Blame the certificate groups at fault in what the agent delivered, or else the configuration."""
        loaded = self.candidate.loaded
        program = loaded.program.binary.path.name
        if self.bisection is None:
            return Failure(FailureKind.TRANSIENT, f"epoch {self.candidate.number} refuses {refused}")
        why, pins = await self.bisection.accuse_delivered(self.candidate, loaded)
        named = "; ".join(str(pin.fault) for pin in pins)
        reason = named or f"cannot use {loaded.configuration.name}: {program} refuses {refused}: {why}"
        return Failure(FailureKind.PERMANENT, reason, pinned=bool(pins))

    async def _verdict(self, source: str, refused: Subscription) -> Failure:
        """Blame the certificate groups at fault in a resource file, or else the file itself."""
        complaint = await self._complaint()
        program = self.candidate.loaded.program.binary.path.name
        pins: tuple[Pin, ...] = ()
        if self.bisection is not None:
            said = f"{program} refuses {refused} in {source}{_behind(complaint)}"
            pins = self.bisection.accuse_in(source, self.candidate, replace(complaint, text=said))
        named = "; ".join(str(pin.fault) for pin in pins)
        reason = named or f"cannot use {source}: {program} refuses {refused} in it{_behind(complaint)}"
        return Failure(FailureKind.PERMANENT, reason, pinned=bool(pins))

    async def why_refused(self) -> str:
        """Return the candidate's reasons for a rejection, to append to a message; secrets have none."""
        return _behind(await self._complaint())

    async def _complaint(self) -> Complaint:
        texts, paths = await self.candidate.admin.rejections(), self.candidate.paths
        said = [self._kind.rejection(text, paths) for text in texts]
        return Complaint("; ".join(each.text for each in said), frozenset().union(*(each.paths for each in said)))

    def _wrong_certificate(self, certificates: Iterable[LoadedCertificate]) -> Failure | None:
        """Return a failure if a certificate loaded from a memfd is not the one written there."""
        loaded = self.candidate.loaded
        expected = {
            f"/dev/fd/{loaded.descriptors[chain.path]}": chain
            for group in loaded.selection.groups.values()
            for chain in group.chains
        }
        for certificate in certificates:
            chain = expected.get(certificate.path)
            if chain is not None and certificate.serial not in {each.serial_number for each in chain.certificates}:
                reason = f"it loaded serial {certificate.serial:x} where {chain.path} has {chain.leaf.serial_hex}"
                return Failure(FailureKind.TRANSIENT, f"epoch {self.candidate.number} loaded other files: {reason}")
        return None

    async def _missing_listener(self) -> Failure | None:
        """Return a failure if it did not request an address that is served and still configured."""
        serving = self.serving()
        if serving is None or not self.missing_listeners():
            return None
        if not self.candidate.loaded.configuration.has_dynamic_listeners:
            reason = f"epoch {self.candidate.number} does not listen on {self.described_listeners()}, which serves now"
            return Failure(FailureKind.TRANSIENT, reason)
        await self.listeners.follow(serving)  # its control plane may have removed a listener, or be about to add one
        if self.missing_listeners():
            raise _NotYet
        return None

    def missing_listeners(self) -> list[ListenAddress]:
        """Return the serving epoch's listeners that the candidate should have and does not."""
        serving = self.serving()
        return [] if serving is None else self.listeners.missing(self.candidate, serving.loaded.configuration)

    def described_listeners(self) -> str:
        """Return the first missing listeners and the number of further ones, as text."""
        missing = self.missing_listeners()
        names = ", ".join(place.address for place in missing[:_NAMED])
        return names + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")


def _behind(complaint: Complaint) -> str:
    return f": {complaint.text}" if complaint.text else "; see its log"


def _shows_secrets(found: Subscriptions) -> bool:
    return any(each.secret for each in found.values())


def _is_fetched(certificate: LoadedCertificate) -> bool:
    """Return whether a certificate came from a source other than a materialised file."""
    return not certificate.path.startswith("/dev/fd/")
