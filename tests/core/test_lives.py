"""Random lives of the agent, with a possible fault at every step, checked against the invariants of the reconciler."""

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.core import effects as do
from agent.core import events as on
from agent.core.desired import NEVER
from agent.core.effects import Effect
from agent.core.epochs import CANDIDATE, State
from agent.core.events import Event, Failure, FailureKind
from agent.core.policy import LowMemory, Policy, Restart
from agent.core.reconciler import Reconciler
from agent.core.revision import Revision
from tests.core.reconciler_driver import OUT_OF_MEMORY
from tests.system.counts import count

LIVES = count("AGENT_LIVES", short=80, long=300)
REVISIONS = [Revision(name, shape, push_base=shape if name in "abc" else "") for name in "abcd" for shape in "xy"]
POLICY = Policy(
    start_timeout=10,
    drain_timeout=20,
    drain_patience=5,
    stop_timeout=8,
    end_timeout=2,
    hold_timeout=3,
    give_up=12,
    drain_delay=1,
    min_drain=1,
)


class World(RuleBasedStateMachine):
    """The machine around the core: processes that start, reach the gate, serve, drain and exit at random."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Reconciler(POLICY, jitter=lambda: 0.5)
        self.now = 0.0
        self.alive: dict[int, str] = {}  # epoch: how far its process is
        self.numbers: list[int] = []
        self.finished: do.Finish | None = None
        self.making_room: int | None = None  # stopped because there was no memory for two
        self.pushed: dict[int, Revision] = {}  # the pushes under way, by epoch

    def tell(self, event: Event) -> None:
        if self.finished:
            return  # nothing receives it any more
        before = self.core.serving
        for effect in self.core.handle(event):
            self.obey(effect)
            if isinstance(effect, do.EndEpoch) and self.may_be_replaced(event, effect):
                self.making_room = effect.epoch
            self.check_effect(event, effect, before.number if before else None)

    def obey(self, effect: Effect) -> None:
        match effect:
            case do.StartEpoch(epoch=number):
                self.numbers.append(number)
                self.alive[number] = "launched"
            case do.JudgeEpoch(epoch=number):
                assert self.alive[number] == "knocked"
            case do.OpenGate(epoch=number):
                self.alive[number] = "open"
            case do.PushRevision(epoch=number, revision=revision, restores=restores):
                epoch = self.core.epochs[number]
                assert epoch.state is State.SERVING
                assert number not in self.pushed, "two pushes at a time"
                assert restores == (revision == epoch.revision)
                assert restores or revision.can_be_pushed_over(epoch.revision)
                self.pushed[number] = revision
            case do.Finish():
                self.finished = effect

    def check_effect(self, event: Event, effect: Effect, serving_before: int | None) -> None:
        if isinstance(effect, do.DrainEpoch | do.EndEpoch | do.KillEpoch | do.DropEpoch):
            serves = self.core.serving is not None or self.core.stopping or self.may_be_replaced(event, effect)
            assert serves or effect.epoch != serving_before, "the last serving epoch is ended"
        if isinstance(effect, do.DropEpoch):
            assert self.alive[effect.epoch] != "serving", "an epoch that served is dropped"
        if isinstance(effect, do.Finish):
            assert not self.core.epochs, "the agent leaves while epochs live"

    def may_be_replaced(self, event: Event, effect: Effect) -> bool:
        """The one exception that an operator may enable: no memory for two, and the certificate expires soon."""
        allowed = self.core.policy.low_memory is LowMemory.REPLACE and self.core.desired.urgent_at <= self.now
        short = isinstance(event, on.EpochExited) and event.failure.sort is FailureKind.OUT_OF_MEMORY
        return allowed and short and isinstance(effect, do.EndEpoch)

    def some(self, data: st.DataObject, *stages: str) -> int | None:
        numbers = [number for number, stage in self.alive.items() if stage in stages]
        return data.draw(st.sampled_from(numbers)) if numbers else None

    # Possible events

    @rule(revision=st.sampled_from(REVISIONS))
    def disk_changes(self, revision: Revision) -> None:
        self.tell(on.RevisionReady(at=self.now, revision=revision))

    @rule(data=st.data())
    def process_knocks(self, data: st.DataObject) -> None:
        if (number := self.some(data, "launched")) is not None:
            self.alive[number] = "knocked"
            takes_pushes = data.draw(st.booleans())
            self.tell(on.EpochStarted(at=self.now, epoch=number, pid=number, takes_pushes=takes_pushes))
            self.tell(on.EpochReachedGate(at=self.now, epoch=number))

    @rule(data=st.data(), reason=st.sampled_from(["", "the control plane is silent"]))
    def candidate_waits(self, data: st.DataObject, reason: str) -> None:
        if (number := self.some(data, "launched", "knocked", "open")) is not None:
            self.tell(on.EpochAwaits(at=self.now, epoch=number, reason=reason))

    @rule(data=st.data(), sort=st.sampled_from([None, FailureKind.PERMANENT, FailureKind.TRANSIENT]))
    def judgement_falls(self, data: st.DataObject, sort: FailureKind | None) -> None:
        if (number := self.some(data, "knocked", "launched")) is not None:
            if sort is None and self.alive[number] == "launched":
                return  # only a checked epoch can be accepted
            failure = None if sort is None else Failure(sort, "judged")
            self.tell(on.EpochJudged(at=self.now, epoch=number, failure=failure))

    @rule(data=st.data())
    def process_serves(self, data: st.DataObject) -> None:
        if (number := self.some(data, "open")) is not None:
            self.alive[number] = "serving"
            self.tell(on.EpochServes(at=self.now, epoch=number))

    @rule(
        data=st.data(),
        sort=st.sampled_from([None, None, FailureKind.PERMANENT, FailureKind.TRANSIENT]),
        is_intact=st.booleans(),
    )
    def push_ends(self, data: st.DataObject, sort: FailureKind | None, is_intact: bool) -> None:
        if under_way := sorted(self.pushed):
            number = data.draw(st.sampled_from(under_way))
            revision = self.pushed.pop(number)
            failure = None if sort is None else Failure(sort, "pushed")
            event = on.EpochPushed(at=self.now, epoch=number, revision=revision, failure=failure, is_intact=is_intact)
            self.tell(event)

    @rule(data=st.data())
    def connections_end(self, data: st.DataObject) -> None:
        if (number := self.some(data, "serving")) is not None:
            self.tell(on.EpochEmptied(at=self.now, epoch=number))

    @rule(data=st.data())
    def memory_is_short(self, data: st.DataObject) -> None:
        """No memory for a candidate: it is never started. Memory is checked only while an epoch serves."""
        if (number := self.some(data, "launched")) is not None:
            del self.alive[number]
            self.tell(on.EpochExited(at=self.now, epoch=number, code=None, failure=OUT_OF_MEMORY))

    @rule(
        data=st.data(),
        code=st.sampled_from([0, 1, -9, None]),
        sort=st.sampled_from([FailureKind.PERMANENT, FailureKind.TRANSIENT]),
    )
    def process_dies(self, data: st.DataObject, code: int | None, sort: FailureKind) -> None:
        if (number := self.some(data, "launched", "knocked", "open", "serving")) is not None:
            del self.alive[number]
            self.pushed.pop(number, None)
            self.tell(on.EpochExited(at=self.now, epoch=number, code=code, failure=Failure(sort, "died")))

    @rule(data=st.data(), kind=st.sampled_from([on.EpochReachedGate, on.EpochServes, on.EpochEmptied, on.EpochJudged]))
    def the_dead_are_heard_late(self, data: st.DataObject, kind: type[on.EpochEvent]) -> None:
        if gone := [number for number in self.numbers if number not in self.alive]:
            self.tell(kind(at=self.now, epoch=data.draw(st.sampled_from(gone))))  # type: ignore[call-arg]

    @rule(seconds=st.floats(0.01, 30))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while (deadline := self.core.deadline) is not None and deadline <= until and self.finished is None:
            self.now = deadline
            self.tell(on.TimePassed(at=self.now))
            assert self.core.deadline is None or self.core.deadline > self.now
        self.now = until

    @rule(now=st.booleans())
    def operator_restarts(self, now: bool) -> None:
        self.tell(on.RestartAsked(at=self.now, now=now))

    @rule(seconds=st.floats(0, 30))
    def operator_pauses(self, seconds: float) -> None:
        self.tell(on.PauseAsked(at=self.now, until=self.now + seconds))

    @rule(takes_pushes=st.booleans())
    def agent_is_killed_and_comes_back(self, takes_pushes: bool) -> None:
        """Epochs behind the gate are adopted in the order of their numbers; every other process is killed by then."""
        before, torn, self.pushed = self.core, self.pushed, {}
        self.core = Reconciler(before.policy, jitter=lambda: 0.5, first_epoch=before.next_epoch)
        for epoch in before.epochs.values():
            if epoch.state in {State.OPENING, State.SERVING, State.DRAINING}:
                number, state = epoch.number, epoch.state
                adopted = on.EpochAdopted(
                    at=self.now,
                    epoch=number,
                    revision=epoch.revision,
                    pid=number,
                    state=state,
                    takes_pushes=takes_pushes,
                    is_torn=number in torn,
                )
                self.tell(adopted)
            else:
                self.alive.pop(epoch.number, None)

    @rule(left=st.floats(-5, 60))
    def expiry_is_foreseen(self, left: float) -> None:
        self.tell(on.ExpiryForeseen(at=self.now, urgent_at=self.now + left, expires_at=self.now + left + 10))

    @precondition(lambda self: len(self.numbers) > 6)
    @rule(now=st.booleans())
    def operator_stops(self, now: bool) -> None:
        self.tell(on.StopAsked(at=self.now, now=now))

    @precondition(lambda self: len(self.numbers) > 6)
    @rule()
    def operator_drains(self) -> None:
        self.tell(on.DrainAsked(at=self.now))

    # Invariants

    @invariant()
    def at_most_one_candidate_and_one_serves(self) -> None:
        states = [epoch.state for epoch in self.core.epochs.values()]
        assert sum(state in CANDIDATE for state in states) <= 1
        assert states.count(State.SERVING) <= 1

    @invariant()
    def numbers_only_grow(self) -> None:
        assert self.numbers == sorted(set(self.numbers))

    @invariant()
    def the_deadline_lies_ahead(self) -> None:
        assert self.finished or self.core.deadline is None or self.core.deadline > self.now

    @invariant()
    def drains_are_capped_unless_it_is_urgent(self) -> None:
        urgent = self.core.desired.urgent_at < NEVER
        most = POLICY.drains + POLICY.drain_timeout // POLICY.drain_patience
        assert urgent or self.core.stopping or len(self.core.draining) <= most

    @invariant()
    def what_is_wanted_is_on_its_way(self) -> None:
        """A due start runs, has a time, or waits for a drain that itself has one."""
        if self.finished or self.core.stopping or self.core.candidate is not None or self.pushed:
            return
        serving = self.core.serving.revision if self.core.serving else None
        if self.core.desired.due(serving, self.now) is not None:
            assert self.core.deadline is not None

    @invariant()
    def last_good_is_what_serves(self) -> None:
        """A push counts only once it has ended well."""
        serving = self.core.serving
        assert self.core.stopping or serving is None or self.core.desired.last_good == serving.revision

    @invariant()
    def a_torn_epoch_is_being_replaced(self) -> None:
        serving = self.core.serving
        if serving is None or not serving.is_torn or self.core.stopping or self.finished:
            return
        assert self.core.candidate is not None or self.pushed or self.core.deadline is not None

    @invariant()
    def nothing_starts_beside_what_was_stopped_to_make_room(self) -> None:
        leaving = [epoch for epoch in self.core.epochs.values() if epoch.number == self.making_room]
        if leaving and leaving[0].deadline is not None and not self.core.stopping:
            assert self.core.candidate is None

    @invariant()
    def every_living_process_is_known(self) -> None:
        assert self.finished or set(self.core.epochs) == set(self.alive)


World.TestCase.settings = settings(max_examples=LIVES, stateful_step_count=60)
TestLives = World.TestCase


class Homebody(World):
    """The same where an exited proxy is not restarted."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Reconciler(Policy(restart=Restart.NEVER), jitter=lambda: 0.5)


