import pytest

from agent.core.desired import NEVER, DesiredState, RejectedRevision
from agent.core.policy import Policy
from agent.core.revision import Revision
from agent.core.triggers import Trigger

A, B, C = Revision("a", "x"), Revision("b", "x"), Revision("c", "x")
OTHER = Revision("other", "y")
POLICY = Policy(quiet_timeout=1.0, quiet_limit=10.0, burst=3, drain_patience=45.0)


def desired(wanted: Revision | None = None, last_good: Revision | None = None) -> DesiredState:
    return DesiredState(POLICY, wanted, last_good)


def refused(revision: Revision) -> RejectedRevision:
    return RejectedRevision(revision, "it does not parse")


def test_at_first_nothing_is_asked_for_paused_scheduled_or_urgent() -> None:
    state = desired()
    assert (state.restart_asked, state.now_asked, state.is_burst, state.is_urgent(1e9)) == (False,) * 4
    assert (state.paused_until, state.not_before) == (-NEVER, -NEVER)
    assert not refused(A).pinned


# Whether there is anything to start


@pytest.mark.parametrize(
    ("wanted", "last_good", "rejected", "hope"),
    [
        (None, None, None, False),
        (A, None, None, True),
        (A, None, A, False),
        (A, A, A, True),
        (None, A, None, True),
        (B, A, B, True),
    ],
)
def test_there_is_hope_while_a_revision_is_left_that_was_not_rejected(
    wanted: Revision | None, last_good: Revision | None, rejected: Revision | None, hope: bool
) -> None:
    state = desired(wanted, last_good)
    state.refused = refused(rejected) if rejected else None
    assert state.has_hope is hope


# A change


def test_a_change_is_wanted_from_its_own_time_on_and_clears_the_rejection() -> None:
    state = desired(A, A)
    state.refused = refused(A)
    state.change(B, 100.0, not_before=160.0)
    assert (state.wanted, state.not_before, state.changed_at) == (B, 160.0, 100.0)
    assert state.has_hope
    assert state.due(A, 100.0) == B
    assert state.last_good == A


def test_the_oldest_change_that_does_not_serve_counts_as_waiting() -> None:
    state = desired(A, A)
    assert state.waits_for_drains_until == NEVER
    state.change(B, 100.0, -NEVER)
    state.change(C, 130.0, -NEVER)
    assert state.waits_for_drains_until == 145.0


def test_a_change_that_is_taken_back_waits_for_nothing() -> None:
    state = desired(A, A)
    state.change(B, 100.0, -NEVER)
    state.change(A, 110.0, -NEVER)
    state.change(C, 900.0, -NEVER)
    assert state.waits_for_drains_until == 945.0


def test_a_restart_that_was_asked_for_still_waits_when_a_change_is_taken_back() -> None:
    state = desired(A, A)
    state.ask(Trigger.OPERATOR, 100.0, now=False, again=True)
    state.change(B, 110.0, -NEVER)
    state.change(A, 120.0, -NEVER)
    assert state.waits_for_drains_until == 145.0


def test_a_change_that_is_taken_back_too_late_waits_as_long_as_what_it_undoes() -> None:
    """The candidate could not be stopped any more."""
    state = desired(A, A)
    state.change(B, 100.0, -NEVER)
    state.change(A, 110.0, -NEVER)
    state.served(B)
    assert state.waits_for_drains_until == 145.0


def test_a_rejected_change_waits_for_nothing() -> None:
    state = desired(A, A)
    state.change(B, 100.0, -NEVER)
    state.refused = refused(B)
    state.change(C, 900.0, -NEVER)
    assert state.waits_for_drains_until == 945.0
    state.refused = refused(C)
    state.ask(Trigger.OPERATOR, 2000.0, now=False, again=True)
    assert state.waits_for_drains_until == 2045.0


