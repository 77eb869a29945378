import pytest

from agent.core.backoff import Backoff
from agent.core.policy import Policy


def backoff(policy: Policy | None = None, jitter: float = 1.0) -> Backoff:
    return Backoff(policy or Policy(), lambda: jitter)


def delays(made: Backoff, failures: int, *, urgent: bool = False) -> list[float]:
    """Let attempts fail at one moment; return the delay after each."""
    return [made.fail(100.0, urgent=urgent) for _ in range(failures)]


# Failures


def test_the_first_failure_is_retried_at_once_and_the_delay_doubles() -> None:
    assert delays(backoff(), 5) == [0.0, 0.2, 0.4, 0.8, 1.6]


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 0.8), (0.5, 1.2), (1.0, 1.6)])
def test_jitter_shortens_a_delay_by_half_at_most(jitter: float, delay: float) -> None:
    assert delays(backoff(jitter=jitter), 5)[-1] == pytest.approx(delay)


def test_the_next_attempt_may_start_when_the_delay_is_over() -> None:
    made = backoff()
    assert made.not_before == float("-inf")
    made.fail(100.0, urgent=False)
    assert made.not_before == 100.0
    made.fail(100.0, urgent=False)
    assert made.not_before == 100.2


def test_the_longest_delay_is_the_limit() -> None:
    assert delays(backoff(Policy(retry_limit=7)), 20)[-1] == 7.0


def test_near_expiry_the_longest_delay_is_a_sixth() -> None:
    assert delays(backoff(Policy(retry_limit=60)), 20, urgent=True)[-1] == 10.0


def test_near_expiry_a_delay_below_the_sixth_is_the_same() -> None:
    assert delays(backoff(Policy(retry_limit=60)), 5, urgent=True) == [0.0, 0.2, 0.4, 0.8, 1.6]


def test_forgiving_begins_a_new_row_and_allows_an_attempt_now() -> None:
    made = backoff()
    delays(made, 6)
    made.postpone(100.0, urgent=False)
    made.forgive()
    assert (made.in_a_row, made.postponed, made.not_before) == (0, 0, float("-inf"))
    assert delays(made, 2) == [0.0, 0.2]


@pytest.mark.parametrize(("later", "delay"), [(60.0, 3.2), (60.1, 0.0)])
def test_a_failure_after_more_than_a_start_and_a_healthy_time_begins_a_new_row(later: float, delay: float) -> None:
    made = backoff(Policy(start_timeout=20, healthy_timeout=40))
    delays(made, 5)
    assert made.fail(made.not_before + later, urgent=False) == delay


def test_the_healthy_time_counts_from_the_end_of_the_delay() -> None:
    made = backoff(Policy(start_timeout=10, healthy_timeout=10, retry_limit=60))
    delays(made, 12)
    assert made.fail(100.0 + 79.0, urgent=False) == 60.0


# Attempts that are not made


def test_a_postponed_attempt_delays_the_next_and_is_no_failure() -> None:
    made = backoff(Policy(give_up=1))
    made.postpone(100.0, urgent=False)
    assert made.not_before == 100.2
    made.postpone(100.0, urgent=False)
    assert made.not_before == 100.4
    assert (made.in_a_row, made.postponed) == (0, 2)
    assert not made.used_up(100.0)
    assert made.fail(100.0, urgent=False) == 0.0


def test_postponed_attempts_are_spaced_by_the_limit_and_closer_near_expiry() -> None:
    calm, urgent = backoff(Policy(retry_limit=60)), backoff(Policy(retry_limit=60))
    for _ in range(20):
        calm.postpone(100.0, urgent=False)
        urgent.postpone(100.0, urgent=True)
    assert (calm.not_before, urgent.not_before) == (160.0, 110.0)


@pytest.mark.parametrize(("later", "delay"), [(60.0, 1.6), (60.5, 0.2)])
def test_a_row_of_postponed_attempts_ends_after_a_healthy_time(later: float, delay: float) -> None:
    made = backoff(Policy(start_timeout=30, healthy_timeout=30))
    for _ in range(3):
        made.postpone(100.0, urgent=False)
    at = made.not_before + later
    made.postpone(at, urgent=False)
    assert made.not_before == pytest.approx(at + delay)


# Crashes of a serving epoch


def test_the_first_crashes_are_answered_at_once_and_are_no_failures() -> None:
    made = backoff(Policy(crashes_forgiven=3, give_up=1))
    assert [made.crash(at, urgent=False) for at in (1.0, 2.0, 3.0)] == [0.0, 0.0, 0.0]
    assert (made.not_before, made.in_a_row) == (3.0, 0)
    assert not made.used_up(3.0)


def test_each_further_crash_within_a_minute_is_a_failure() -> None:
    made = backoff(Policy(crashes_forgiven=3))
    assert [made.crash(50.0, urgent=False) for _ in range(7)] == [0.0, 0.0, 0.0, 0.0, 0.2, 0.4, 0.8]
    assert made.not_before == 50.8


@pytest.mark.parametrize(("at", "failures"), [(59.9, 1), (60.0, 0)])
def test_a_crash_counts_for_less_than_a_minute(at: float, failures: int) -> None:
    made = backoff(Policy(crashes_forgiven=1))
    made.crash(0.0, urgent=False)
    made.crash(at, urgent=False)
    assert made.in_a_row == failures


def test_a_crash_near_expiry_waits_for_the_shorter_limit() -> None:
    made = backoff(Policy(crashes_forgiven=0, retry_limit=60))
    assert [made.crash(50.0, urgent=True) for _ in range(20)][-1] == 10.0


# Giving up


def test_without_a_limit_the_attempts_are_never_used_up() -> None:
    made = backoff()
    delays(made, 1000)
    assert made.used_up(100.0) is False


def test_the_attempts_are_used_up_at_the_limit_and_not_before() -> None:
    made = backoff(Policy(give_up=3))
    assert [(made.fail(1.0, urgent=False), made.used_up(1.0))[1] for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(("at", "used_up"), [(309.9, True), (310.0, False)])
def test_a_failure_counts_for_the_window_only(at: float, used_up: bool) -> None:
    made = backoff(Policy(give_up=2, give_up_window=300))
    made.fail(10.0, urgent=False)
    made.fail(250.0, urgent=False)
    assert made.used_up(at) is used_up
