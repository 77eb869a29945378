"""The reconciler's output effects. The executor performs them; results return as events."""

from dataclasses import dataclass
from enum import StrEnum

from agent.core.revision import Revision


@dataclass(frozen=True, slots=True)
class StartEpoch:
    """Launch a candidate. `validate`: let the proxy validate the configuration first.

    `again`: the last attempt ran out of memory, that is logged, and nothing has changed since.
    """

    epoch: int
    revision: Revision
    validate: bool
    again: bool = False


@dataclass(frozen=True, slots=True)
class PushRevision:
    """Push the certificates of a revision into the serving epoch; `EpochPushed` follows.

    `restores`: it undoes a failed push, so everything is sent again, changed or not.
    """

    epoch: int
    revision: Revision
    restores: bool = False


@dataclass(frozen=True, slots=True)
class CommitPush:
    """Make a pushed revision the one that the serving epoch runs."""

    epoch: int
    revision: Revision


@dataclass(frozen=True, slots=True)
class JudgeEpoch:
    """Check the candidate that waits at the gate."""

    epoch: int


@dataclass(frozen=True, slots=True)
class OpenGate:
    """Let the candidate pass the gate and serve."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DropEpoch:
    """Kill a candidate; it never served, so no client is affected."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class CommitEpoch:
    """Make the serving candidate's sockets, revision and admin interface the current ones."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DrainEpoch:
    """Make an epoch stop accepting and finish its open connections."""

    epoch: int


@dataclass(frozen=True, slots=True)
class AwaitEmpty:
    """Wait for the last connection of an epoch whose inbound listeners have drained; others stay open until then."""

    epoch: int


@dataclass(frozen=True, slots=True)
class EndEpoch:
    """Terminate an epoch (SIGTERM); its open connections are cut."""

    epoch: int


@dataclass(frozen=True, slots=True)
class KillEpoch:
    """Kill an epoch that did not exit after SIGTERM (SIGKILL)."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RefuseClients:
    """Refuse clients instead of holding them: nothing has served for `policy.hold_timeout`."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Exit the agent with this code."""

    code: int
    reason: str


class LogTopic(StrEnum):
    """The names of log events for decisions that no other effect shows."""

    REFUSED = "revision.refused"
    RETRY = "start.retry"
    AWAITED = "candidate.waits"
    HELD_BY_DRAINS = "rotation.waits"
    DOWN = "service.down"
    DRAIN_CUT = "drain.cut"
    SHORT = "memory.short"
    REPLACED = "service.replaced"
    PUSH_FAILED = "push.failed"
    PUSH_UNDONE = "push.undone"


@dataclass(frozen=True, slots=True)
class LogMessage:
    """Log a decision and its reason; `epoch` is the one it concerns, if any."""

    topic: LogTopic
    text: str
    epoch: int | None = None


Effect = (
    StartEpoch
    | PushRevision
    | CommitPush
    | JudgeEpoch
    | OpenGate
    | DropEpoch
    | CommitEpoch
    | DrainEpoch
    | AwaitEmpty
    | EndEpoch
    | KillEpoch
    | RefuseClients
    | Finish
    | LogMessage
)
