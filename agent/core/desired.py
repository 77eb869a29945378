"""Desired state: which revision is wanted, which is last good, which is rejected."""

from dataclasses import dataclass
from enum import StrEnum

from agent.core.policy import Policy
from agent.core.revision import Revision
from agent.core.triggers import Trigger

NEVER = float("inf")


class BlockedReason(StrEnum):
    """Why the wanted revision does not serve yet, although it is not rejected."""

    RETRY = "retry"  # the last attempt failed, and the next one waits
    DRAINS = "drains"  # all drain slots are in use
    MEMORY = "memory"
    PAUSED = "paused"
    SCHEDULE = "schedule"  # the operator's schedule allows it only later


@dataclass(frozen=True, slots=True)
class RejectedRevision:
    """The revision that failed permanently and is not retried. `pinned`: see `Failure`."""

    revision: Revision
    reason: str
    pinned: bool = False


@dataclass(slots=True)
class DesiredState:
    """The wanted revision, and when it may start. Times are monotonic seconds.

    `tried` is the revision of the last candidate. From `urgent_at` on the served leaf is near expiry: a rejection no
    longer counts, and a start waits for no drain. `waiting_since`: when the oldest unserved change was made.
    """

    policy: Policy
    wanted: Revision | None = None
    last_good: Revision | None = None
    refused: RejectedRevision | None = None
    tried: Revision | None = None
    restart_asked: bool = False
    asked_for: Trigger = Trigger.OPERATOR  # why, if `restart_asked`
    not_before: float = -NEVER  # when the wanted revision may replace the serving one
    now_asked: bool = False  # restart without waiting for drains, pause or schedule
    paused_until: float = -NEVER
    urgent_at: float = NEVER
    changed_at: float = -NEVER
    burst: int = 0  # how many changes in a row followed within `quiet_timeout`
    waiting_since: float | None = None

    @property
    def has_hope(self) -> bool:
        """Whether there is a revision to start from that is not rejected."""
        return self.last_good is not None or (self.wanted is not None and self.refused is None)

    def change(self, revision: Revision, at: float, not_before: float) -> None:
        """Set a changed revision as wanted and clear the rejection."""
        self._wait_from(at)
        self.wanted = revision
        self.not_before = not_before
        self.refused = None
        self.burst = self.burst + 1 if at - self.changed_at < self.policy.quiet_timeout else 0
        self.changed_at = at

    def _wait_from(self, at: float) -> None:
        """Let the wait begin now, unless an earlier change or request waits already."""
        is_rejected = self.refused is not None and self.refused.revision == self.wanted
        is_waiting = self.restart_asked or (self.wanted != self.last_good and not is_rejected)
        if self.waiting_since is None or not is_waiting:
            self.waiting_since = at

    def ask(self, trigger: Trigger, at: float, *, now: bool, again: bool) -> None:
        """Request a new epoch, even of the serving revision if `again`, and clear the rejection."""
        if again:
            self._wait_from(at)
            self.restart_asked = True
        self.asked_for = trigger
        self.now_asked = self.now_asked or now
        self.not_before = -NEVER
        self.refused = None

    def served(self, revision: Revision) -> None:
        """Record that a revision serves."""
        self.last_good = revision
        if revision == self.wanted:
            self.waiting_since = None

    def adopt(self, revision: Revision) -> None:
        """Set an adopted revision as last good, and as wanted until the disk holds another."""
        self.last_good = self.wanted = revision

    def try_now(self, revision: Revision) -> None:
        """Record that a candidate of this revision starts."""
        self.tried = revision
        self.restart_asked = False

    def prefer_wanted(self) -> None:
        """Let the wanted revision come before last good when nothing serves."""
        self.tried = self.last_good

    def is_for(self, serving: Revision | None, revision: Revision) -> Trigger:
        """Return why an epoch of `revision` is started; `serving` is None if nothing serves."""
        if serving is None:
            return Trigger.START if self.last_good is None else Trigger.CRASH
        if self.restart_asked:
            return self.asked_for
        return Trigger.CERTIFICATE if revision.config_digest == serving.config_digest else Trigger.CONFIGURATION

    def is_urgent(self, at: float) -> bool:
        """Whether the served leaf is about to expire."""
        return self.urgent_at <= at

    def due(self, serving: Revision | None, at: float) -> Revision | None:
        """Return the revision to try next, if any; `serving` is None if nothing serves."""
        wanted = None if self._is_refused(at) else self.wanted
        if serving is None:
            return self._due_while_down(wanted)
        return wanted if self.restart_asked or wanted != serving else None

    def _due_while_down(self, wanted: Revision | None) -> Revision | None:
        """Return last good first, then alternate with the wanted revision."""
        if self.last_good is None or (wanted is not None and self.tried == self.last_good):
            return wanted
        return self.last_good

    def _is_refused(self, at: float) -> bool:
        return self.refused is not None and self.refused.revision == self.wanted and not self.is_urgent(at)

    def reconsidered_at(self, at: float) -> float:
        """Return when the rejection expires, so that the wanted revision is tried again."""
        return NEVER if self.refused is None or self.is_urgent(at) else self.urgent_at

    @property
    def waits_for_drains_until(self) -> float:
        """When the wanted revision stops waiting for a drain slot."""
        return NEVER if self.waiting_since is None else self.waiting_since + self.policy.drain_patience

    @property
    def is_burst(self) -> bool:
        """Whether changes come too fast to start an epoch for each."""
        return self.burst >= self.policy.burst

    def still_at(self, at: float) -> float:
        """Return when the disk counts as still, or a change has waited `policy.quiet_limit`."""
        since = at if self.waiting_since is None else self.waiting_since
        return min(self.changed_at + self.policy.quiet_timeout, since + self.policy.quiet_limit)