def test_a_change_after_a_request_that_has_no_time_of_its_own_waits_from_now_on() -> None:
    state = desired(A, A)
    state.restart_asked = True
    state.change(B, 100.0, -NEVER)
    assert state.waits_for_drains_until == 145.0


def test_a_change_waits_on_when_the_one_before_it_is_rejected() -> None:
    state = desired(A, A)
    state.change(B, 100.0, -NEVER)
    state.change(C, 110.0, -NEVER)
    state.refused = refused(B)
    state.change(OTHER, 120.0, -NEVER)
    assert state.waits_for_drains_until == 145.0


# Bursts


@pytest.mark.parametrize(("gap", "is_burst"), [(0.0, True), (0.9, True), (1.0, False), (5.0, False)])
def test_changes_closer_than_the_quiet_time_are_a_burst(gap: float, is_burst: bool) -> None:
    state = desired(A, A)
    for number in range(4):
        state.change(Revision(str(number), "x"), 100.0 + number * gap, -NEVER)
    assert state.is_burst is is_burst


def test_a_burst_begins_with_the_change_after_the_allowed_ones_and_ends_with_a_pause() -> None:
    state = desired(A, A)
    bursts = []
    for number, at in enumerate([100.0, 100.1, 100.2, 100.3, 100.4, 105.0]):
        state.change(Revision(str(number), "x"), at, -NEVER)
        bursts.append(state.is_burst)
    assert bursts == [False, False, False, True, True, False]


def test_the_disk_is_still_when_the_quiet_time_has_passed_since_the_last_change() -> None:
    state = desired(A, A)
    state.change(B, 100.0, -NEVER)
    state.change(C, 100.5, -NEVER)
    assert state.still_at(100.5) == 101.5


def test_no_change_waits_longer_than_the_limit_for_a_still_disk() -> None:
    state = desired(A, A)
    state.change(B, 100.0, -NEVER)
    state.change(C, 109.8, -NEVER)
    assert state.still_at(109.8) == 110.0


def test_where_no_change_waits_the_limit_counts_from_now() -> None:
    state = desired(A, A)
    state.changed_at = 300.0
    assert state.still_at(200.0) == 210.0


# A request


def test_a_request_clears_the_rejection_and_the_schedule() -> None:
    state = desired(B, A)
    state.refused, state.not_before = refused(B), 9000.0
    state.ask(Trigger.HUNG, 100.0, now=False, again=False)
    assert (state.due(A, 100.0), state.not_before, state.asked_for) == (B, -NEVER, Trigger.HUNG)


def test_a_request_for_what_is_already_on_its_way_starts_no_second_one() -> None:
    state = desired(B, A)
    state.ask(Trigger.OPERATOR, 100.0, now=False, again=False)
    assert not state.restart_asked
    assert state.waits_for_drains_until == NEVER


def test_a_request_stands_until_a_candidate_starts_for_it() -> None:
    state = desired(A, A)
    state.ask(Trigger.OPERATOR, 100.0, now=False, again=True)
    state.ask(Trigger.OPERATOR, 130.0, now=False, again=False)
    assert state.restart_asked
    assert state.waits_for_drains_until == 145.0
    state.try_now(A)
    assert (state.restart_asked, state.tried) == (False, A)


def test_now_is_not_taken_back_by_a_second_request() -> None:
    state = desired(A, A)
    state.ask(Trigger.OPERATOR, 100.0, now=True, again=True)
    state.ask(Trigger.OPERATOR, 101.0, now=False, again=True)
    assert state.now_asked


# What serves


def test_the_wanted_revision_waits_no_longer_once_it_serves() -> None:
    state = desired(A, A)
    state.change(B, 100.0, -NEVER)
    state.served(B)
    assert (state.last_good, state.waits_for_drains_until) == (B, NEVER)


def test_an_outdated_revision_that_serves_is_last_good_and_the_wanted_one_waits_on() -> None:
    state = desired(A, A)
    state.change(B, 100.0, -NEVER)
    state.change(C, 101.0, -NEVER)
    state.served(B)
    assert (state.last_good, state.wanted, state.waits_for_drains_until) == (B, C, 145.0)


