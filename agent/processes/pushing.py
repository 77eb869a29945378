"""Pushes certificates into a running epoch: sent, applied, served, each verified before the next."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.errors import MachineError
from agent.core.events import Failure, FailureKind
from agent.host import clock
from agent.host.memory import resident
from agent.inputs.revisions import LoadedRevision
from agent.inputs.settings import OnCertificate, Settings
from agent.processes.bisection import Bisection
from agent.processes.epoch_process import EpochProcess
from agent.processes.push_target import PushTarget
from agent.processes.verify_served import verify_served
from agent.proxies.interface import PushRefusedError
from agent.status.model import ProbeResult

_TIMEOUT = 5.0  # seconds in which an epoch applies a push
_MIB = 1 << 20
_GROWTH = 2  # an epoch that uses so many times its first memory is replaced rather than pushed into


@dataclass(frozen=True, slots=True)
class PushResult:
    """The result of one push; see `EpochPushed`."""

    failure: Failure | None = None
    is_intact: bool = False
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Push:
    """One push of `loaded` into `epoch`.

    `restores`: send everything, to undo an earlier push. `bisection` finds the certificate groups that the proxy
    refuses.
    """

    epoch: EpochProcess
    loaded: LoadedRevision
    restores: bool
    settings: Settings
    bisection: Bisection

    async def run(self) -> PushResult:
        """Push; the result tells how it ended."""
        if (grown := self._has_grown()) is not None:
            return PushResult(self._accident(grown), is_intact=True)
        try:
            self._write()
        except MachineError as error:
            return PushResult(self._accident(str(error)), is_intact=True)
        try:
            return await self._send()
        except PushRefusedError as refused:
            return PushResult(await self._refused(refused.scope))
        except TimeoutError:
            return PushResult(self._accident(f"it did not apply them within {_TIMEOUT:g} s"))
        except (MachineError, OSError) as error:
            return PushResult(self._accident(str(error)))

    @property
    def _target(self) -> PushTarget:
        assert self.epoch.target is not None, "the reconciler pushes only into an epoch that takes pushes"
        return self.epoch.target

    def _write(self) -> None:
        if self.restores:
            self._target.slots.restore()
        else:
            self._target.write(self.loaded, self.epoch.loaded)

    async def _send(self) -> PushResult:
        """Deliver, and verify what is served. Raises as `Delivery.push`, and TimeoutError."""
        began = clock.monotonic()
        async with asyncio.timeout(_TIMEOUT):
            await self._target.deliver(self.epoch.admin, self.loaded, again=self.restores)
        applied = clock.monotonic()
        seen = await self._verify()
        phases = {"apply": applied - began, "verify": clock.monotonic() - applied}
        wrong = next((each for each in seen if not each.matches and not each.error), None)
        if wrong is None:
            return PushResult(phases=phases)
        failure = self._accident(f"{wrong.address} still serves the certificate with serial {wrong.serial}")
        return PushResult(failure, phases=phases)

    async def _verify(self) -> tuple[ProbeResult, ...]:
        if not self.settings.prove:
            return ()
        named = [each.place for each in self.loaded.configuration.listeners]
        return await verify_served(self.epoch.admin, self.loaded.selection.served_leaves, named)

    def _has_grown(self) -> str | None:
        """Return why a new epoch is preferred, if the operator leaves the choice to the agent."""
        if self.settings.on_certificate is not OnCertificate.AUTO or self.restores or self.epoch.pid is None:
            return None
        now, first = resident(self.epoch.pid), self._target.first_memory
        if now is None or first is None or now < _GROWTH * first:
            return None
        return f"it uses {now / _MIB:.0f} MiB of memory, and {first / _MIB:.0f} MiB when it began to serve"

    def _accident(self, why: str) -> Failure:
        number = self.epoch.number
        return Failure(FailureKind.TRANSIENT, f"certificates could not be pushed into epoch {number}: {why}")

    async def _refused(self, scope: str) -> Failure:
        """Blame the certificate groups that the proxy refuses; without a culprit, a new epoch has to show it."""
        refuses = f"{self.loaded.program.binary.path.name} refuses {scope}"
        try:
            why, pins = await self.bisection.accuse_delivered(self.epoch, self.loaded)
        except MachineError as error:
            return self._accident(f"{refuses}: {error}")
        if not pins:
            return self._accident(f"{refuses}: {why}")
        return Failure(FailureKind.PERMANENT, "; ".join(str(pin.fault) for pin in pins), pinned=True)
