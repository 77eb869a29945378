"""The reasons why the wanted revision does not serve yet, as the status shows them."""

from agent.core.desired import BlockedReason
from agent.core.policy import Policy
from tests.core.reconciler_driver import PERMANENT, TRANSIENT, ReconcilerDriver, serving


def blocked(play: ReconcilerDriver) -> list[BlockedReason]:
    return list(play.core.blocked_reasons(play.now))


def test_nothing_blocks_what_serves_or_is_on_its_way() -> None:
    play = serving()
    assert blocked(play) == []
    play.ready("b")
    assert blocked(play) == []


def test_nothing_blocks_while_nothing_serves() -> None:
    play = ReconcilerDriver()
    play.ready("a")
    play.exits(1)
    assert blocked(play) == []


def test_the_last_failure_blocks_unless_it_is_permanent() -> None:
    play = serving()
    play.ready("b")
    play.exits(2, failure=TRANSIENT)  # retried at once
    play.exits(3, failure=TRANSIENT)
    assert blocked(play) == [BlockedReason.RETRY]
    play = serving()
    play.ready("b")
    play.finds_no_memory(2)
    assert blocked(play) == [BlockedReason.MEMORY]
    play = serving()
    play.ready("b")
    play.exits(2, failure=PERMANENT)
    assert blocked(play) == []


def test_a_pause_and_the_schedule_block() -> None:
    play = serving()
    play.pause(60)
    play.ready("b", not_before=play.now + 30)
    assert blocked(play) == [BlockedReason.PAUSED, BlockedReason.SCHEDULE]
    play.now += 30
    assert blocked(play) == [BlockedReason.PAUSED]


def test_as_many_drains_as_may_be_block() -> None:
    play = serving(Policy(drains=1))
    play.rotate("b")
    play.ready("c")
    assert blocked(play) == [BlockedReason.DRAINS]


def test_a_push_is_blocked_by_a_pause_and_never_by_drains() -> None:
    play = serving(Policy(drains=1, drain_patience=600), push_base="base")
    play.restart()
    play.come_to_serve(takes_pushes=True)
    play.pause(10)
    play.ready("b", push_base="base")
    assert blocked(play) == [BlockedReason.PAUSED]
    play.wait(10)
    assert blocked(play) == [], "it is under way"
    play.pushed(2)
    play.ready("c")
    assert blocked(play) == [BlockedReason.DRAINS], "it takes an epoch"
