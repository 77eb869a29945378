"""What happened, in the past tense. Every event carries `at`, monotonic seconds: the core asks no clock."""

from dataclasses import dataclass
from enum import StrEnum

from agent.core.epochs import State
from agent.core.revision import Revision
from agent.core.triggers import Trigger


class FailureKind(StrEnum):
    """How a failure is sorted."""

    PERMANENT = "verdict"  # a deterministic refusal: the same bytes would fail again
    TRANSIENT = "accident"  # anything else: worth trying again
    OUT_OF_MEMORY = "shortage"  # it was not even tried: there is not the memory for it beside what serves


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an epoch did not come to serve, in words an operator can act upon.

    `pinned`: the groups of files at fault are held back from now on; without them the same revision may be good.
    """

    sort: FailureKind
    reason: str
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionReady:
    """The disk holds a revision whose every part was judged usable.

    It is wanted at once, but not before `not_before` takes the place of what serves, unless expiry is near.
    """

    at: float
    revision: Revision
    not_before: float = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionMissing:
    """The disk lacks something that nothing can stand in for; `what` names it."""

    at: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryForeseen:
    """The leaf that serves ends at `expires_at` and is old from `urgent_at` on; None: no leaf serves."""

    at: float
    urgent_at: float | None
    expires_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartAsked:
    """An operator wants a new epoch, changed or not. `now`: whatever else is going on, and nothing of the old stays.

    So does whoever finds that the one that serves is hung.
    """

    at: float
    now: bool = False
    trigger: Trigger = Trigger.OPERATOR


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseAsked:
    """An operator wants no new epoch before `until`, unless expiry is near; a moment that is past ends a pause."""

    at: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainAsked:
    """An operator wants everything drained, and the end later: it is asked for by itself."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """An operator wants the end; asked twice, at once."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochAdopted:
    """An epoch that an earlier agent started is ours now: it serves, drains, or its gate was open already."""

    at: float
    epoch: int
    revision: Revision
    pid: int
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStarted:
    """The process of an epoch runs."""

    at: float
    epoch: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochAwaits:
    """A candidate lives and is not whole yet; `reason` tells what it waits for, empty once it waits no more."""

    at: float
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReachedGate:
    """A candidate has loaded everything and waits."""

    at: float
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochJudged:
    """A candidate was examined; without a failure it is good."""

    at: float
    epoch: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochServes:
    """A candidate said, on its own socket, that it serves."""

    at: float
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEmptied:
    """The last connection of a draining epoch ended."""

    at: float
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochExited:
    """An epoch is dead, or never lived. `code`: its exit code, negative for a signal, None if there is none to know."""

    at: float
    epoch: int
    code: int | None
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """The deadline that the core asked for is over."""

    at: float


EpochEvent = EpochStarted | EpochAwaits | EpochReachedGate | EpochJudged | EpochServes | EpochEmptied | EpochExited
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
