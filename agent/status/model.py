"""The agent at one moment, whole, in plain values: what the page, the metrics and the commands are made from.

As JSON it is what `/status` answers; `schema.json` beside this file describes it. Moments are aware, UTC, and ISO 8601
with a Z in JSON; spans are seconds. Fields are only ever added.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from agent.certificates.x509 import Leaf  # whoever reads an overview need not load what reads certificates


class Blocked(StrEnum):
    """Why something on the disk that is wanted does not serve yet: a closed set, fit for a metric's label."""

    REFUSED_FILES = "refused_files"  # a file is not usable; its last good serves on
    REFUSED_CONFIGURATION = "refused_configuration"
    REFUSED_PROGRAM = "refused_program"
    REFUSED_BY_PROXY = "refused_by_proxy"
    RETRY = "retry"  # the last attempt failed, and the next one waits
    DRAINS = "drains"  # as many epochs drain as may
    MEMORY = "memory"
    PAUSED = "paused"
    WINDOW = "window"  # --rotate-window
    JITTER = "jitter"


@dataclass(frozen=True, slots=True)
class Facts:
    """A leaf. `names` carry their kind ("DNS:a.example"); `serial` and `fingerprint` (SHA-256) are lower-case hex.

    `issuers`: the fingerprints of the certificates that are sent after it. The dates are those of the whole chain.
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

    @classmethod
    def of(cls, leaf: "Leaf") -> Self:
        """The same in these words."""
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
    """A bundle as it is served. `not_after`: when the first of its certificates ends."""

    path: str
    certificates: int
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class CertificateSet:
    """What belongs together: a chain, its key and its bundle.

    `name` is short and, within one agent, its own: fit for a metric's label. `disk` is None where what lies there
    cannot be read; `served`, where nothing serves or the set is a bundle alone. `refused`: why what lies on the disk
    is not used; empty if it is.
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
    """Something on the disk that is not used.

    `reason` is one of a closed set: those of `agent.certificates.findings.Fault`, `configuration`, `program`, or
    `proxy` where the proxy itself has refused it. `set` is None where no certificate is concerned.
    """

    path: str
    reason: str
    message: str
    set: str | None = None


@dataclass(frozen=True, slots=True)
class EpochView:
    """An epoch that is alive.

    `state` is one of the four words, `stage` where in it: starting, waiting (at the gate), opening, serving, draining,
    leaving. `since`: when it came to this state. `deadline`: when the state is no longer accepted, for a draining one
    the moment at which what it has left is cut. `connections` and `connections_at_first` (when its drain began) are
    known while it drains, None where not. `memory`: resident bytes. `awaits`: why a candidate is not whole yet.
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


@dataclass(frozen=True, slots=True)
class ListenerView:
    """Where clients come in. `queue`: how many wait to be accepted now; None where the kernel does not tell."""

    address: str
    workers: int
    queue: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """A set whose leaf changed; a serial is None where there was, or is, none."""

    set: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of an attempt.

    `launch` (where the configuration is new, with its validation by the proxy), `start` until the gate, `judge`, `open`
    until it says that it serves, `handover` until its predecessor accepts no more, `drain` until that one is gone.
    """

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a client connection found at a listener after the commit. `error`: why it found nothing."""

    address: str
    serial: str | None
    matches: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """That nothing was lost.

    `queued`: clients that waited when it was let through. `overflows`, `drops`: what the kernel counted (its
    ListenOverflows and ListenDrops, for the whole network namespace) from the start of the attempt until its
    predecessor had handed over; None where it does not tell. `cut`: connections that were left at the drain deadline,
    None while it drains. `cut_at_end`: connections of the epoch itself that its own end cut, None until it did.
    """

    queued: int
    overflows: int | None
    drops: int | None
    seen: tuple[ProbeResult, ...] = ()
    cut: int | None = None
    cut_at_end: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt at a new epoch.

    `trigger`: start, certificate, configuration, operator, crash, hung, memory, adoption. `outcome`: running, serving,
    refused (a verdict), failed (an accident), dropped (overtaken, or no longer wanted), short (no memory).
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


@dataclass(frozen=True, slots=True)
class Status:
    """The whole. `reason` is empty while it is ready; `sentence` is what the service manager shows.

    `epochs` oldest first; `rotations` newest first, bounded. `out_of_sync_since`: since when what is on the disk has
    not been what serves. `watch`: inotify or polling. `hung`: the serving proxy answers nobody.
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


def to_json(value: Any) -> Any:  # noqa: ANN401  # whatever JSON takes
    """Turn any of the above into what `json.dumps` takes."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, tuple):
        return [to_json(each) for each in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {name: to_json(getattr(value, name)) for name in type(value).__dataclass_fields__}


def document(overview: Status) -> bytes:
    """The whole as a line of JSON."""
    return json.dumps(to_json(overview), separators=(",", ":")).encode() + b"\n"
