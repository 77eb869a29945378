import pytest

from agent.core import effects as do
from agent.core.desired import NEVER
from agent.core.epochs import Epoch, State
from agent.core.policy import Policy
from agent.core.revision import Revision
from agent.core.shutdown import Shutdown

POLICY = Policy(stop_timeout=30, end_timeout=5)
STOPPED = do.Finish(0, "stopped as asked")
ANOTHER = do.Finish(78, "nothing to start from")


def epoch(number: int, state: State, deadline: float | None = None) -> Epoch:
    return Epoch(number, Revision("a", "x"), 0.0, state, deadline=deadline)


def begins_at(made: Shutdown) -> float | None:
    """Return when the drain begins."""
    return made.drain_at


def shutdown(*epochs: Epoch, policy: Policy = POLICY) -> Shutdown:
    return Shutdown(policy, {each.number: each for each in epochs})


# Beginning


def test_nothing_has_begun_before_it_is_asked_for() -> None:
    made = shutdown()
    assert not made.has_begun
    assert begins_at(made) is None
    assert made.leave() == []
    assert made.time_passed(1e9) == []


def test_a_first_request_drains_what_serves_until_the_stop_deadline() -> None:
    serving = epoch(1, State.SERVING)
    made = shutdown(serving)
    assert made.stop(100.0) == [do.DrainEpoch(1)]
    assert made.has_begun
    assert (serving.state, serving.deadline) == (State.DRAINING, 130.0)


def test_a_second_request_ends_every_epoch_that_is_not_terminating_yet() -> None:
    epochs = [epoch(1, State.TERMINATING, 101.0), epoch(2, State.DRAINING, 300.0), epoch(3, State.SERVING)]
    made = shutdown(*epochs)
    made.stop(100.0)
    assert made.stop(110.0) == [do.EndEpoch(2), do.EndEpoch(3)]
    assert [each.deadline for each in epochs] == [101.0, 115.0, 115.0]


@pytest.mark.parametrize("state", [State.STARTING, State.WAITING, State.OPENING])
def test_a_candidate_is_dropped_before_what_serves_is_drained(state: State) -> None:
    made = shutdown(epoch(1, State.SERVING), epoch(2, state))
    assert made.begin(100.0) == [do.DropEpoch(2, "the agent stops"), do.DrainEpoch(1)]


@pytest.mark.parametrize(("before", "after"), [(None, 130.0), (120.0, 120.0), (700.0, 130.0)])
def test_an_epoch_that_drains_already_gets_no_more_time_than_the_stop_deadline(
    before: float | None, after: float
) -> None:
    draining = epoch(1, State.DRAINING, before)
    assert shutdown(draining).begin(100.0) == []
    assert draining.deadline == after


def test_it_begins_once() -> None:
    serving = epoch(1, State.SERVING)
    made = shutdown(serving)
    made.begin(100.0)
    assert made.begin(120.0) == []
    assert serving.deadline == 130.0


def test_a_stop_during_a_drain_waits_for_it_and_the_next_one_ends_it() -> None:
    made = shutdown(epoch(1, State.SERVING))
    made.begin(100.0)
    assert made.stop(110.0) == []
    assert made.stop(111.0) == [do.EndEpoch(1)]


# The delay before the drain


def test_the_drain_begins_when_load_balancers_had_their_time() -> None:
    serving = epoch(1, State.SERVING)
    made = shutdown(serving, policy=Policy(stop_timeout=30, drain_delay=10))
    assert made.stop(100.0) == []
    assert begins_at(made) == 110.0
    assert made.time_passed(109.9) == []
    assert made.time_passed(110.0) == [do.DrainEpoch(1)]
    assert serving.deadline == 130.0
    assert begins_at(made) is None
    assert made.time_passed(111.0) == []


def test_a_candidate_is_dropped_without_delay() -> None:
    made = shutdown(epoch(1, State.SERVING), epoch(2, State.STARTING), policy=Policy(drain_delay=10))
    assert made.stop(100.0) == [do.DropEpoch(2, "the agent stops")]


