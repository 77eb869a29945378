"""Where everything that can be shown of the agent is seen together: the overview, made when somebody asks."""

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from agent.certificates.findings import Rejection
from agent.certificates.groups import CertificateGroup
from agent.certificates.names import named
from agent.certificates.references import Role
from agent.certificates.selection import Selection
from agent.certificates.x509 import Bundle, Leaf
from agent.core.epochs import Epoch, State
from agent.core.events import FailureKind
from agent.core.policy import Policy
from agent.core.reconciler import Reconciler
from agent.host import clock
from agent.host.memory import resident
from agent.inputs.watch import InputWatcher
from agent.processes.stage import ProcessTable
from agent.status.model import (
    Authorities,
    Blocked,
    CertificateSet,
    EpochView,
    Facts,
    ListenerView,
    RejectedFile,
    Status,
)
from agent.supervisor.history import History


class Sights(Protocol):
    """What is looked at: the supervisor, seen from here."""

    @property
    def core(self) -> Reconciler:
        """Who decides."""

    @property
    def stage(self) -> ProcessTable:
        """The epochs alive."""

    @property
    def disk(self) -> InputWatcher:
        """What lies there."""

    @property
    def history(self) -> History:
        """What has happened."""

    @property
    def hung(self) -> bool:
        """Whether what serves answers nobody."""

    def why_not_ready(self) -> str:
        """Empty if it is."""

    def sentence(self) -> str:
        """What goes on."""


class StatusBuilder:
    """Makes overviews; remembers since when things have been as they are, for which it is told of every change."""

    def __init__(self, sights: Sights, policy: Policy, version: str) -> None:
        self._sights = sights
        self._policy = policy
        self._version = version
        self._started_at = clock.calendar()
        self._since: dict[int, tuple[State, datetime]] = {}
        self._out_of_sync_since: datetime | None = None

    def note(self) -> None:
        """Something may have changed."""
        epochs = self._sights.core.epochs
        for gone in self._since.keys() - epochs.keys():
            del self._since[gone]
        for number, epoch in epochs.items():
            if number not in self._since or self._since[number][0] is not epoch.state:
                self._since[number] = (epoch.state, clock.calendar())
        if not self._is_out_of_sync():
            self._out_of_sync_since = None
        elif self._out_of_sync_since is None:
            self._out_of_sync_since = clock.calendar()

    def _is_out_of_sync(self) -> bool:
        core, intake = self._sights.core, self._sights.disk.intake
        if core.serving is None or core.serving.revision != core.wish.wanted or core.wish.refused is not None:
            return True
        return bool(intake.reports.refusals) or any(intake.complaints())

    def overview(self) -> Status:
        """Look at everything."""
        core, reason = self._sights.core, self._sights.why_not_ready()
        self.note()
        names = self._names()
        refused = self._refused(names)
        return Status(
            at=clock.calendar(),
            version=self._version,
            pid=os.getpid(),
            started_at=self._started_at,
            ready=not reason,
            reason=reason,
            sentence=self._sights.sentence(),
            epoch=None if core.serving is None else core.serving.number,
            epochs=tuple(self._epoch(each) for each in sorted(core.epochs.values(), key=lambda each: each.number)),
            certificates=tuple(self._certificates(names)),
            refused=tuple(refused),
            blocked=tuple(dict.fromkeys(self._blocked(refused))),
            listeners=tuple(self._listeners()),
            rotations=self._sights.history.views(),
            out_of_sync_since=self._out_of_sync_since,
            paused_until=self._calendar(core.wish.paused_until) if self._is_paused() else None,
            watch=self._sights.disk.mode,
            hung=self._sights.hung,
        )

    @staticmethod
    def _calendar(at: float) -> datetime:
        return clock.calendar() + timedelta(seconds=at - clock.monotonic())

    # Epochs

    def _epoch(self, epoch: Epoch) -> EpochView:
        living = self._sights.stage.living.get(epoch.number)
        return EpochView(
            number=epoch.number,
            state=epoch.state.word,
            stage=epoch.state.value,
            revision=epoch.revision.name,
            pid=epoch.pid,
            started_at=self._calendar(epoch.started_at),
            since=self._since[epoch.number][1],
            deadline=None if epoch.deadline is None else self._calendar(epoch.deadline),
            connections=None if living is None else living.clients,
            connections_at_first=None if living is None else living.clients_at_first,
            memory=None if epoch.pid is None else resident(epoch.pid),
            serials=()
            if living is None
            else tuple(leaf.serial_hex for leaf in living.material.outcome.leaves.values()),
            awaits=epoch.awaits,
        )

    def _listeners(self) -> Iterator[ListenerView]:
        vault = self._sights.stage.ports.vault
        for listener in sorted(vault.listeners()):
            places = [place for place in vault.places() if place.listener == listener]
            queue = sum(map(vault.queued, places)) if listener.address.startswith("tcp://") else None
            yield ListenerView(listener.address, len(places), queue)

    # Certificates

    def _certificates(self, names: Mapping[str, str]) -> Iterator[CertificateSet]:
        disk, served, refused = self._sights.disk.intake.outcome, self._served(), self._refusals()
        units = {**({} if disk is None else disk.units), **served}
        for unit in sorted(names):
            yield _set(names[unit], units.get(unit), served.get(unit), _found(disk, unit), refused.get(unit))

    def _served(self) -> Mapping[str, CertificateGroup]:
        serving = self._sights.stage.serving
        return {} if serving is None else serving.material.outcome.units

    def _names(self) -> dict[str, str]:
        """What each set is called that there is anywhere."""
        disk = self._sights.disk.intake.outcome
        return named({*self._served(), *({} if disk is None else disk.units), *self._refusals()})

    def _refusals(self) -> dict[str, Rejection]:
        return {each.unit: each for each in reversed(self._sights.disk.intake.reports.refusals)}

    def _refused(self, names: Mapping[str, str]) -> list[RejectedFile]:
        intake, wish = self._sights.disk.intake, self._sights.core.wish
        refusals = intake.reports.refusals
        found = [RejectedFile(each.path, each.fault.value, each.message, names[each.unit]) for each in refusals]
        found += [RejectedFile(path, reason, message) for path, reason, message in intake.complaints()]
        said = {each.message for each in found}
        if wish.refused is not None and wish.refused.reason not in said:
            found.append(RejectedFile(intake.configuration_name, "proxy", wish.refused.reason))
        return found

    # What is waited for

    def _is_paused(self) -> bool:
        return self._sights.core.wish.paused_until > clock.monotonic()

    def _blocked(self, refused: Iterable[RejectedFile]) -> Iterator[Blocked]:
        for each in refused:
            yield _REASONS.get(each.reason, Blocked.REFUSED_FILES)
        core = self._sights.core
        if core.serving is None or core.serving.revision == core.wish.wanted or core.candidate is not None:
            return
        if core.last_failure is not None and core.last_failure.sort is not FailureKind.VERDICT:
            yield Blocked.MEMORY if core.last_failure.sort is FailureKind.SHORTAGE else Blocked.RETRY
        if len(core.draining) >= self._policy.drains:
            yield Blocked.DRAINS
        if self._is_paused():
            yield Blocked.PAUSED
        if core.wish.not_before > clock.monotonic():
            yield self._sights.disk.timing.blocked


