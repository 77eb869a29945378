from collections.abc import Callable

import pytest

from agent.core import effects as do
from agent.core import transitions
from agent.core.effects import Effect
from agent.core.epochs import Epoch, InvalidTransition, State
from agent.core.revision import Revision


def epoch(state: State) -> Epoch:
    return Epoch(7, Revision("a", "x"), 0.0, state, deadline=50.0)


def test_a_drain_has_a_deadline() -> None:
    drained = epoch(State.SERVING)
    assert transitions.drain(drained, 600.0) == do.DrainEpoch(7)
    assert (drained.state, drained.deadline) == (State.DRAINING, 600.0)


@pytest.mark.parametrize("state", [each for each in State if each is not State.GONE])
def test_every_living_epoch_can_be_ended_and_is_killed_at_its_deadline(state: State) -> None:
    ended = epoch(state)
    assert transitions.end(ended, 5.0) == do.EndEpoch(7)
    assert (ended.state, ended.deadline) == (State.TERMINATING, 5.0)


@pytest.mark.parametrize("state", [State.STARTING, State.WAITING, State.OPENING])
def test_a_dropped_candidate_is_killed_at_once_and_has_no_deadline_left(state: State) -> None:
    dropped = epoch(state)
    assert transitions.drop(dropped, "it is late") == do.DropEpoch(7, "it is late")
    assert (dropped.state, dropped.deadline) == (State.TERMINATING, None)


@pytest.mark.parametrize(
    ("state", "step"),
    [
        *((state, lambda each: transitions.drain(each, 1.0)) for state in State if state is not State.SERVING),
        (State.GONE, lambda each: transitions.end(each, 1.0)),
        (State.GONE, lambda each: transitions.drop(each, "late")),
    ],
)
def test_a_step_that_cannot_be_taken_is_a_bug_and_changes_nothing(
    state: State, step: Callable[[Epoch], Effect]
) -> None:
    stuck = epoch(state)
    with pytest.raises(InvalidTransition, match="epoch 7"):
        step(stuck)
    assert (stuck.state, stuck.deadline) == (state, 50.0)
