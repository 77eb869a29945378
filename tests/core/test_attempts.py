import pytest

from agent.core import effects as do
from agent.core import events as on
from agent.core.attempts import Attempt, AttemptLog, AttemptResult
from agent.core.effects import Effect, LogTopic
from agent.core.epochs import Epoch
from agent.core.events import Event, Failure
from agent.core.policy import LowMemory, Policy
from agent.core.revision import Revision
from agent.core.triggers import Trigger
from tests.core.reconciler_driver import OUT_OF_MEMORY, PERMANENT, TRANSIENT, ReconcilerDriver, revision


class Recorded(ReconcilerDriver):
    """A driver with an attempt log."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.ledger = AttemptLog(self.core.epochs)

    def tell(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event)
        self.ledger.enter(event, effects)
        return effects

    def comes_to_serve(self, epoch: int) -> None:
        for event in (
            on.EpochStarted(at=self.now + 0.25, epoch=epoch, pid=100 + epoch),
            on.EpochReachedGate(at=self.now + 0.5, epoch=epoch),
            on.EpochJudged(at=self.now + 0.75, epoch=epoch),
            on.EpochServes(at=self.now + 1.0, epoch=epoch),
        ):
            self.tell(event)
        self.now += 1.0

    def first(self) -> "Recorded":
        self.ready("a")
        self.comes_to_serve(1)
        return self

    def outcomes(self) -> list[tuple[int, Trigger, AttemptResult]]:
        return [(each.epoch, each.trigger, each.outcome) for each in self.ledger.attempts]


def test_an_attempt_that_serves_has_all_its_phases() -> None:
    play = Recorded().first()
    play.ready("b")
    play.comes_to_serve(2)
    play.ledger.handed_over(2, play.now + 0.5)
    play.now += 2.0
    play.emptied(1)
    play.exits(1, 0)
    attempt = play.ledger.attempts[-1]
    assert (attempt.outcome, attempt.revision.name, attempt.before and attempt.before.name) == (
        AttemptResult.SERVING,
        "b",
        "a",
    )
    assert attempt.phases == {"launch": 0.25, "start": 0.25, "judge": 0.25, "open": 0.25, "handover": 0.5, "drain": 1.5}


def test_an_attempt_has_the_first_change_of_what_it_serves() -> None:
    play = Recorded().first()
    for name, changed_at in (("b", 7.0), ("b", 8.0)):  # read twice before it starts
        play.tell(on.RevisionReady(at=play.now, revision=revision(name), changed_at=changed_at))
    play.comes_to_serve(2)
    play.exits(2, 1)
    assert [(each.trigger, each.changed) for each in play.ledger.attempts] == [
        (Trigger.START, None),
        (Trigger.CERTIFICATE, 7.0),
        (Trigger.CRASH, None),
    ]


def test_each_trigger_is_distinguished() -> None:
    play = Recorded().first()
    play.ready("b")
    play.comes_to_serve(2)
    play.ready("c", config_digest="another")
    play.comes_to_serve(3)
    play.emptied(1)
    play.exits(1)
    play.restart()
    play.comes_to_serve(4)
    play.exits(4)
    play.comes_to_serve(5)
    play.tell(on.RestartAsked(at=play.now, now=True, trigger=Trigger.HUNG))
    play.comes_to_serve(6)
    assert [trigger for _, trigger, _ in play.outcomes()] == [
        Trigger.START,
        Trigger.CERTIFICATE,
        Trigger.CONFIGURATION,
        Trigger.OPERATOR,
        Trigger.CRASH,
        Trigger.HUNG,
    ]


def test_permanent_and_transient_failures_and_dropped_attempts_are_distinguished() -> None:
    play = Recorded().first()
    play.ready("b")
    play.gate(2)
    play.judged(2, PERMANENT)
    play.exits(2)
    play.ready("c")
    play.exits(3, failure=TRANSIENT)
    play.ready("a")
    play.ready("d")
    play.ready("a")
    assert play.outcomes()[1:] == [
        (2, Trigger.CERTIFICATE, AttemptResult.REFUSED),
        (3, Trigger.CERTIFICATE, AttemptResult.FAILED),
        (4, Trigger.CERTIFICATE, AttemptResult.DROPPED),
    ]
    assert [each.reason for each in play.ledger.attempts][1:3] == [PERMANENT.reason, TRANSIENT.reason]


def test_a_candidate_that_does_not_get_ready_has_failed() -> None:
    play = Recorded().first()
    play.ready("b")
    play.wait(play.core.policy.start_timeout)
    assert play.outcomes()[1][2] is AttemptResult.FAILED


def test_one_shortage_after_the_other_is_one_entry() -> None:
    play = Recorded().first()
    play.ready("b")
    began = play.now
    play.finds_no_memory(2)
    for number in (3, 4):
        play.wait(1)
        play.finds_no_memory(number)
    assert [(each.outcome, each.began) for each in play.ledger.attempts][1:] == [(AttemptResult.SHORT, began)]
    assert play.ledger.attempts[-1].reason == OUT_OF_MEMORY.reason


def test_what_is_started_after_one_was_stopped_for_it_is_not_called_a_crash() -> None:
    play = Recorded(Policy(low_memory=LowMemory.REPLACE)).first()
    play.urgent(play.now, play.now + 60)
    play.ready("b")
    play.finds_no_memory(2)
    play.exits(1, 0)
    assert play.ledger.attempts[-1].trigger is Trigger.MEMORY


def test_what_an_earlier_agent_left_is_an_entry_once() -> None:
    play = Recorded().first()
    adopted = on.EpochAdopted(
        at=play.now, epoch=1, revision=play.core.epochs[1].revision, pid=7, state=play.core.epochs[1].state
    )
    again = AttemptLog(play.core.epochs)
    for _ in range(2):
        again.enter(adopted, [])
    assert [(each.trigger, each.outcome) for each in again.attempts] == [(Trigger.ADOPTION, AttemptResult.SERVING)]


# Pushes


def pushing() -> Recorded:
    """Return a driver in which epoch 1 serves `a` and takes pushes."""
    play = Recorded()
    play.ready("a", push_base="base")
    play.comes_to_serve(1)
    play.core.epochs[1].takes_pushes = True
    return play


def push(play: Recorded, name: str, failure: Failure | None = None, phases: dict[str, float] | None = None) -> None:
    """Push a revision; a push that fails is undone."""
    wanted = revision(name, push_base="base")
    play.tell(on.RevisionReady(at=play.now, revision=wanted, changed_at=play.now - 3.0))
    play.tell(on.EpochPushed(at=play.now, epoch=1, revision=wanted, failure=failure, phases=phases or {}))
    if failure is not None:
        play.pushed(1)


def test_a_push_is_an_attempt_of_its_epoch_with_a_number_of_its_own() -> None:
    play = pushing()
    for name in "bc":
        push(play, name, phases={"apply": 0.5, "verify": 0.25})
    assert [(each.key, each.trigger, each.outcome) for each in play.ledger.attempts] == [
        ((1, 0), Trigger.START, AttemptResult.SERVING),
        ((1, 1), Trigger.CERTIFICATE, AttemptResult.SERVING),
        ((1, 2), Trigger.CERTIFICATE, AttemptResult.SERVING),
    ]
    last = play.ledger.attempts[-1]
    assert (last.before, last.revision) == (revision("b"), revision("c"))
    assert last.phases == {"apply": 0.5, "verify": 0.25}
    assert (last.began, last.changed) == (play.now, play.now - 3.0)
    start = play.ledger.of(1)
    assert start is not None
    assert start.push == 0


@pytest.mark.parametrize(
    ("failure", "outcome"), [(PERMANENT, AttemptResult.REFUSED), (TRANSIENT, AttemptResult.FAILED)]
)
def test_a_push_that_fails_is_one_entry_and_what_undoes_it_is_none(failure: Failure, outcome: AttemptResult) -> None:
    play = pushing()
    push(play, "b", failure)
    pushes = [(each.key, each.outcome, each.reason) for each in play.ledger.attempts if each.push]
    assert pushes == [((1, 1), outcome, failure.reason)]


def test_what_served_before_a_refused_push_is_what_the_next_one_replaces() -> None:
    play = pushing()
    push(play, "b", PERMANENT)
    push(play, "c")
    assert play.ledger.attempts[-1].before == revision("a")


def test_a_crash_ends_the_push_that_is_under_way() -> None:
    play = pushing()
    play.ready("b", push_base="base")
    effects = play.core.handle(died := on.EpochExited(at=play.now, epoch=1, code=-9, failure=TRANSIENT))
    assert [(each.key, each.outcome) for each in play.ledger.enter(died, effects)] == [((1, 1), AttemptResult.FAILED)]


def test_a_drain_is_for_the_epoch_that_started_and_not_for_a_push() -> None:
    play = pushing()
    play.restart()
    play.comes_to_serve(2)
    play.core.epochs[2].takes_pushes = True
    play.tell(on.RevisionReady(at=play.now, revision=revision("b", push_base="base")))
    play.pushed(2)
    play.exits(1, 0)
    assert {each.key: each.supersedes for each in play.ledger.attempts} == {(1, 0): None, (2, 0): 1, (2, 1): None}


def test_the_phases_of_a_start_are_not_those_of_a_push() -> None:
    made = Logged()
    made.start(1)
    made.serve(1)
    made.happens(on.TimePassed(at=105.0), do.PushRevision(1, REVISIONS[2]))
    made.log.handed_over(1, 106.0)
    start, under_way = made.log.attempts
    assert (start.push, "handover" in start.phases) == (0, True)
    assert (under_way.push, under_way.outcome, under_way.phases) == (1, AttemptResult.RUNNING, {})


def test_the_end_of_an_unknown_push_ends_nothing() -> None:
    made = Logged()
    made.start(1)
    made.serve(1)
    assert made.happens(on.EpochPushed(at=101.0, epoch=1, revision=REVISIONS[2])) == []
    made.happens(on.TimePassed(at=105.0), do.PushRevision(1, REVISIONS[1], restores=True))
    assert made.happens(on.EpochPushed(at=106.0, epoch=1, revision=REVISIONS[1])) == []
    assert len(made.log.attempts) == 1


def test_what_was_pushed_is_what_serves_before_the_next_epoch() -> None:
    play = pushing()
    push(play, "b")
    play.restart()
    assert play.ledger.attempts[-1].before == revision("b")


def test_only_the_newest_are_kept() -> None:
    play = Recorded().first()
    for number in range(2, 150):
        play.ready(f"r{number}")
        play.comes_to_serve(number)
        play.emptied(number - 1)
        play.exits(number - 1, 0)
    assert [play.ledger.attempts[0].epoch, play.ledger.attempts[-1].epoch] == [50, 149]


# The log alone


REVISIONS = {number: revision(name) for number, name in enumerate("abcdef", 1)}


class Logged:
    """A log beside epochs that are started, committed and drained by hand."""

    def __init__(self) -> None:
        self.epochs: dict[int, Epoch] = {}
        self.log = AttemptLog(self.epochs)

    def happens(self, event: Event, *effects: Effect) -> list[Attempt]:
        return self.log.enter(event, effects)

    def start(self, number: int, at: float = 100.0, of: Revision | None = None) -> None:
        wanted = of or REVISIONS[number]
        self.epochs[number] = Epoch(number, wanted, at, trigger=Trigger.CERTIFICATE)
        self.happens(on.TimePassed(at=at), do.StartEpoch(number, wanted, validate=False))

    def serve(self, number: int, at: float = 101.0, *, instead_of: int | None = None) -> None:
        drains = [do.DrainEpoch(instead_of)] if instead_of else []
        self.happens(on.EpochServes(at=at, epoch=number), do.CommitEpoch(number), *drains)

    def exit(self, number: int, failure: Failure = TRANSIENT, at: float = 102.0) -> list[Attempt]:
        return self.happens(on.EpochExited(at=at, epoch=number, code=1, failure=failure))

    def outcomes(self) -> dict[int, AttemptResult]:
        return {each.epoch: each.outcome for each in self.log.attempts}


def test_an_attempt_is_of_its_epoch_and_runs_until_it_ends() -> None:
    made = Logged()
    assert (made.log.of(1), made.log.running(1)) == (None, None)
    made.start(1)
    made.start(2)
    attempt = made.log.of(1)
    assert attempt is not None
    assert (attempt.epoch, attempt.began, attempt.trigger, attempt.before) == (1, 100.0, Trigger.CERTIFICATE, None)
    assert made.log.running(1) is attempt
    made.serve(1)
    assert made.log.running(1) is None
    assert made.log.of(1) is attempt


def test_an_attempt_knows_what_served_when_it_began() -> None:
    made = Logged()
    made.start(1)
    made.serve(1)
    made.start(2)
    attempt = made.log.of(2)
    assert attempt is not None
    assert attempt.before == REVISIONS[1]


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (TRANSIENT, AttemptResult.FAILED),
        (PERMANENT, AttemptResult.REFUSED),
        (OUT_OF_MEMORY, AttemptResult.SHORT),
    ],
)
def test_an_exit_ends_an_attempt_with_the_kind_of_its_failure(failure: Failure, outcome: AttemptResult) -> None:
    made = Logged()
    made.start(1)
    (ended,) = made.exit(1, failure)
    assert (ended.epoch, ended.outcome, ended.reason) == (1, outcome, failure.reason)
    assert made.exit(1, failure) == [], "it ended once"


@pytest.mark.parametrize(
    ("topic", "outcome"),
    [
        (LogTopic.REFUSED, AttemptResult.REFUSED),
        (LogTopic.RETRY, AttemptResult.FAILED),
        (LogTopic.SHORT, AttemptResult.SHORT),
        (LogTopic.DOWN, AttemptResult.DROPPED),
        (None, AttemptResult.DROPPED),
    ],
)
def test_a_dropped_candidate_ends_as_the_log_says(topic: LogTopic | None, outcome: AttemptResult) -> None:
    made = Logged()
    made.start(1)
    notes = [do.LogMessage(topic, "because")] if topic else []
    (ended,) = made.happens(on.TimePassed(at=110.0), do.DropEpoch(1, "it is late"), *notes)
    assert (ended.outcome, ended.reason) == (outcome, "it is late")


def test_dropping_what_is_not_in_the_log_ends_nothing() -> None:
    made = Logged()
    assert made.happens(on.TimePassed(at=110.0), do.DropEpoch(9, "it is late")) == []


def test_an_attempt_that_serves_is_among_those_that_ended() -> None:
    made = Logged()
    made.start(1)
    (ended,) = made.happens(on.EpochServes(at=101.0, epoch=1), do.CommitEpoch(1))
    assert (ended.outcome, ended.phases) == (AttemptResult.SERVING, {"open": 1.0})


def test_events_of_other_epochs_change_no_attempt() -> None:
    made = Logged()
    made.start(1)
    for event in (on.EpochStarted(at=101.0, epoch=9, pid=1), on.EpochEmptied(at=101.0, epoch=1)):
        assert made.happens(event) == []
    attempt = made.log.of(1)
    assert attempt is not None
    assert attempt.phases == {}


def test_a_candidate_that_is_judged_bad_has_no_such_phase() -> None:
    made = Logged()
    made.start(1)
    made.happens(on.EpochJudged(at=101.0, epoch=1, failure=PERMANENT))
    attempt = made.log.of(1)
    assert attempt is not None
    assert attempt.phases == {}


def test_a_handover_is_recorded_once_and_of_known_epochs_alone() -> None:
    made = Logged()
    made.start(1, 100.0)
    made.log.handed_over(9, 101.0)
    made.log.handed_over(1, 103.0)
    made.log.handed_over(1, 109.0)
    attempt = made.log.of(1)
    assert attempt is not None
    assert attempt.phases == {"handover": 3.0}


def test_a_drain_lasts_until_the_superseded_epoch_exits() -> None:
    made = Logged()
    made.start(1)
    made.serve(1, 101.0)
    made.start(2, 110.0)
    made.serve(2, 111.0, instead_of=1)
    made.exit(9, at=112.0)
    made.exit(1, at=115.0)
    made.exit(1, at=119.0)
    assert [(each.supersedes, each.phases.get("drain")) for each in made.log.attempts] == [(None, None), (1, 4.0)]


def test_an_epoch_that_drains_because_the_agent_stops_is_superseded_by_none() -> None:
    made = Logged()
    made.start(1)
    made.serve(1)
    made.start(2)
    made.exit(2)
    made.happens(on.StopAsked(at=120.0), do.DrainEpoch(1))
    made.happens(on.StopAsked(at=120.0), do.DrainEpoch(9))
    assert [each.supersedes for each in made.log.attempts] == [None, None]


def test_a_drain_is_for_the_newest_that_serves_and_not_for_one_that_only_starts() -> None:
    made = Logged()
    for number in (1, 2):
        made.start(number)
        made.serve(number)
    made.start(3)
    made.happens(on.TimePassed(at=120.0), do.DrainEpoch(1))
    assert {each.epoch: each.supersedes for each in made.log.attempts} == {1: None, 2: 1, 3: None}


def test_a_drain_with_an_empty_log_is_nobodys() -> None:
    made = Logged()
    made.happens(on.TimePassed(at=120.0), do.DrainEpoch(1))
    assert not made.log.attempts


@pytest.mark.parametrize(
    ("first", "of", "outcomes"),
    [
        (OUT_OF_MEMORY, REVISIONS[2], {2: AttemptResult.SHORT}),
        (OUT_OF_MEMORY, REVISIONS[1], {1: AttemptResult.SHORT, 2: AttemptResult.SHORT}),
        (TRANSIENT, REVISIONS[2], {1: AttemptResult.FAILED, 2: AttemptResult.SHORT}),
    ],
    ids=["the same revision", "another revision", "another failure"],
)
def test_only_shortages_of_one_revision_become_one(
    first: Failure, of: Revision, outcomes: dict[int, AttemptResult]
) -> None:
    made = Logged()
    made.start(1, 100.0, of)
    made.exit(1, first)
    made.start(2, 110.0)
    made.exit(2, OUT_OF_MEMORY)
    assert made.outcomes() == outcomes
    assert made.log.attempts[-1].began == (100.0 if len(outcomes) == 1 else 110.0)


def test_an_attempt_that_fails_otherwise_stays_beside_the_shortage_before_it() -> None:
    made = Logged()
    made.start(1, of=REVISIONS[2])
    made.exit(1, OUT_OF_MEMORY)
    made.start(2)
    made.exit(2, TRANSIENT)
    assert made.outcomes() == {1: AttemptResult.SHORT, 2: AttemptResult.FAILED}
