"""The reconciler's input events.

Each carries `at`, monotonic seconds: the reconciler reads no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.epochs import State
from agent.core.revision import Revision
from agent.core.triggers import Trigger


class FailureKind(StrEnum):
    """Whether and when a failed attempt is worth repeating."""

    PERMANENT = "verdict"  # deterministic: the same bytes would fail again
    TRANSIENT = "accident"  # anything else: worth a retry
    OUT_OF_MEMORY = "shortage"  # not attempted: no memory for it beside the serving epoch


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an epoch did not serve, or stopped serving, as a message an operator can act upon.

    `pinned`: the certificate groups at fault are held back from now on; without them the configuration may be good.
    """

    sort: FailureKind
    reason: str
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionReady:
    """The disk holds a revision of which every part is usable.

    It is wanted at once, but replaces the serving one only from `not_before` on, unless expiry is near. `changed_at`:
    when the first change that it reads was noticed; None if there was none.
    """

    at: float
    revision: Revision
    not_before: float = float("-inf")
    changed_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionMissing:
    """The disk lacks something required that has no fallback; `what` names it."""

    at: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryForeseen:
    """The served leaf expires at `expires_at`; its replacement is urgent from `urgent_at` on.

    Both are None if no leaf is served.
    """

    at: float
    urgent_at: float | None
    expires_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartAsked:
    """An operator, or the hang detector, requests a new epoch, changed or not.

    `now`: ignore drains, pause and schedule, and end the old epoch instead of draining it.
    """

    at: float
    now: bool = False
    trigger: Trigger = Trigger.OPERATOR


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseAsked:
    """An operator pauses rotations until `until`, but not near expiry; a past time ends it."""

    at: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainAsked:
    """An operator requests a drain of all epochs, of inbound listeners with `policy.keeps_outbound`.

    `StopAsked` follows separately.
    """

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """An operator requests a stop, with a drain unless `now`; a second request ends the drain at once."""

    at: float
    now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochAdopted:
    """The agent adopted an earlier agent's epoch, which serves, drains or had passed the gate.

    `takes_pushes`: certificates can be pushed into it. `is_torn`: the earlier agent exited during a push.
    """

    at: float
    epoch: int
    revision: Revision
    pid: int
    state: State
    takes_pushes: bool = False
    is_torn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStarted:
    """The process of an epoch was started. `takes_pushes`: certificates can be pushed into it."""

    at: float
    epoch: int
    pid: int
    takes_pushes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochAwaits:
    """A candidate runs but is not ready; `reason` is what it waits for, empty if nothing."""

    at: float
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReachedGate:
    """A candidate has loaded its configuration and waits at the gate."""

    at: float
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochJudged:
    """A candidate was checked; it is admitted if `failure` is None."""

    at: float
    epoch: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochServes:
    """A candidate reported, on its own socket, that it serves."""

    at: float
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPushed:
    """A push has ended: the epoch serves `revision`, or `failure` tells why not.

    `is_intact`: nothing was sent to it, so it serves what it served before. `phases`: the duration of each in seconds.
    """

    at: float
    epoch: int
    revision: Revision
    failure: Failure | None = None
    is_intact: bool = False
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEmptied:
    """The last connection of a draining epoch closed: of its inbound listeners if only those drain.

    `all_listeners`: as `AwaitEmpty` demanded, of the others, too.
    """

    at: float
    epoch: int
    all_listeners: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochExited:
    """An epoch exited, or could not be started.

    `code`: its exit code, negative for a signal, None if it has none or it cannot be read.
    """

    at: float
    epoch: int
    code: int | None
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """The reconciler's `deadline` has passed."""

    at: float


EpochEvent = (
    EpochStarted | EpochAwaits | EpochReachedGate | EpochJudged | EpochServes | EpochPushed | EpochEmptied | EpochExited
)
Event = (
    RevisionReady
    | RevisionMissing
    | ExpiryForeseen
    | RestartAsked
    | PauseAsked
    | DrainAsked
    | StopAsked
    | TimePassed
    | EpochAdopted
    | EpochEvent
)
