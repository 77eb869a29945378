"""Builds the status snapshot."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from agent.certificates.findings import Rejection
from agent.certificates.groups import CertificateGroup
from agent.certificates.names import named
from agent.certificates.references import Role
from agent.certificates.selection import Selection
from agent.certificates.x509 import Bundle, Leaf
from agent.core.desired import BlockedReason
from agent.core.epochs import Epoch, State
from agent.host import clock
from agent.host.memory import resident
from agent.host.processes import host_name, own_pid
from agent.processes.hang_detector import HangDetector
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
from agent.supervisor.service import Service
from agent.supervisor.summary import Summary


class StatusBuilder:
    """Builds snapshots. `note` is called after every event, to record when each state began."""

    def __init__(
        self,
        service: Service,
        history: History,
        summary: Summary,
        hang_detector: HangDetector,
        version: str,
    ) -> None:
        self._core = service.core
        self._processes = service.processes
        self._inputs = service.inputs
        self._history = history
        self._summary = summary
        self._hang_detector = hang_detector
        self._version = version
        self._started_at = clock.calendar()
        self._since: dict[int, tuple[State, datetime]] = {}
        self._out_of_sync_since: datetime | None = None

    def note(self) -> None:
        """Record the time of each change of state."""
        epochs = self._core.epochs
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
        """Return whether something else serves than what is on disk; a load that still runs changes nothing."""
        core = self._core
        if core.serving is None or core.serving.revision != core.desired.wanted or core.desired.refused is not None:
            return True
        return not self._inputs.is_usable

    def build(self) -> Status:
        """Return a snapshot."""
        core, reason = self._core, self._summary.why_not_ready()
        self.note()
        names = self._names()
        refused = self._refused(names)
        return Status(
            at=clock.calendar(),
            version=self._version,
            pid=own_pid(),
            started_at=self._started_at,
            ready=not reason,
            reason=reason,
            sentence=self._summary.sentence(),
            epoch=None if core.serving is None else core.serving.number,
            epochs=tuple(self._epoch(each) for each in sorted(core.epochs.values(), key=lambda each: each.number)),
            certificates=tuple(self._certificates(names)),
            refused=tuple(refused),
            blocked=tuple(dict.fromkeys(self._blocked(refused))),
            listeners=tuple(self._listeners()),
            rotations=self._history.views(),
            out_of_sync_since=self._out_of_sync_since,
            paused_until=self._calendar(core.desired.paused_until) if self._is_paused() else None,
            watch=self._inputs.mode,
            hung=self._hang_detector.hung,
            host=host_name(),
        )

    @staticmethod
    def _calendar(at: float) -> datetime:
        return clock.calendar() + timedelta(seconds=at - clock.monotonic())

    # Epochs

    def _epoch(self, epoch: Epoch) -> EpochView:
        process = self._processes.epochs.get(epoch.number)
        return EpochView(
            number=epoch.number,
            state=epoch.state.word,
            stage=epoch.state.value,
            revision=epoch.revision.name,
            pid=epoch.pid,
            started_at=self._calendar(epoch.started_at),
            since=self._since[epoch.number][1],
            pushes=epoch.pushes,
            deadline=None if epoch.deadline is None else self._calendar(epoch.deadline),
            connections=None if process is None else process.clients,
            connections_at_first=None if process is None else process.clients_at_first,
            memory=None if epoch.pid is None else resident(epoch.pid),
            serials=()
            if process is None
            else tuple(leaf.serial_hex for leaf in process.loaded.selection.leaves.values()),
            awaits=epoch.awaits,
        )

    def _listeners(self) -> Iterator[ListenerView]:
        store = self._processes.listeners.store
        for listener in sorted(store.listeners()):
            places = [place for place in store.places() if place.listener == listener]
            queue = sum(map(store.queued, places)) if listener.address.startswith("tcp://") else None
            yield ListenerView(listener.address, len(places), queue)

    # Certificates

    def _certificates(self, names: Mapping[str, str]) -> Iterator[CertificateSet]:
        disk, served, refused = self._inputs.loader.selection, self._served(), self._refusals()
        groups = {**({} if disk is None else disk.groups), **served}
        for group in sorted(names):
            yield _set(names[group], groups.get(group), served.get(group), _found(disk, group), refused.get(group))

    def _served(self) -> Mapping[str, CertificateGroup]:
        serving = self._processes.serving
        return {} if serving is None else serving.loaded.selection.groups

    def _names(self) -> dict[str, str]:
        """Return the display name of each certificate group, served, on disk or refused."""
        disk = self._inputs.loader.selection
        return named({*self._served(), *({} if disk is None else disk.groups), *self._refusals()})

    def _refusals(self) -> dict[str, Rejection]:
        return {each.group: each for each in reversed(self._inputs.loader.reports.refusals)}

    def _refused(self, names: Mapping[str, str]) -> list[RejectedFile]:
        loader, desired = self._inputs.loader, self._core.desired
        refusals = loader.reports.refusals
        found = [RejectedFile(each.path, each.fault.value, each.message, names[each.group]) for each in refusals]
        found += [RejectedFile(path, reason, message) for path, reason, message in loader.complaints()]
        said = {each.message for each in found}
        if desired.refused is not None and desired.refused.reason not in said:
            found.append(RejectedFile(loader.configuration_name, "proxy", desired.refused.reason))
        return found

    # Blocked reasons

    def _is_paused(self) -> bool:
        return self._core.desired.paused_until > clock.monotonic()

    def _blocked(self, refused: Iterable[RejectedFile]) -> Iterator[Blocked]:
        for each in refused:
            yield _REASONS.get(each.reason, Blocked.REFUSED_FILES)
        for reason in self._core.blocked_reasons(clock.monotonic()):
            yield self._inputs.timing.blocked if reason is BlockedReason.SCHEDULE else Blocked(reason.value)


_REASONS = {
    "configuration": Blocked.REFUSED_CONFIGURATION,
    "proxy": Blocked.REFUSED_BY_PROXY,
    "program": Blocked.REFUSED_PROGRAM,
}


def _found(disk: Selection | None, group: str) -> Leaf | None:
    return None if disk is None else disk.found.get(group)


def _set(
    name: str,
    group: CertificateGroup | None,
    served: CertificateGroup | None,
    found: Leaf | None,
    refusal: Rejection | None,
) -> CertificateSet:
    leaf = None if served is None else served.leaf
    return CertificateSet(
        name=name,
        chain=_path(group, Role.CHAIN),
        key=_path(group, Role.KEY),
        served=None if leaf is None else Facts.of(leaf),
        disk=None if found is None else Facts.of(found),
        bundles=() if served is None else tuple(map(_authorities, served.bundles)),
        in_sync=refusal is None and leaf == found,
        refused="" if refusal is None else refusal.message,
    )


def _path(group: CertificateGroup | None, role: Role) -> str | None:
    found: Iterable[str] = () if group is None else sorted(each.path for each in group.references if each.role is role)
    return next(map(_whole, found), None)


def _whole(path: str) -> str:
    """Return an absolute path: the reader may be in another directory."""
    return str(Path(path).absolute())


def _authorities(bundle: Bundle) -> Authorities:
    ends = [each.not_valid_after_utc for each in bundle.certificates]
    return Authorities(_whole(bundle.path), len(ends), min(ends, default=None))
