import time

import pytest

from agent.demo.environment import Environment
from agent.demo.faults import KILL_LIMIT, KILL_WINDOW, Faults
from agent.demo.results import Kill, Rotation
from agent.demo.settings import Settings
from agent.demo.watch import Watch

PERIOD = 6


@pytest.fixture
def watch() -> Watch:
    """Return a watch over a scene that has not begun."""
    return Watch(Environment(Settings("envoy", 2.0, 30.0)), print)


def faults(watch: Watch) -> Faults:
    return Faults(watch, watch.scene.authority, lambda: Rotation("a1", 0.0), 1.0)


def test_faults_come_in_the_same_order_again_and_again(watch: Watch) -> None:
    drawn = faults(watch)
    order = [drawn.next() for _ in range(2 * PERIOD)]
    assert order[:PERIOD] == order[PERIOD:]
    assert len(set(order)) == PERIOD
    assert sum(fault.kills for fault in order[:PERIOD]) == 2


def test_thirty_seconds_at_the_usual_pace_show_every_fault() -> None:
    rotations = 30 // 2
    assert rotations // 2 >= PERIOD


def test_no_more_is_killed_than_the_agent_answers_at_once(watch: Watch) -> None:
    now = time.monotonic()
    watch.score.kills += [Kill(number, now - number) for number in range(KILL_LIMIT)]
    drawn = faults(watch)
    assert not any(drawn.next().kills for _ in range(2 * PERIOD))
    watch.score.kills[-1].struck = now - KILL_WINDOW - 1
    assert any(drawn.next().kills for _ in range(PERIOD))
