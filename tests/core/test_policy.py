import re
from pathlib import Path

import pytest

from agent.core.policy import LowMemory, Policy, Restart, back_off

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_the_back_off_begins_at_once_doubles_and_is_capped() -> None:
    delays = [back_off(failures, 60.0) for failures in range(13)]
    assert delays == [0, 0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60]


@pytest.mark.parametrize("failures", [-1, 0, 1])
def test_the_first_failure_costs_no_delay(failures: int) -> None:
    assert back_off(failures, 60.0) == 0.0


@pytest.mark.parametrize(("limit", "delay"), [(0.1, 0.1), (0.0, 0.0), (0.2, 0.2), (1e9, 0.2)])
def test_a_limit_below_the_first_delay_caps_it(limit: float, delay: float) -> None:
    assert back_off(2, limit) == delay


def test_ten_thousand_failures_in_a_row_are_capped_too() -> None:
    assert back_off(10_000, 60.0) == 60.0


@pytest.mark.parametrize(
    ("option", "documented", "value"),
    [
        ("--drain-time", "45s", Policy().drain_patience == 45.0),
        ("--drain-deadline", "10m", Policy().drain_timeout == 600.0),
        ("--stop-deadline", "30s", Policy().stop_timeout == 30.0),
        ("--drain-delay", "0s", Policy().drain_delay == 0.0),
        ("--min-drain", "0s", Policy().min_drain == 0.0),
        ("--start-deadline", "30s", Policy().start_timeout == 30.0),
        ("--hold", "5s", Policy().hold_timeout == 5.0),
        ("--restart", "always", Policy().restart is Restart.ALWAYS),
        ("--low-memory", "wait", Policy().low_memory is LowMemory.WAIT),
        ("--give-up", "", Policy().give_up is None and Policy().give_up_window == 300.0),
    ],
)
def test_the_default_of_an_option_is_the_documented_one(option: str, documented: str, value: bool) -> None:
    row = re.search(
        rf"^\| (?:`|<code>){option}\b[^`|]*?(?:`|</code>) \| `?([^`|]*?)`? \|", REFERENCE.read_text(), re.MULTILINE
    )
    assert row is not None
    assert row[1] == documented
    assert value


def test_three_epochs_may_drain_and_a_retry_comes_within_a_minute() -> None:
    """See docs/operations.md and docs/architecture.md."""
    assert (Policy().drains, Policy().retry_limit) == (3, 60.0)


def test_a_first_start_waits_for_usable_files() -> None:
    assert Policy().wait is True
