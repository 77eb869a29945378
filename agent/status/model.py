"""The status snapshot in plain values: the source of the page, the gauges and the commands.

`/status` returns it as JSON, described by `schema.json` beside this file. Times are aware and in UTC, in JSON ISO 8601
with a Z; durations are in seconds. Fields are added, never removed.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from agent.core.expiry import Expiry, expiry

if TYPE_CHECKING:
    from agent.certificates.x509 import Leaf  # a reader of the status need not load the certificate parser

_AFTERWARDS = frozenset({"handover", "drain"})  # phases that end after the epoch serves
CRASHES_SHOWN = timedelta(hours=1)
"""How long a crash is part of `Status.crashes`."""


class Blocked(StrEnum):
    """Why a wanted change on disk does not serve yet: a closed set, fit for a metric's label."""

    REFUSED_FILES = "refused_files"  # a file is unusable; its last good version still serves
    REFUSED_CONFIGURATION = "refused_configuration"
    REFUSED_PROGRAM = "refused_program"
    REFUSED_BY_PROXY = "refused_by_proxy"
    RETRY = "retry"  # the last attempt failed, and the next one is delayed
    DRAINS = "drains"  # the maximum number of epochs are draining
    MEMORY = "memory"
    PAUSED = "paused"
    WINDOW = "window"  # --rotate-window
    JITTER = "jitter"


@dataclass(frozen=True, slots=True)
class Facts:
    """A leaf certificate.

    `names` include their kind ("DNS:a.example"); `serial` and `fingerprint` (SHA-256) are lower-case hex. `issuers`:
    the fingerprints of the certificates that are sent after it. The dates are those of the whole chain.
    """

    subject: str
    names: tuple[str, ...]
    spiffe_id: str | None
    issuer: str
    serial: str
    key_type: str
    not_before: datetime
    not_after: datetime
    fingerprint: str
    issuers: tuple[str, ...] = ()

    def expiry(self, now: datetime) -> Expiry:
        """Return how near its end is."""
        return expiry(self.not_before, self.not_after, now)

    @classmethod
    def of(cls, leaf: "Leaf") -> Self:
        """Convert a parsed leaf certificate."""
        return cls(
            subject=leaf.subject,
            names=leaf.names,
            spiffe_id=leaf.spiffe_id,
            issuer=leaf.issuer,
            serial=leaf.serial_hex,
            key_type=leaf.key_type,
            not_before=leaf.not_before,
            not_after=leaf.not_after,
            fingerprint=leaf.fingerprint,
            issuers=leaf.issuers,
        )


@dataclass(frozen=True, slots=True)
class Authorities:
    """A served CA bundle. `not_after`: the earliest expiry of its certificates."""

    path: str
    certificates: int
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class CertificateSet:
    """A certificate group: a chain, its key and its bundle.

    `name` is short and unique within one agent: fit for a metric's label. `disk` is None where the files on disk cannot
    be read; `served`, where nothing serves or the group is a bundle alone. `refused`: why the files on disk are not
    used; empty if they are.
    """

    name: str
    chain: str | None
    key: str | None
    served: Facts | None
    disk: Facts | None
    bundles: tuple[Authorities, ...] = ()
    in_sync: bool = True
    refused: str = ""


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file on disk that is not used.

    `reason` is one of a closed set: those of `agent.certificates.findings.Fault`, `configuration`, `program`, or
    `proxy` where the proxy itself refused it. `set` is None where no certificate is concerned.
    """

    path: str
    reason: str
    message: str
    set: str | None = None


@dataclass(frozen=True, slots=True)
class EpochView:
    """A live epoch.

    `state` is one of candidate, serving, draining; `stage` is the finer state: starting, waiting (at the gate),
    opening, serving, draining, leaving. `since`: when it entered this state. `deadline`: when this state times out; for
    a draining epoch, when its remaining connections are cut. `connections` and `connections_at_first` (when its drain
    began) are None unless it drains. `memory`: resident bytes. `awaits`: why a candidate is not complete yet.
    `pushes`: how often certificates were pushed into it.
    """

    number: int
    state: str
    stage: str
    revision: str
    pid: int | None
    started_at: datetime
    since: datetime
    deadline: datetime | None = None
    connections: int | None = None
    connections_at_first: int | None = None
    memory: int | None = None
    serials: tuple[str, ...] = ()
    awaits: str = ""
    pushes: int = 0


@dataclass(frozen=True, slots=True)
class ListenerView:
    """A listening address. `queue`: clients that wait to be accepted; None if not available."""

    address: str
    workers: int
    queue: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """A certificate group whose leaf changed; a serial is None where there was, or is, none."""

    set: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of an attempt.

    `launch` (with validation by the proxy where the configuration is new), `start` until the gate, `judge`, `open`
    until it reports that it serves, `handover` until its predecessor stops accepting, `drain` until the predecessor has
    exited. Of a push: `apply` until the epoch has loaded the certificates, `verify` until a client has seen them.
    """

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a client connection to a listener after the commit. `error`: why it failed."""

    address: str
    serial: str | None
    matches: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measurements that show whether clients or connections were lost.

    `queued`: clients queued when the gate opened. `overflows`, `drops`: the kernel's ListenOverflows and ListenDrops,
    for the whole network namespace, from the start of the attempt until the predecessor had handed over; None where not
    available. `cut`: connections remaining at the drain deadline, None while it drains. `cut_at_end`: connections of
    the epoch itself that were cut when it ended, None before.
    """

    queued: int
    overflows: int | None
    drops: int | None
    seen: tuple[ProbeResult, ...] = ()
    cut: int | None = None
    cut_at_end: int | None = None