def test_an_adopted_revision_is_last_good_and_wanted() -> None:
    state = desired(B, None)
    state.adopt(A)
    assert (state.wanted, state.last_good) == (A, A)


# What is due


@pytest.mark.parametrize(
    ("wanted", "serving", "asked", "due"),
    [
        (A, A, False, None),
        (A, A, True, A),
        (B, A, False, B),
        (B, A, True, B),
        (None, A, True, None),
    ],
)
def test_while_something_serves_a_change_or_a_request_is_due(
    wanted: Revision | None, serving: Revision, asked: bool, due: Revision | None
) -> None:
    state = desired(wanted, A)
    state.restart_asked = asked
    assert state.due(serving, 100.0) == due


@pytest.mark.parametrize(
    ("wanted", "last_good", "tried", "due"),
    [
        (None, None, None, None),
        (A, None, None, A),
        (A, None, A, A),
        (B, A, None, A),
        (B, A, B, A),
        (B, A, A, B),
        (None, A, A, A),
        (A, A, A, A),
    ],
)
def test_while_nothing_serves_last_good_comes_first_and_then_they_take_turns(
    wanted: Revision | None, last_good: Revision | None, tried: Revision | None, due: Revision | None
) -> None:
    state = desired(wanted, last_good)
    state.tried = tried
    assert state.due(None, 100.0) == due


def test_the_wanted_revision_may_be_preferred_to_last_good() -> None:
    state = desired(B, A)
    state.prefer_wanted()
    assert state.due(None, 100.0) == B


@pytest.mark.parametrize("serving", [A, None])
def test_a_rejected_revision_is_not_due_and_last_good_is_while_nothing_serves(serving: Revision | None) -> None:
    state = desired(B, A)
    state.tried, state.refused = A, refused(B)
    assert state.due(serving, 100.0) == (None if serving else A)


def test_the_rejection_of_another_revision_does_not_count() -> None:
    state = desired(B, A)
    state.refused = refused(C)
    assert state.due(A, 100.0) == B


@pytest.mark.parametrize(("at", "due"), [(199.9, None), (200.0, B), (300.0, B)])
def test_near_expiry_a_rejection_no_longer_counts(at: float, due: Revision | None) -> None:
    state = desired(B, A)
    state.urgent_at, state.refused = 200.0, refused(B)
    assert state.due(A, at) == due
    assert state.is_urgent(at) is (due is not None)


@pytest.mark.parametrize(("at", "when"), [(199.9, 200.0), (200.0, NEVER)])
def test_a_rejection_is_reconsidered_when_expiry_comes_near_and_only_once(at: float, when: float) -> None:
    state = desired(B, A)
    state.urgent_at, state.refused = 200.0, refused(B)
    assert state.reconsidered_at(at) == when


def test_without_a_rejection_nothing_is_reconsidered() -> None:
    state = desired(B, A)
    state.urgent_at = 200.0
    assert state.reconsidered_at(100.0) == NEVER


# Why


@pytest.mark.parametrize(
    ("serving", "last_good", "asked", "revision", "trigger"),
    [
        (None, None, False, A, Trigger.START),
        (None, None, True, A, Trigger.START),
        (None, A, False, A, Trigger.CRASH),
        (None, A, True, B, Trigger.CRASH),
        (A, A, True, OTHER, Trigger.HUNG),
        (A, A, False, B, Trigger.CERTIFICATE),
        (A, A, False, OTHER, Trigger.CONFIGURATION),
    ],
)
def test_an_epoch_is_started_for_one_reason(
    serving: Revision | None, last_good: Revision | None, asked: bool, revision: Revision, trigger: Trigger
) -> None:
    state = desired(revision, last_good)
    if asked:
        state.ask(Trigger.HUNG, 100.0, now=False, again=True)
    assert state.is_for(serving, revision) is trigger
