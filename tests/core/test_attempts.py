from agent.core import events as on
from agent.core.attempts import AttemptLog, AttemptResult
from agent.core.effects import Effect
from agent.core.events import Event
from agent.core.policy import LowMemory, Policy
from agent.core.triggers import Trigger
from tests.core.reconciler_driver import OUT_OF_MEMORY, PERMANENT, TRANSIENT, ReconcilerDriver


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


def test_only_the_newest_are_kept() -> None:
    play = Recorded().first()
    for number in range(2, 150):
        play.ready(f"r{number}")
        play.comes_to_serve(number)
        play.emptied(number - 1)
        play.exits(number - 1, 0)
    assert [play.ledger.attempts[0].epoch, play.ledger.attempts[-1].epoch] == [50, 149]
