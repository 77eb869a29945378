from pathlib import Path

import pytest

from agent.core.epochs import TRANSITIONS, Epoch, InvalidTransition, State, Step, picture
from tests.core.reconciler_driver import revision


def test_every_state_has_its_row_and_its_word() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {state.word for state in State} == {"candidate", "serving", "draining", "gone"}


def test_every_epoch_can_die_at_any_time() -> None:
    assert all(row.get(Step.EXIT) is State.GONE for state, row in TRANSITIONS.items() if state is not State.GONE)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_a_step_goes_where_the_table_says_or_is_refused_by_name(state: State, step: Step) -> None:
    epoch = Epoch(7, revision("a"), 0.0, state)
    target = TRANSITIONS[state].get(step)
    if target is None:
        with pytest.raises(InvalidTransition, match=f"epoch 7 {step.value} while it is {state.value}"):
            epoch.apply(step)
    else:
        epoch.apply(step)
        assert epoch.state is target


def test_the_picture_in_the_readme_is_the_table() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert f"```mermaid\n{picture()}\n```" in readme.read_text()