class Exit(StrEnum):
    """Why a proxy exited: a closed set, usable as a metric label."""

    ASKED = "asked"
    KILLED = "killed"  # by the agent, since it did not exit in time
    CODE = "code"  # exited by itself
    SIGNAL = "signal"  # killed by a signal that the agent did not send
    MEMORY = "memory"  # killed by the kernel for lack of memory


@dataclass(frozen=True, slots=True)
class End:
    """The exit of an epoch that had served.

    `cause`: one of `Exit`. `text`: "was killed by SIGKILL". `served`: how long it had served, in seconds. `state`: the
    state in which it exited, serving or draining.
    """

    at: datetime
    cause: str
    text: str
    served: float
    state: str

    @property
    def is_crash(self) -> bool:
        """Whether the agent did not end it."""
        return self.cause not in {Exit.ASKED, Exit.KILLED}


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt at a new epoch, or the push with number `push` into it, counted from 1.

    `trigger`: start, certificate, configuration, operator, crash, hung, memory, adoption. `outcome`: running, serving,
    refused (a permanent failure), failed (a transient one), dropped (superseded or no longer wanted), short (out of
    memory). `end`: the exit of an epoch that had served, None before. `changed_at`: when the change on disk was noticed
    that triggered it, None for other triggers.
    """

    epoch: int
    trigger: str
    outcome: str
    reason: str
    began_at: datetime
    revision: str
    before: str | None
    changes: tuple[Change, ...] = ()
    phases: tuple[Phase, ...] = ()
    evidence: Evidence | None = None
    end: End | None = None
    changed_at: datetime | None = None
    push: int = 0

    @property
    def reaction(self) -> float | None:
        """The seconds from the change on disk until it served; None if it did not serve or was no such attempt."""
        if self.changed_at is None or self.outcome != "serving":
            return None
        return (self.served_at - self.changed_at).total_seconds()

    @property
    def served_at(self) -> datetime:
        """When it began to serve, if it did."""
        return self.began_at + timedelta(seconds=sum(p.seconds for p in self.phases if p.name not in _AFTERWARDS))

    def result(self, serving: int | None) -> str:
        """Return the outcome as it is shown: past epochs succeeded or crashed, only the `serving` one serves."""
        if self.outcome == "dropped":
            return "superseded"
        if self.outcome != "serving":
            return self.outcome
        if self.end is not None and self.end.is_crash:
            return "crashed"
        return "serving" if self.epoch == serving and not self.push else "succeeded"


@dataclass(frozen=True, slots=True)
class Status:
    """The whole snapshot.

    `reason` is empty while the agent is ready; `sentence` is what the service manager shows. `epochs` are oldest first;
    `rotations` newest first, bounded. `out_of_sync_since`: since when the files on disk differ from what serves.
    `watch`: inotify or polling. `hung`: the serving proxy does not answer. `host`: the name of the machine or the pod.
    """

    at: datetime
    version: str
    pid: int
    started_at: datetime
    ready: bool
    reason: str
    sentence: str
    epoch: int | None
    epochs: tuple[EpochView, ...] = ()
    certificates: tuple[CertificateSet, ...] = ()
    refused: tuple[RejectedFile, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    listeners: tuple[ListenerView, ...] = ()
    rotations: tuple[AttemptView, ...] = ()
    out_of_sync_since: datetime | None = None
    paused_until: datetime | None = None
    watch: str = "inotify"
    hung: bool = False
    host: str = ""

    @property
    def crashes(self) -> tuple[AttemptView, ...]:
        """The attempts whose epoch crashed within the last hour, newest first."""
        ended = [(each.end.at, each) for each in self.rotations if each.end is not None and each.end.is_crash]
        recent = [(at, each) for at, each in ended if self.at - at < CRASHES_SHOWN]
        return tuple(each for _, each in sorted(recent, key=lambda pair: pair[0], reverse=True))

    @property
    def crash_loop(self) -> bool:
        """Whether it crashed more than once within the last hour."""
        return len(self.crashes) > 1


def to_json(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    """Convert any of the above for `json.dumps`."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, tuple):
        return [to_json(each) for each in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {name: to_json(getattr(value, name)) for name in type(value).__dataclass_fields__}


def document(overview: Status) -> bytes:
    """Return the snapshot as a line of JSON."""
    return json.dumps(to_json(overview), separators=(",", ":")).encode() + b"\n"
