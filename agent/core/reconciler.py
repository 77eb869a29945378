"""The reconciler: events in, effects out, one deadline.

Desired and actual state are separate. `handle` first updates them from the event, then `_advance` compares the two and
starts a candidate if one is due, or pushes certificates into the serving epoch. The invariants, which property tests
check over random event sequences:

- there is at most one candidate at a time, and epoch numbers only grow;
- at most one push is under way, into the serving epoch, and only of what it can take;
- the serving epoch is neither drained nor ended while nothing else serves, unless an operator stops the agent, or has
  allowed replacement when its certificate is about to expire and there is no memory for two epochs;
- at most `policy.drains` epochs drain at once, unless the served certificate is about to expire or a change has waited
  `policy.drain_patience` for a drain to end;
- after every event the deadline is in the future, and a revision that is wanted and not rejected will be tried.
"""

from collections.abc import Callable, Iterator
from typing import assert_never

from agent.core import effects as do
from agent.core import events as on
from agent.core import transitions
from agent.core.backoff import Backoff
from agent.core.desired import NEVER, BlockedReason, DesiredState, RejectedRevision
from agent.core.effects import Effect, LogTopic
from agent.core.epochs import CANDIDATE, Epoch, State, Step
from agent.core.events import Event, Failure, FailureKind
from agent.core.policy import LowMemory, Policy, Restart
from agent.core.pushing import Pushing
from agent.core.revision import Revision
from agent.core.shutdown import Shutdown
from agent.core.triggers import Trigger

_BY_CHANGE = frozenset({Trigger.CERTIFICATE, Trigger.CONFIGURATION})


