from agent.core.backoff import Backoff
from agent.core.policy import Policy, back_off


def test_the_back_off_begins_at_once_doubles_and_is_capped() -> None:
    delays = [back_off(failures, 60.0) for failures in range(13)]
    assert delays == [0, 0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60]


def test_jitter_shortens_a_delay_by_half_at_most() -> None:
    early, late = Backoff(Policy(), lambda: 0.0), Backoff(Policy(), lambda: 1.0)
    for _ in range(5):
        shortest, longest = early.fail(0.0, urgent=False), late.fail(0.0, urgent=False)
    assert shortest * 2 == longest == 1.6


def test_near_expiry_the_longest_delay_is_a_sixth() -> None:
    attempts = Backoff(Policy(retry_limit=60), lambda: 1.0)
    assert [attempts.fail(0.0, urgent=True) for _ in range(20)][-1] == 10.0


def test_a_failure_long_after_the_last_one_begins_a_new_row() -> None:
    policy = Policy(start_timeout=30, healthy_timeout=30)
    attempts = Backoff(policy, lambda: 1.0)
    for _ in range(6):
        attempts.fail(0.0, urgent=False)
    assert attempts.fail(attempts.not_before + 61, urgent=False) == 0.0