_REASONS = {
    "configuration": Blocked.REFUSED_CONFIGURATION,
    "proxy": Blocked.REFUSED_BY_PROXY,
    "program": Blocked.REFUSED_PROGRAM,
}


def _found(disk: Selection | None, unit: str) -> Leaf | None:
    return None if disk is None else disk.found.get(unit)


def _set(
    name: str,
    unit: CertificateGroup | None,
    served: CertificateGroup | None,
    found: Leaf | None,
    refusal: Rejection | None,
) -> CertificateSet:
    leaf = None if served is None else served.leaf
    return CertificateSet(
        name=name,
        chain=_path(unit, Role.CHAIN),
        key=_path(unit, Role.KEY),
        served=None if leaf is None else Facts.of(leaf),
        disk=None if found is None else Facts.of(found),
        bundles=() if served is None else tuple(map(_authorities, served.bundles)),
        in_sync=refusal is None and leaf == found,
        refused="" if refusal is None else refusal.message,
    )


def _path(unit: CertificateGroup | None, role: Role) -> str | None:
    found: Iterable[str] = () if unit is None else sorted(each.path for each in unit.references if each.role is role)
    return next(map(_whole, found), None)


def _whole(path: str) -> str:
    """Whoever reads it may be in another directory."""
    return str(Path(path).absolute())


def _authorities(bundle: Bundle) -> Authorities:
    ends = [each.not_valid_after_utc for each in bundle.certificates]
    return Authorities(_whole(bundle.path), len(ends), min(ends, default=None))