class Reconciler:
    """Turns events into effects.

    `jitter` returns numbers from 0 to 1; `first_epoch` is higher than any epoch number used before.
    """

    def __init__(self, policy: Policy, *, jitter: Callable[[], float], first_epoch: int = 1) -> None:
        self.policy = policy
        self.epochs: dict[int, Epoch] = {}
        self.desired = DesiredState(policy)
        self.last_failure: Failure | None = None
        self._next_number = first_epoch
        self._attempts = Backoff(policy, jitter)
        self._pushing = Pushing(self.desired)
        self._start_at = NEVER  # when the next start is allowed
        self._waits_for_drains = False
        self._expires_at: float | None = None  # when the served leaf expires
        self._refuse_at: float | None = None  # when waiting clients are refused
        self._is_short = False  # the last attempt ran out of memory, and that is logged
        self._replaced: Epoch | None = None  # ended to make room; nothing starts before it exits or is killed
        self._shutdown = Shutdown(policy, self.epochs)

    # Actual state

    @property
    def serving(self) -> Epoch | None:
        """The serving epoch, if any."""
        return self._first(frozenset({State.SERVING}))

    @property
    def candidate(self) -> Epoch | None:
        """The epoch that is starting, waiting at the gate or opening, if any."""
        return self._first(CANDIDATE)

    @property
    def draining(self) -> list[Epoch]:
        """The draining epochs, oldest first."""
        return [epoch for epoch in self.epochs.values() if epoch.state is State.DRAINING]

    @property
    def next_epoch(self) -> int:
        """The number of the next epoch."""
        return self._next_number

    @property
    def stopping(self) -> bool:
        """Whether shutdown has begun."""
        return self._shutdown.has_begun

    @property
    def is_drained(self) -> bool:
        """Whether a drain is complete: no epoch is left, or only one that stays for its outbound listeners."""
        return self._shutdown.is_drained

    @property
    def deadline(self) -> float | None:
        """When to send `TimePassed` unless another event comes first (monotonic seconds)."""
        times = [epoch.deadline for epoch in self.epochs.values() if epoch.deadline is not None]
        if self._refuse_at is not None and not self._opens:
            times.append(self._refuse_at)
        if self._shutdown.drain_at is not None:
            times.append(self._shutdown.drain_at)
        if self._start_at != NEVER:
            times.append(self._start_at)
        return min(times, default=None)

    @property
    def _opens(self) -> bool:
        """Whether an admitted candidate is about to serve, so that waiting clients are kept."""
        return self._first(frozenset({State.OPENING})) is not None

    def _first(self, states: frozenset[State]) -> Epoch | None:
        return next((epoch for epoch in self.epochs.values() if epoch.state in states), None)

    # Events

    def handle(self, event: Event) -> list[Effect]:
        """Apply an event; return the effects to execute, in order.

        Events of an epoch that has exited are ignored: they may arrive after its exit.
        """
        if isinstance(event, on.EpochEvent) and event.epoch not in self.epochs:
            return []
        return [*self._enter(event), *self._advance(event.at)]

    def _enter(self, event: Event) -> list[Effect]:  # noqa: C901, PLR0911, PLR0912  # one case per event
        match event:
            case on.RevisionReady():
                return self._revision_ready(event)
            case on.RevisionMissing():
                return self._revision_missing(event)
            case on.ExpiryForeseen():
                self.desired.urgent_at = NEVER if event.urgent_at is None else event.urgent_at
                self._expires_at = event.expires_at
                return []
            case on.RestartAsked():
                return self._restart_was_asked(event)
            case on.PauseAsked():
                self.desired.paused_until = event.until
                return []
            case on.DrainAsked():
                return self._shutdown.begin(event.at)
            case on.StopAsked():
                return self._shutdown.stop(event.at, now=event.now)
            case on.TimePassed():
                return self._time_passed(event.at)
            case on.EpochAdopted():
                return self._adopted(event)
            case on.EpochStarted():
                self.epochs[event.epoch].pid = event.pid
                self.epochs[event.epoch].takes_pushes = event.takes_pushes
                self._is_short = False
                return []
            case on.EpochAwaits():
                return self._awaits(self.epochs[event.epoch], event.reason)
            case on.EpochReachedGate():
                return self._reached_gate(self.epochs[event.epoch])
            case on.EpochJudged():
                return self._judged(event)
            case on.EpochServes():
                return self._serves(self.epochs[event.epoch], event.at)
            case on.EpochPushed():
                return self._pushed(event)
            case on.EpochEmptied():
                return self._emptied(event)
            case on.EpochExited():
                return self._exited(event)
            case _:
                assert_never(event)

    def _adopted(self, event: on.EpochAdopted) -> list[Effect]:
        """Continue an earlier agent's epoch: keep serving, undo a push, finish the drain or open the gate."""
        epoch = Epoch(event.epoch, event.revision, event.at, event.state, event.pid, trigger=Trigger.ADOPTION)
        epoch.takes_pushes, epoch.is_torn = event.takes_pushes, event.is_torn
        self.epochs[event.epoch] = epoch
        self._next_number = max(self._next_number, event.epoch + 1)
        if event.state is State.SERVING:
            self.desired.adopt(event.revision)
            undone = [self._pushing.restore(epoch)] if event.is_torn and event.takes_pushes else []
            return [do.CommitEpoch(event.epoch), *undone]
        if event.state is State.DRAINING:
            epoch.deadline = event.at + self.policy.drain_timeout
            return [do.DrainEpoch(event.epoch)]
        self.desired.wanted = self.desired.wanted or event.revision
        epoch.deadline = event.at + self.policy.start_timeout
        return [do.OpenGate(event.epoch)]

    def _revision_ready(self, event: on.RevisionReady) -> list[Effect]:
        if event.revision == self.desired.wanted:
            return []
        self.desired.change(event.revision, event.at, event.not_before)
        self._forgive()
        return [*self._drop_pointless(), *self._hurry_overtaken(event.at)]

    def _revision_missing(self, event: on.RevisionMissing) -> list[Effect]:
        """Finish with exit code 78 if there is nothing to start from and `policy.wait` is off."""
        if self.policy.wait or self.desired.has_hope or self.stopping:
            return []
        return self._shutdown.end(event.at, do.Finish(78, f"no usable files to start from: {event.what}"))

    def _drop_pointless(self) -> list[Effect]:
        """Drop a candidate that is not yet admitted when the serving revision is wanted again, or a push suffices.

        A push does not suffice for a restart that was asked for.
        """
        serving, candidate, wanted = self.serving, self.candidate, self.desired.wanted
        if serving is None or candidate is None or candidate.state is State.OPENING or candidate.revision == wanted:
            return []
        if serving.revision == wanted:
            return [transitions.drop(candidate, "the serving revision is wanted again")]
        if candidate.trigger in _BY_CHANGE and self._pushing.brings(serving, wanted):
            return [transitions.drop(candidate, "a push into the serving epoch brings the newest revision")]
        return []

    def _hurry_overtaken(self, at: float) -> list[Effect]:
        """Shorten the deadline of an outdated candidate: a newer revision waits for it."""
        candidate = self.candidate
        if candidate is None or candidate.state is State.OPENING or candidate.revision == self.desired.wanted:
            return []
        deadline = candidate.started_at + self.policy.overtaken_timeout
        if deadline <= at:
            return [transitions.drop(candidate, "it does not become ready, and there is a newer revision")]
        candidate.deadline = min(deadline, candidate.deadline or deadline)
        return []

    def _restart_was_asked(self, event: on.RestartAsked) -> list[Effect]:
        """Request a new epoch; a candidate of the wanted revision already is that epoch."""
        candidate = self.candidate
        is_under_way = candidate is not None and candidate.revision == self.desired.wanted
        self.desired.ask(event.trigger, event.at, now=event.now, again=not is_under_way)
        self._forgive()
        return []

    def _forgive(self) -> None:
        """Reset the back-off, so that the next attempt starts at once; log a shortage anew."""
        self._attempts.forgive()
        self._is_short = False

    def _reached_gate(self, epoch: Epoch) -> list[Effect]:
        epoch.apply(Step.REACH_GATE)
        return [do.JudgeEpoch(epoch.number)] if epoch.state is State.WAITING else []

    @staticmethod
    def _awaits(epoch: Epoch, reason: str) -> list[Effect]:
        """Record and log what a candidate waits for; `_may_wait_on` may extend its deadline for it."""
        if epoch.state not in CANDIDATE:
            return []
        epoch.awaits = reason
        text = f"epoch {epoch.number} is not complete yet: {reason}"
        return [do.LogMessage(LogTopic.AWAITED, text, epoch.number)] if reason else []

    def _let_through(self, epoch: Epoch) -> Effect:
        epoch.apply(Step.PASS)
        epoch.awaits = ""
        return do.OpenGate(epoch.number)

    def _judged(self, event: on.EpochJudged) -> list[Effect]:
        epoch = self.epochs[event.epoch]
        if epoch.state not in {State.STARTING, State.WAITING}:
            return []  # it is already terminating
        if event.failure is None:
            return [self._let_through(epoch)]
        return [transitions.drop(epoch, event.failure.reason), *self._failed(epoch, event.failure, event.at)]

    def _serves(self, epoch: Epoch, at: float) -> list[Effect]:
        before = self.serving
        epoch.apply(Step.SERVE)
        if epoch.state is not State.SERVING:
            return []
        epoch.deadline = None
        self.desired.served(epoch.revision)
        self.last_failure = None
        self._refuse_at = self._replaced = None
        is_now, self.desired.now_asked = self.desired.now_asked, False
        if before is None:
            return [do.CommitEpoch(epoch.number)]
        done = [do.CommitEpoch(epoch.number), transitions.drain(before, self._drained_by(at))]
        return [*done, self._end(before, at)] if is_now else done

    def _drained_by(self, at: float) -> float:
        """Return the drain deadline of a superseded epoch, no later than its certificate's end."""
        limit = at + self.policy.drain_timeout
        if self._expires_at is None or self._expires_at <= at:
            return limit
        return min(limit, self._expires_at)

    def _pushed(self, event: on.EpochPushed) -> list[Effect]:
        if self.stopping:
            return []
        epoch, failure = self.epochs[event.epoch], event.failure
        if epoch.state is State.SERVING:
            self.last_failure = failure
            is_refused = failure is not None and failure.sort is FailureKind.PERMANENT
            if is_refused and event.revision != epoch.revision:  # tried again near expiry
                self._attempts.fail(event.at, urgent=self.desired.is_urgent(event.at))
        return self._pushing.ended(epoch, event)

    def _emptied(self, event: on.EpochEmptied) -> list[Effect]:
        epoch = self.epochs[event.epoch]
        if epoch.state is not State.DRAINING:
            return []
        if self._shutdown.keeps(epoch, event.at, all_listeners=event.all_listeners):
            return []
        return [self._end(epoch, event.at)]

    def _end(self, epoch: Epoch, at: float) -> Effect:
        return transitions.end(epoch, at + self.policy.end_timeout)

    # Failures

    def _exited(self, event: on.EpochExited) -> list[Effect]:
        epoch = self.epochs.pop(event.epoch)
        before = epoch.state
        epoch.apply(Step.EXIT)
        if self.stopping:
            return []
        if before in CANDIDATE:
            return self._failed(epoch, event.failure, event.at, event.code)
        if before is State.SERVING:
            return self._crashed(event)
        return []

    def _failed(self, epoch: Epoch, failure: Failure, at: float, code: int | None = None) -> list[Effect]:
        """Handle a candidate's failure: wait for memory, finish, reject the revision or retry."""
        if failure.sort is FailureKind.OUT_OF_MEMORY:
            return self._found_no_memory(epoch, failure, at)
        self.last_failure = failure
        delay = self._attempts.fail(at, urgent=self.desired.is_urgent(at))
        if self.desired.last_good is None and (ending := self._ends_first_start(failure, code, at)):
            return ending
        if self.serving is None and self._attempts.used_up(at):
            return self._shutdown.end(at, do.Finish(1, f"no epoch could be started: {failure.reason}"))
        if failure.sort is FailureKind.PERMANENT and epoch.revision != self.desired.last_good:
            self.desired.refused = RejectedRevision(epoch.revision, failure.reason, failure.pinned)
            return [do.LogMessage(LogTopic.REFUSED, f"revision {epoch.revision.name} is refused: {failure.reason}")]
        return [do.LogMessage(LogTopic.RETRY, f"{failure.reason}; next attempt {_in(delay)}")]

    def _found_no_memory(self, epoch: Epoch, failure: Failure, at: float) -> list[Effect]:
        """Postpone the attempt and log the shortage once, or replace the serving epoch."""
        serving = self.serving
        if serving is None:
            return []
        self.last_failure = failure
        if self._may_replace(serving, epoch.revision, at):
            return self._replace(serving, failure, at)
        self.desired.restart_asked |= epoch.revision == serving.revision
        self._attempts.postpone(at, urgent=self.desired.is_urgent(at))
        before, self._is_short = self._is_short, True
        return [] if before else [do.LogMessage(LogTopic.SHORT, f"{failure.reason}; the rotation waits for memory")]

    def _may_replace(self, serving: Epoch, revision: Revision, at: float) -> bool:
        """Whether to stop the serving epoch to make room for `revision`.

        Only near expiry, and if the revision is neither the serving nor the rejected one.
        """
        refused = self.desired.refused
        allowed = self.policy.low_memory is LowMemory.REPLACE and self.desired.is_urgent(at)
        return allowed and revision != serving.revision and (refused is None or revision != refused.revision)

    def _replace(self, serving: Epoch, failure: Failure, at: float) -> list[Effect]:
        """End the serving epoch before its successor starts; clients are held in between."""
        self._replaced = serving
        self._refuse_at = at + self.policy.hold_timeout
        self._attempts.forgive()
        self.desired.prefer_wanted()
        text = f"{failure.reason}; epoch {serving.number} is stopped first, since its certificate expires soon"
        return [do.LogMessage(LogTopic.REPLACED, text), self._end(serving, at)]

    def _makes_room(self) -> bool:
        """Whether the epoch that was ended to make room may still exit before it is killed."""
        replaced = self._replaced
        return replaced is not None and replaced.state is State.TERMINATING and replaced.deadline is not None

    def _ends_first_start(self, failure: Failure, code: int | None, at: float) -> list[Effect]:
        if failure.sort is FailureKind.PERMANENT and not failure.pinned and not self.policy.wait:
            return self._shutdown.end(at, do.Finish(78, failure.reason))
        if self.policy.restart is Restart.NEVER and code is not None:
            return self._shutdown.end(at, do.Finish(_shell_code(code), failure.reason))
        return []

    def _crashed(self, event: on.EpochExited) -> list[Effect]:
        """Handle a crash of the serving epoch: hold clients and restart, or finish.

        `policy.restart` decides which.
        """
        self.last_failure = event.failure
        if self._restart_is_over(event.code):
            return self._shutdown.end(event.at, do.Finish(_shell_code(event.code), event.failure.reason))
        delay = self._attempts.crash(event.at, urgent=self.desired.is_urgent(event.at))
        self._refuse_at = event.at + self.policy.hold_timeout
        self.desired.tried = None  # last good is tried first
        note = do.LogMessage(LogTopic.DOWN, f"no epoch serves: {event.failure.reason}; last good starts {_in(delay)}")
        return [note, *self._settle_candidate()]

    def _restart_is_over(self, code: int | None) -> bool:
        if self.policy.restart is Restart.ON_FAILURE:
            return code == 0
        return self.policy.restart is Restart.NEVER

    def _settle_candidate(self) -> list[Effect]:
        """Drop a candidate that is neither admitted nor of last good, which starts instead."""
        candidate = self.candidate
        if candidate is None or candidate.state is State.OPENING or candidate.revision == self.desired.last_good:
            return []
        return [transitions.drop(candidate, "no epoch serves any more, and it is not checked yet; last good starts")]

    # Time

    def _time_passed(self, at: float) -> list[Effect]:
        done: list[Effect] = []
        for epoch in list(self.epochs.values()):
            if epoch.deadline is not None and epoch.deadline <= at:
                done += self._overdue(epoch, at)
        if self._refuse_at is not None and self._refuse_at <= at and not self._opens:
            self._refuse_at = None
            done.append(do.RefuseClients())
        return done + self._shutdown.time_passed(at)

    def _overdue(self, epoch: Epoch, at: float) -> list[Effect]:
        if epoch.state in CANDIDATE:
            if self._may_wait_on(epoch):
                epoch.deadline = at + self.policy.start_timeout
                return []
            reason = f"epoch {epoch.number} did not serve within {self.policy.start_timeout:g} s ({epoch.state.value})"
            reason += f": {epoch.awaits}" if epoch.awaits else ""
            failure = Failure(FailureKind.TRANSIENT, reason)
            return [transitions.drop(epoch, reason), *self._failed(epoch, failure, at)]
        if epoch.state is State.DRAINING and not self._shutdown.is_overdue(epoch, at):
            return []
        if epoch.state is State.DRAINING and epoch.is_empty:
            return [self._end(epoch, at)]
        if epoch.state is State.DRAINING:
            text = f"epoch {epoch.number} still has connections at its deadline: they are cut"
            return [do.LogMessage(LogTopic.DRAIN_CUT, text, epoch.number), self._end(epoch, at)]
        epoch.deadline = None
        return [do.KillEpoch(epoch.number)]

    def _may_wait_on(self, epoch: Epoch) -> bool:
        """Whether an overdue candidate gets more time.

        It does while nothing serves, if it reports what it waits for and no other revision can be tried. With
        `policy.give_up` set it does not, because each attempt counts.
        """
        if self.serving is not None or epoch.state is State.OPENING or self.policy.give_up is not None:
            return False
        others = {self.desired.wanted, self.desired.last_good} - {None, epoch.revision}
        return bool(epoch.awaits) and not others

    # Reconciliation

    def _advance(self, at: float) -> list[Effect]:
        """Start a candidate or push, if one is due; otherwise store when one may start."""
        self._start_at = NEVER
        if self.stopping:
            return self._shutdown.leave()
        if self.candidate is not None or self._makes_room() or self._pushing.is_under_way(self.serving):
            return []
        revision = self._due(at)
        if revision is None:
            self._start_at = self.desired.reconsidered_at(at)
            return []
        is_pushed = self._pushing.brings(self.serving, revision)
        self._start_at = self._allowed_at(at, is_pushed=is_pushed)
        if self._start_at > at:
            return [] if is_pushed else self._say_what_it_waits_for(at)
        self._start_at = NEVER
        if is_pushed and self.serving is not None:
            return [self._pushing.begin(self.serving, revision)]
        return [self._start(revision, at)]

    def _due(self, at: float) -> Revision | None:
        """Return the revision to try next; a torn epoch is replaced even if nothing else is wanted."""
        serving = self.serving
        revision = self.desired.due(None if serving is None else serving.revision, at)
        return serving.revision if revision is None and serving is not None and serving.is_torn else revision

    def _allowed_at(self, at: float, *, is_pushed: bool = False) -> float:
        """Return when the next start or push is allowed.

        A start waits for the back-off, a free drain slot, the end of a pause and the schedule. In a burst of changes,
        and for the last drain slot, it also waits for a still disk, because each change costs an epoch. Only the
        back-off counts while nothing serves, near expiry, and for a restart with `now`. A push costs no epoch, so it
        waits for neither drains nor disk.
        """
        allowed = self._attempts.not_before
        if self.serving is None or self.desired.is_urgent(at) or self.desired.now_asked:
            return allowed
        if is_pushed:
            return min(
                max(allowed, self.desired.paused_until, self.desired.not_before), max(allowed, self.desired.urgent_at)
            )
        drains = len(self.draining)
        if self._waits_for_a_drain(at):
            return min(self.desired.urgent_at, self.desired.waits_for_drains_until)
        wished = max(allowed, self.desired.paused_until, self.desired.not_before)
        if self.desired.is_burst or 0 < drains == self.policy.drains - 1:
            wished = max(wished, self.desired.still_at(at))
        return min(wished, max(allowed, self.desired.urgent_at))

    def blocked_reasons(self, at: float) -> Iterator[BlockedReason]:
        """Yield why the wanted revision does not serve yet, while no candidate is under way."""
        if self.serving is None or self.serving.revision == self.desired.wanted or self.candidate is not None:
            return
        if self.serving.pushing is not None:
            return
        failure = self.last_failure
        if failure is not None and failure.sort is not FailureKind.PERMANENT:
            is_memory = failure.sort is FailureKind.OUT_OF_MEMORY
            yield BlockedReason.MEMORY if is_memory else BlockedReason.RETRY
        is_pushed = self._pushing.brings(self.serving, self.desired.wanted)
        if len(self.draining) >= self.policy.drains and not is_pushed:
            yield BlockedReason.DRAINS
        if self.desired.paused_until > at:
            yield BlockedReason.PAUSED
        if self.desired.not_before > at:
            yield BlockedReason.SCHEDULE

    def _waits_for_a_drain(self, at: float) -> bool:
        """Whether all drain slots are used, and no change has waited `policy.drain_patience`."""
        return len(self.draining) >= self.policy.drains and at < self.desired.waits_for_drains_until

    def _say_what_it_waits_for(self, at: float) -> list[Effect]:
        waits = self.serving is not None and not self.desired.is_urgent(at) and self._waits_for_a_drain(at)
        before, self._waits_for_drains = self._waits_for_drains, waits
        if before or not waits:
            return []
        numbers = ", ".join(str(epoch.number) for epoch in self.draining)
        left = self.desired.waits_for_drains_until - at
        text = f"the next rotation waits, at most {left:.0f} s: epochs {numbers} still drain"
        return [do.LogMessage(LogTopic.HELD_BY_DRAINS, text)]

    def _start(self, revision: Revision, at: float) -> Effect:
        number, self._next_number = self._next_number, self._next_number + 1
        self.epochs[number] = Epoch(
            number, revision, at, deadline=at + self.policy.start_timeout, trigger=self._trigger(revision)
        )
        self._waits_for_drains = False
        self.desired.try_now(revision)
        validate = (
            self.serving is not None
            and self.desired.last_good is not None
            and revision.config_digest != self.desired.last_good.config_digest
        )
        return do.StartEpoch(number, revision, validate, again=self._is_short)

    def _trigger(self, revision: Revision) -> Trigger:
        if self.serving is None and self._replaced is not None:
            return Trigger.MEMORY
        return self.desired.is_for(None if self.serving is None else self.serving.revision, revision)


def _in(delay: float) -> str:
    return f"in {delay:.1f} s" if delay else "at once"


def _shell_code(code: int | None) -> int:
    """Return the exit code as a shell reports it: 128+n for a signal; 1 for None."""
    if code is None:
        return 1
    return code if code >= 0 else 128 - code