def test_the_delay_ends_at_the_stop_deadline_at_the_latest() -> None:
    serving = epoch(1, State.SERVING)
    made = shutdown(serving, policy=Policy(stop_timeout=3, drain_delay=60))
    made.stop(100.0)
    assert begins_at(made) == 103.0
    assert made.time_passed(104.0) == [do.DrainEpoch(1)]
    assert serving.deadline == 104.0, "a deadline in the past would never be asked for"


def test_nothing_is_delayed_where_nothing_serves() -> None:
    made = shutdown(epoch(1, State.DRAINING, 700.0), policy=Policy(drain_delay=60))
    assert made.stop(100.0) == []
    assert begins_at(made) is None


def test_a_second_request_ends_the_delay_too() -> None:
    made = shutdown(epoch(1, State.SERVING), policy=Policy(drain_delay=60))
    made.stop(100.0)
    assert made.stop(101.0) == [do.EndEpoch(1)]
    assert begins_at(made) is None


def test_what_serves_may_have_died_during_the_delay() -> None:
    made = Shutdown(Policy(drain_delay=10), epochs := {1: epoch(1, State.SERVING)})
    made.stop(100.0)
    epochs.clear()
    assert made.time_passed(110.0) == []
    assert made.leave() == [STOPPED]


# The shortest drain


def test_an_empty_epoch_stays_for_clients_on_their_way() -> None:
    draining = epoch(1, State.SERVING)
    made = shutdown(draining, policy=Policy(stop_timeout=30, min_drain=4))
    made.stop(100.0)
    assert made.keeps(draining, 103.9)
    assert draining.is_empty
    assert draining.deadline == 104.0
    assert not made.keeps(draining, 104.0)


def test_an_empty_epoch_stays_no_longer_than_the_stop_deadline() -> None:
    draining = epoch(1, State.SERVING)
    made = shutdown(draining, policy=Policy(stop_timeout=30, min_drain=400))
    made.stop(100.0)
    assert made.keeps(draining, 101.0)
    assert draining.deadline == 130.0


def test_the_shortest_drain_counts_from_the_end_of_the_delay() -> None:
    draining = epoch(1, State.SERVING)
    made = shutdown(draining, policy=Policy(drain_delay=10, min_drain=4))
    made.stop(100.0)
    made.time_passed(110.0)
    assert made.keeps(draining, 113.0)
    assert draining.deadline == 114.0


def test_without_a_shutdown_an_empty_epoch_goes_at_once() -> None:
    draining = epoch(1, State.DRAINING, 700.0)
    made = shutdown(draining, policy=Policy(min_drain=60))
    assert not made.keeps(draining, -NEVER)
    assert (draining.is_empty, draining.deadline) == (False, 700.0)


def test_without_a_shortest_drain_an_empty_epoch_goes_at_once() -> None:
    draining = epoch(1, State.SERVING)
    made = shutdown(draining)
    made.stop(100.0)
    assert not made.keeps(draining, 100.0)


# The end


def test_the_agent_exits_when_the_last_epoch_has_exited() -> None:
    made = Shutdown(POLICY, epochs := {1: epoch(1, State.SERVING)})
    made.stop(100.0)
    assert made.leave() == []
    epochs.clear()
    assert made.leave() == [STOPPED]


def test_a_drain_alone_does_not_exit() -> None:
    made = shutdown()
    made.begin(100.0)
    assert made.leave() == []


def test_an_end_for_another_reason_is_immediate_and_has_its_own_code() -> None:
    made = Shutdown(POLICY, epochs := {1: epoch(1, State.SERVING), 2: epoch(2, State.DRAINING, 700.0)})
    assert made.end(100.0, ANOTHER) == [do.EndEpoch(1), do.EndEpoch(2)]
    assert made.has_begun
    assert [each.deadline for each in epochs.values()] == [105.0, 105.0]
    assert made.begin(101.0) == []
    epochs.clear()
    assert made.leave() == [ANOTHER]
