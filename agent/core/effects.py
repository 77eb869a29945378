"""What to do, in the imperative. The runtime does it; what comes of it returns as an event."""

from dataclasses import dataclass
from enum import StrEnum

from agent.core.revision import Revision


@dataclass(frozen=True, slots=True)
class StartEpoch:
    """Launch a candidate. `validate`: ask the proxy first whether it can use this configuration at all.

    `again`: the last attempt found no memory, and since that was said nothing has changed.
    """

    epoch: int
    revision: Revision
    validate: bool
    again: bool = False


@dataclass(frozen=True, slots=True)
class JudgeEpoch:
    """Examine the candidate at the gate."""

    epoch: int


@dataclass(frozen=True, slots=True)
class OpenGate:
    """Let the candidate serve."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DropEpoch:
    """Kill a candidate that never served: free of charge to anybody else."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class CommitEpoch:
    """The candidate serves: its sockets, its revision and its console are the ones that count now."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DrainEpoch:
    """Tell an epoch to accept no more and to finish what it has."""

    epoch: int


@dataclass(frozen=True, slots=True)
class EndEpoch:
    """Ask an epoch to exit (SIGTERM); what it still has is cut."""

    epoch: int


@dataclass(frozen=True, slots=True)
class KillEpoch:
    """An epoch did not exit when asked (SIGKILL)."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RefuseClients:
    """Nothing has served for the whole hold: refuse clients instead of keeping them waiting."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Leave with this exit code."""

    code: int
    reason: str


class LogTopic(StrEnum):
    """The decisions worth a line in the log that no other effect shows."""

    REFUSED = "revision.refused"
    RETRY = "start.retry"
    AWAITED = "candidate.waits"
    HELD_BY_DRAINS = "rotation.waits"
    DOWN = "service.down"
    DRAIN_CUT = "drain.cut"
    SHORT = "memory.short"
    REPLACED = "service.replaced"


@dataclass(frozen=True, slots=True)
class LogMessage:
    """Say what was decided and why; `epoch` is the one that it is about, where that is to be known."""

    topic: LogTopic
    text: str
    epoch: int | None = None


Effect = (
    StartEpoch
    | JudgeEpoch
    | OpenGate
    | DropEpoch
    | CommitEpoch
    | DrainEpoch
    | EndEpoch
    | KillEpoch
    | RefuseClients
    | Finish
    | LogMessage
)
