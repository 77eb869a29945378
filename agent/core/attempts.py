"""The log of attempts to start an epoch: trigger, duration of each phase, result.

It reads the reconciler's events and effects and decides nothing. Times are monotonic seconds.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from agent.core import effects as do
from agent.core import events as on
from agent.core.effects import Effect, LogTopic
from agent.core.epochs import Epoch
from agent.core.events import Event, FailureKind
from agent.core.revision import Revision
from agent.core.triggers import Trigger

KEPT = 100


class AttemptResult(StrEnum):
    """How an attempt ended: a closed set, usable as a metric label."""

    RUNNING = "running"
    SERVING = "serving"
    REFUSED = "refused"  # by a permanent failure
    FAILED = "failed"  # by a transient failure
    DROPPED = "dropped"  # overtaken, or no longer wanted
    SHORT = "short"  # out of memory


_OF_FAILURES = {
    FailureKind.PERMANENT: AttemptResult.REFUSED,
    FailureKind.TRANSIENT: AttemptResult.FAILED,
    FailureKind.OUT_OF_MEMORY: AttemptResult.SHORT,
}
_OF_NOTES = {
    LogTopic.REFUSED: AttemptResult.REFUSED,
    LogTopic.RETRY: AttemptResult.FAILED,
    LogTopic.SHORT: AttemptResult.SHORT,
}

_OF_CHANGES = {Trigger.CERTIFICATE, Trigger.CONFIGURATION}


@dataclass(slots=True)
class Attempt:
    """One attempt to start an epoch.

    `before`: the revision that served when it began; `phases`: the finished phases, in seconds; `mark`: when the
    current phase began; `supersedes`: the epoch that drains for it; `changed`: when the change on disk was noticed for
    which it starts, None if it starts for another reason.
    """

    epoch: int
    trigger: Trigger
    revision: Revision
    before: Revision | None
    began: float
    mark: float
    outcome: AttemptResult = AttemptResult.RUNNING
    reason: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    supersedes: int | None = None
    changed: float | None = None

    def ends_phase(self, name: str, at: float) -> None:
        """End the current phase, which gets this name, and begin the next."""
        self.phases[name] = at - self.mark
        self.mark = at


class AttemptLog:
    """Keeps the newest `KEPT` attempts. `epochs` are the reconciler's, by number."""

    def __init__(self, epochs: dict[int, Epoch]) -> None:
        self.attempts: deque[Attempt] = deque(maxlen=KEPT)
        self._epochs = epochs
        self._serving: Revision | None = None
        self._wanted: on.RevisionReady | None = None  # the newest revision on disk, as it was reported first

    def running(self, epoch: int) -> Attempt | None:
        """Return the attempt that started this epoch, if it has not ended."""
        found = self.of(epoch)
        return found if found is not None and found.outcome is AttemptResult.RUNNING else None

    def of(self, epoch: int) -> Attempt | None:
        """Return the attempt that started this epoch, if it is still in the log."""
        return next((each for each in reversed(self.attempts) if each.epoch == epoch), None)

    def enter(self, event: Event, effects: Iterable[Effect]) -> list[Attempt]:
        """Record one event and its effects; return the attempts that they ended."""
        effects = list(effects)
        ended = [*self._hear(event), *self._conclude(event, effects)]
        for effect in effects:
            self._see(effect, event.at)
        return ended

    def handed_over(self, epoch: int, at: float) -> None:
        """Record that the predecessor of this epoch was signalled to stop accepting."""
        attempt = self.of(epoch)
        if attempt is not None and "handover" not in attempt.phases:
            attempt.ends_phase("handover", at)

    # Events

    def _hear(self, event: Event) -> list[Attempt]:
        if isinstance(event, on.RevisionReady):
            if self._wanted is None or self._wanted.revision != event.revision:
                self._wanted = event
            return []
        if isinstance(event, on.EpochExited):
            self._buried(event)
            return []
        if isinstance(event, on.EpochAdopted):
            self._adopted(event)
            return []
        attempt = self.running(event.epoch) if isinstance(event, on.EpochEvent) else None
        if attempt is None:
            return []
        match event:
            case on.EpochStarted():
                attempt.ends_phase("launch", event.at)
            case on.EpochReachedGate():
                attempt.ends_phase("start", event.at)
            case on.EpochJudged(failure=None):
                attempt.ends_phase("judge", event.at)
            case on.EpochServes():
                attempt.ends_phase("open", event.at)
                return [self._end(attempt, AttemptResult.SERVING)]
            case _:
                pass
        return []

    def _adopted(self, event: on.EpochAdopted) -> None:
        known = self.of(event.epoch)
        if known is None:
            attempt = Attempt(event.epoch, Trigger.ADOPTION, event.revision, None, event.at, event.at)
            attempt.outcome = AttemptResult.SERVING
            self.attempts.append(attempt)

    def _buried(self, event: on.EpochExited) -> None:
        for attempt in self.attempts:
            if attempt.supersedes == event.epoch and "drain" not in attempt.phases:
                attempt.ends_phase("drain", event.at)

    def _conclude(self, event: Event, effects: list[Effect]) -> list[Attempt]:
        """End the attempts that failed or were dropped."""
        topics = [each.topic for each in effects if isinstance(each, do.LogMessage)]
        outcome = next((_OF_NOTES[topic] for topic in topics if topic in _OF_NOTES), AttemptResult.DROPPED)
        dropped = {each.epoch: each.reason for each in effects if isinstance(each, do.DropEpoch)}
        running = [attempt for number in dropped if (attempt := self.running(number)) is not None]
        ended = [self._end(attempt, outcome, dropped[attempt.epoch]) for attempt in running]
        if isinstance(event, on.EpochExited) and (attempt := self.running(event.epoch)) is not None:
            ended.append(self._end(attempt, _OF_FAILURES[event.failure.sort], event.failure.reason))
        return ended

    def _end(self, attempt: Attempt, outcome: AttemptResult, reason: str = "") -> Attempt:
        attempt.outcome, attempt.reason = outcome, reason
        self._forget_earlier_shortage(attempt)
        return attempt

    def _forget_earlier_shortage(self, attempt: Attempt) -> None:
        """Merge repeated attempts that ran out of memory into the newest one."""
        if attempt.outcome is not AttemptResult.SHORT or len(self.attempts) < 2:
            return
        before = self.attempts[-2]
        if before.outcome is AttemptResult.SHORT and before.revision == attempt.revision:
            attempt.began = before.began
            self.attempts.remove(before)

    # Effects

    def _see(self, effect: Effect, at: float) -> None:
        match effect:
            case do.StartEpoch():
                trigger = self._epochs[effect.epoch].trigger
                attempt = Attempt(effect.epoch, trigger, effect.revision, self._serving, at, at)
                if trigger in _OF_CHANGES and self._wanted is not None and self._wanted.revision == effect.revision:
                    attempt.changed = self._wanted.changed_at
                self.attempts.append(attempt)
            case do.CommitEpoch():
                self._serving = self._epochs[effect.epoch].revision
            case do.DrainEpoch():
                self._supersede(effect.epoch)
            case _:
                pass

    def _supersede(self, epoch: int) -> None:
        newest = next((each for each in reversed(self.attempts) if each.outcome is AttemptResult.SERVING), None)
        if newest is not None and newest.epoch > epoch:
            newest.supersedes = epoch