Homebody.TestCase.settings = settings(max_examples=LIVES // 2, stateful_step_count=40)
TestLivesWithoutRestart = Homebody.TestCase


class Frugal(World):
    """The same where the serving epoch may be replaced if there is no memory for two."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Reconciler(replace(POLICY, low_memory=LowMemory.REPLACE), jitter=lambda: 0.5)


Frugal.TestCase.settings = settings(max_examples=2 * LIVES // 3, stateful_step_count=60)
TestLivesShortOfMemory = Frugal.TestCase


class Sidecar(World):
    """The same where an epoch whose inbound listeners were drained stays until a stop."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Reconciler(replace(POLICY, keeps_outbound=True), jitter=lambda: 0.5)

    @rule(all_listeners=st.booleans())
    def last_client_leaves(self, all_listeners: bool) -> None:
        for number in [epoch.number for epoch in self.core.draining]:
            self.tell(on.EpochEmptied(at=self.now, epoch=number, all_listeners=all_listeners))

    @invariant()
    def what_is_drained_ends_only_at_a_stop(self) -> None:
        if self.core.is_drained and self.core.epochs:
            assert [epoch.state for epoch in self.core.epochs.values()] == [State.DRAINING]
            assert self.core.deadline is None


Sidecar.TestCase.settings = settings(max_examples=LIVES // 2, stateful_step_count=60)
TestLivesOfSidecars = Sidecar.TestCase
