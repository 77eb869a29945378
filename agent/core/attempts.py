"""The log of attempts to start an epoch or to push certificates into one: trigger, duration of each phase, result.

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


_Step = on.EpochStarted | on.EpochReachedGate | on.EpochJudged | on.EpochServes


@dataclass(slots=True)
class Attempt:
    """One attempt to start an epoch, or the push with number `push` into it, counted from 1.

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
    push: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """The epoch and the number of the push."""
        return self.epoch, self.push

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
        return next((each for each in reversed(self.attempts) if each.key == (epoch, 0)), None)

    def _push_into(self, epoch: int) -> Attempt | None:
        """Return the push into this epoch that has not ended."""
        pushes = (each for each in reversed(self.attempts) if each.epoch == epoch and each.push)
        return next((each for each in pushes if each.outcome is AttemptResult.RUNNING), None)

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
        match event:
            case on.RevisionReady():
                if self._wanted is None or self._wanted.revision != event.revision:
                    self._wanted = event
            case on.EpochExited():
                self._buried(event)
            case on.EpochAdopted():
                self._adopted(event)
            case on.EpochPushed():
                return self._pushed(event)
            case on.EpochStarted() | on.EpochReachedGate() | on.EpochJudged() | on.EpochServes():
                return self._went_on(event)
            case _:
                pass
        return []

    def _went_on(self, event: _Step) -> list[Attempt]:
        """End a phase of the start of an epoch."""
        attempt = self.running(event.epoch)
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

    def _pushed(self, event: on.EpochPushed) -> list[Attempt]:
        attempt = self._push_into(event.epoch)
        if attempt is None or attempt.revision != event.revision:
            return []  # what undoes a push is no attempt
        attempt.phases = dict(event.phases)
        if event.failure is None:
            self._serving = event.revision
            return [self._end(attempt, AttemptResult.SERVING)]
        return [self._end(attempt, _OF_FAILURES[event.failure.sort], event.failure.reason)]

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
        if isinstance(event, on.EpochExited):
            under_way = [self.running(event.epoch), self._push_into(event.epoch)]
            failed, reason = _OF_FAILURES[event.failure.sort], event.failure.reason
            ended += [self._end(attempt, failed, reason) for attempt in under_way if attempt is not None]
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
                self._begin(effect.epoch, effect.revision, self._epochs[effect.epoch].trigger, at)
            case do.PushRevision(restores=False):
                pushes = [each.push for each in self.attempts if each.epoch == effect.epoch]
                self._begin(effect.epoch, effect.revision, Trigger.CERTIFICATE, at, push=max(pushes, default=0) + 1)
            case do.CommitEpoch():
                self._serving = self._epochs[effect.epoch].revision
            case do.DrainEpoch():
                self._supersede(effect.epoch)
            case _:
                pass

    def _begin(self, epoch: int, revision: Revision, trigger: Trigger, at: float, push: int = 0) -> None:
        attempt = Attempt(epoch, trigger, revision, self._serving, at, at, push=push)
        if trigger in _OF_CHANGES and self._wanted is not None and self._wanted.revision == revision:
            attempt.changed = self._wanted.changed_at
        self.attempts.append(attempt)

    def _supersede(self, epoch: int) -> None:
        starts = (each for each in reversed(self.attempts) if not each.push)
        newest = next((each for each in starts if each.outcome is AttemptResult.SERVING), None)
        if newest is not None and newest.epoch > epoch:
            newest.supersedes = epoch
