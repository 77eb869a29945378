"""What should run, as opposed to what does: which revision is wanted, which is known to be good, which is refused."""

from dataclasses import dataclass
from enum import StrEnum

from agent.core.policy import Policy
from agent.core.revision import Revision
from agent.core.triggers import Trigger

NEVER = float("inf")


class BlockedReason(StrEnum):
    """Why what is wanted does not serve yet, though nothing is wrong with it."""

    RETRY = "retry"  # the last attempt failed, and the next one waits
    DRAINS = "drains"  # as many epochs drain as may
    MEMORY = "memory"
    PAUSED = "paused"
    SCHEDULE = "schedule"  # it is not to serve before a moment that the operator's schedule gives


@dataclass(frozen=True, slots=True)
class RejectedRevision:
    """The revision that a verdict keeps from being tried again, and why. `pinned`: see `Failure`."""

    revision: Revision
    reason: str
    pinned: bool = False


@dataclass(slots=True)
class DesiredState:
    """Times are monotonic seconds.

    `tried` is what the last candidate ran from. Little of the served leaf's life is left from `urgent_at` on: then a
    verdict no longer counts, and no drain is waited for. `waiting_since`: when the oldest unserved change was made.
    """

    policy: Policy
    wanted: Revision | None = None
    last_good: Revision | None = None
    refused: RejectedRevision | None = None
    tried: Revision | None = None
    restart_asked: bool = False
    asked_for: Trigger = Trigger.OPERATOR  # by whom, if it is
    not_before: float = -NEVER  # when what is wanted may take the place of what serves
    now_asked: bool = False  # waiting for nothing
    paused_until: float = -NEVER
    urgent_at: float = NEVER
    changed_at: float = -NEVER
    burst: int = 0  # how many changes in a row came soon after the one before
    waiting_since: float | None = None

    @property
    def has_hope(self) -> bool:
        """Whether there is anything to start from that is not known to fail."""
        return self.last_good is not None or (self.wanted is not None and self.refused is None)

    def change(self, revision: Revision, at: float, not_before: float) -> None:
        """The disk holds something else: what was refused is forgotten."""
        self.wanted = revision
        self.not_before = not_before
        self.refused = None
        self.burst = self.burst + 1 if at - self.changed_at < self.policy.quiet_timeout else 0
        self.changed_at = at
        if self.waiting_since is None:
            self.waiting_since = at

    def ask(self, trigger: Trigger, at: float, *, now: bool, again: bool) -> None:
        """A new epoch is asked for, `again` if need be, and what was refused is to be tried again."""
        self.restart_asked = self.restart_asked or again
        if again and self.waiting_since is None:
            self.waiting_since = at
        self.asked_for = trigger
        self.now_asked = self.now_asked or now
        self.not_before = -NEVER
        self.refused = None

    def served(self, revision: Revision) -> None:
        """A revision came to serve."""
        self.last_good = revision
        if revision == self.wanted:
            self.waiting_since = None

    def adopt(self, revision: Revision) -> None:
        """What an earlier agent let serve is good, and wanted until the disk says otherwise."""
        self.last_good = self.wanted = revision

    def try_now(self, revision: Revision) -> None:
        """A candidate starts from it."""
        self.tried = revision
        self.restart_asked = False

    def prefer_wanted(self) -> None:
        """Where nothing serves, what is wanted comes before last good."""
        self.tried = self.last_good

    def is_for(self, serving: Revision | None, revision: Revision) -> Trigger:
        """What an epoch of this revision is started for while `serving` serves, or nothing does."""
        if serving is None:
            return Trigger.START if self.last_good is None else Trigger.CRASH
        if self.restart_asked:
            return self.asked_for
        return Trigger.CERTIFICATE if revision.config_digest == serving.config_digest else Trigger.CONFIGURATION

    def is_urgent(self, at: float) -> bool:
        """Whether the served leaf is about to end."""
        return self.urgent_at <= at

    def due(self, serving: Revision | None, at: float) -> Revision | None:
        """What should be tried next while `serving` serves, or nothing does."""
        wanted = None if self._is_refused(at) else self.wanted
        if serving is None:
            return self._due_while_down(wanted)
        return wanted if self.restart_asked or wanted != serving else None

    def _due_while_down(self, wanted: Revision | None) -> Revision | None:
        """Last good first; where it just failed, what is wanted, in turn."""
        if self.last_good is None or (wanted is not None and self.tried == self.last_good):
            return wanted
        return self.last_good

    def _is_refused(self, at: float) -> bool:
        return self.refused is not None and self.refused.revision == self.wanted and not self.is_urgent(at)

    def reconsidered_at(self, at: float) -> float:
        """When a verdict will no longer keep what is wanted from being tried."""
        return NEVER if self.refused is None or self.is_urgent(at) else self.urgent_at

    @property
    def waits_for_drains_until(self) -> float:
        """When what is wanted will have waited for long enough until one of the drains ends."""
        return NEVER if self.waiting_since is None else self.waiting_since + self.policy.drain_patience

    @property
    def is_burst(self) -> bool:
        """Whether changes come faster than each of them deserves an epoch."""
        return self.burst >= self.policy.burst

    def still_at(self, at: float) -> float:
        """When the disk will have been still for long enough, or a change will have waited for that long enough."""
        since = at if self.waiting_since is None else self.waiting_since
        return min(self.changed_at + self.policy.quiet_timeout, since + self.policy.quiet_limit)
