import pytest

from agent.core import effects as do
from agent.core import events as on
from agent.core.effects import LogTopic
from agent.core.epochs import State
from agent.core.policy import LowMemory, Policy, Restart
from agent.core.reconciler import Reconciler
from tests.core.reconciler_driver import PERMANENT, TRANSIENT, ReconcilerDriver, revision, serving

# One rotation


def test_the_first_revision_starts_epoch_one_and_is_checked_like_any_other() -> None:
    play = ReconcilerDriver()
    assert play.ready("a") == [do.StartEpoch(1, revision("a"), validate=False)]
    assert play.gate(1) == [do.JudgeEpoch(1)]
    assert play.judged(1) == [do.OpenGate(1)]
    assert play.serves(1) == [do.CommitEpoch(1)]


def test_a_rotation_is_checked_before_the_gate_opens_and_drains_the_old_epoch_only_at_the_commit() -> None:
    play = serving()
    assert play.ready("b") == [do.StartEpoch(2, revision("b"), validate=False)]
    assert play.gate(2) == [do.JudgeEpoch(2)]
    assert play.judged(2) == [do.OpenGate(2)]
    assert play.serves(2) == [do.CommitEpoch(2), do.DrainEpoch(1)]
    assert play.emptied(1) == [do.EndEpoch(1)]
    assert play.exits(1, 0) == []


def test_the_same_content_again_does_nothing() -> None:
    assert serving().ready("a") == []


def test_a_changed_configuration_is_validated_and_a_changed_certificate_is_not() -> None:
    play = serving()
    assert play.ready("b", config_digest="another") == [do.StartEpoch(2, revision("b", "another"), validate=True)]


def test_an_operator_gets_a_new_epoch_of_the_same_revision() -> None:
    assert serving().restart() == [do.StartEpoch(2, revision("a"), validate=False)]


def test_changes_while_a_candidate_is_on_its_way_coalesce_into_the_newest() -> None:
    play = serving()
    play.ready("b")
    assert [play.ready(name) for name in "cd"] == [[], []]
    assert play.come_to_serve() == [
        do.CommitEpoch(2),
        do.DrainEpoch(1),
        do.StartEpoch(3, revision("d"), validate=False),
    ]


def test_a_candidate_that_lost_its_purpose_is_dropped() -> None:
    play = serving()
    play.ready("b")
    assert play.ready("a") == [do.DropEpoch(2, "the serving revision is wanted again")]


# Drains


def test_what_is_left_at_the_drain_deadline_is_ended_and_killed_if_it_does_not_go() -> None:
    play = serving(Policy(drain_timeout=60, end_timeout=5))
    play.rotate("b")
    assert play.wait(59.9) == []
    assert play.wait(0.2) == [do.EndEpoch(1)]
    assert play.wait(5) == [do.KillEpoch(1)]
    assert play.notes[-1].topic is LogTopic.DRAIN_CUT


def test_a_drain_ends_at_latest_with_the_old_certificate() -> None:
    play = serving(Policy(drain_timeout=600))
    play.urgent(play.now + 5, expires_at=play.now + 10)
    play.rotate("b")
    assert play.wait(10.1) == [do.EndEpoch(1)]


def test_a_rotation_waits_when_three_epochs_drain_and_goes_on_when_one_is_gone() -> None:
    play = serving()
    for name in "bc":
        play.rotate(name)
    play.ready("d")
    play.wait(0.3)
    play.come_to_serve()
    assert [epoch.number for epoch in play.core.draining] == [1, 2, 3]
    assert play.ready("e") == []
    assert play.wait(40) == []
    assert play.notes[-1].topic is LogTopic.HELD_BY_DRAINS
    assert play.emptied(2) == [do.EndEpoch(2), do.StartEpoch(5, revision("e"), validate=False)]


def test_a_change_waits_for_a_drain_to_end_but_not_for_ever() -> None:
    play = serving(Policy(drains=1, drain_patience=10))
    play.rotate("b")
    play.ready("c")
    assert play.wait(9.9) == []
    assert play.wait(0.2) == [do.StartEpoch(3, revision("c"), validate=False)]
    play.come_to_serve()
    assert [epoch.number for epoch in play.core.draining] == [1, 2]
    assert play.ready("d") == []
    assert play.wait(9.9) == [], "the next one waits as long"


def test_a_change_after_one_that_was_taken_back_waits_as_long_as_any_other() -> None:
    play = serving(Policy(drains=1, drain_patience=10))
    play.rotate("b")
    assert play.ready("c") == []
    assert play.ready("b") == []
    play.wait(100)
    assert play.ready("d") == []
    assert play.wait(9.9) == []
    assert play.wait(0.2) == [do.StartEpoch(3, revision("d"), validate=False)]


def test_a_change_after_one_that_was_rejected_waits_as_long_as_any_other() -> None:
    play = serving(Policy(drains=1, drain_patience=10))
    play.rotate("b")
    play.ready("c")
    play.wait(10)
    assert play.exits(3, 1, PERMANENT) == []
    play.wait(100)
    assert play.ready("d") == []
    assert play.wait(9.9) == []
    assert play.wait(0.2) == [do.StartEpoch(4, revision("d"), validate=False)]


def test_an_epoch_that_is_asked_for_waits_no_longer() -> None:
    play = serving(Policy(drains=1, drain_patience=10))
    play.rotate("b")
    play.restart()
    assert play.wait(9.9) == []
    assert play.wait(0.2) == [do.StartEpoch(3, revision("b"), validate=False)]


def test_expiry_overrides_the_cap_on_drains() -> None:
    play = serving(Policy(drains=1, drain_patience=600))
    play.rotate("b")
    play.urgent(play.now + 100, expires_at=play.now + 200)
    play.ready("c")
    assert play.wait(99.9) == []
    assert play.wait(0.2) == [do.StartEpoch(3, revision("c"), validate=False)]


def test_the_last_free_drain_is_spent_only_when_the_disk_has_been_still() -> None:
    play = serving(Policy(quiet_timeout=0.3, quiet_limit=2.0))
    play.rotate("b")
    play.rotate("c")
    for name in "defg":
        assert play.ready(name) == []
        assert play.wait(0.1) == []
    assert play.wait(0.2) == [do.StartEpoch(4, revision("g"), validate=False)]


def test_a_burst_of_changes_costs_a_handful_of_epochs_and_the_last_is_served() -> None:
    play = serving()
    for number in range(20):
        play.ready(f"b{number}")
        play.wait(0.05)
        if play.core.candidate:
            play.come_to_serve()
            for epoch in play.core.draining:
                play.emptied(epoch.number)
                play.exits(epoch.number, 0)
        play.wait(0.05)
    play.wait(0.2)
    play.come_to_serve()
    assert play.core.serving is not None
    assert play.core.serving.revision == revision("b19")
    assert play.core.next_epoch <= 7


def test_a_disk_that_is_never_still_is_served_all_the_same() -> None:
    play = serving(Policy(quiet_timeout=0.3, quiet_limit=1.0))
    play.rotate("b")
    play.rotate("c")
    started = []
    for number in range(12):
        started += play.ready(f"d{number}") + play.wait(0.125)
    assert started == [do.StartEpoch(4, revision("d7"), validate=False)]


# Candidates that fail


def test_a_candidate_killed_at_the_gate_is_retried_at_once_without_an_effect_on_the_serving_epoch() -> None:
    play = serving()
    play.ready("b")
    play.gate(2)
    assert play.exits(2) == [do.StartEpoch(3, revision("b"), validate=False)]


def test_a_transient_failure_is_retried_without_end_with_growing_delays_up_to_the_limit() -> None:
    play = serving(Policy(retry_limit=60))
    play.ready("b")
    delays = []
    for number in range(2, 16):
        play.exits(number)
        delays.append(0.0 if play.core.candidate else (play.core.deadline or 0) - play.now)
        play.wait(delays[-1])
    assert [round(delay, 1) for delay in delays] == [0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60, 60, 60]


def test_a_permanent_failure_is_not_retried_until_the_content_changes() -> None:
    play = serving()
    play.ready("b")
    assert play.exits(2, 1, PERMANENT) == []
    assert play.wait(3600) == []
    assert play.notes[-1].topic is LogTopic.REFUSED
    assert play.ready("b") == []
    assert play.ready("c") == [do.StartEpoch(3, revision("c"), validate=False)]


def test_a_permanent_failure_is_retried_when_an_operator_asks() -> None:
    play = serving()
    play.ready("b")
    play.exits(2, 1, PERMANENT)
    assert play.restart() == [do.StartEpoch(3, revision("b"), validate=False)]


def test_a_permanent_failure_is_retried_when_the_served_certificate_expires_soon() -> None:
    play = serving()
    play.urgent(play.now + 50, expires_at=play.now + 100)
    play.ready("b")
    play.exits(2, 1, PERMANENT)
    play.wait(49)
    assert play.core.candidate is None
    assert play.wait(2) == [do.StartEpoch(3, revision("b"), validate=False)]


def test_a_candidate_that_does_not_serve_in_time_is_dropped_and_retried() -> None:
    play = serving(Policy(start_timeout=30))
    play.ready("b")
    dropped, started = play.wait(30)
    assert isinstance(dropped, do.DropEpoch)
    assert started == do.StartEpoch(3, revision("b"), validate=False)


def test_a_candidate_that_does_not_become_ready_is_dropped_for_a_newer_revision() -> None:
    play = serving(Policy(start_timeout=30, overtaken_timeout=10))
    play.ready("b")
    play.wait(5)
    assert play.ready("c") == []
    dropped, started = play.wait(5)
    assert isinstance(dropped, do.DropEpoch)
    assert started == do.StartEpoch(3, revision("c"), validate=False)
    play.wait(10)
    dropped, started = play.ready("d")
    assert isinstance(dropped, do.DropEpoch)
    assert started == do.StartEpoch(4, revision("d"), validate=False)


def test_a_candidate_that_fails_the_check_is_dropped() -> None:
    play = serving()
    play.ready("b")
    play.gate(2)
    assert play.judged(2, PERMANENT) == [do.DropEpoch(2, PERMANENT.reason)]
    assert play.exits(2) == []


def test_words_of_a_dropped_candidate_that_come_late_change_nothing() -> None:
    play = serving()
    play.ready("b")
    play.gate(2)
    play.judged(2, PERMANENT)
    assert play.serves(2) == []
    assert play.core.serving is not None
    assert play.core.serving.number == 1


# The serving epoch exits


def test_a_crash_is_answered_by_last_good_at_once() -> None:
    play = serving()
    assert play.exits(1) == [do.StartEpoch(2, revision("a"), validate=False)]


def test_last_good_starts_although_the_disk_holds_something_that_was_refused() -> None:
    play = serving()
    play.ready("b")
    play.exits(2, 1, PERMANENT)
    assert play.exits(1) == [do.StartEpoch(3, revision("a"), validate=False)]


def test_five_crashes_a_second_apart_are_each_answered_at_once() -> None:
    play = serving()
    for number in range(1, 6):
        assert play.exits(number) == [do.StartEpoch(number + 1, revision("a"), validate=False)]
        play.come_to_serve()
        play.wait(1)


def test_an_endless_row_of_crashes_costs_a_few_starts_a_minute() -> None:
    play = serving()
    began = play.now
    while play.now < began + 600:
        assert play.core.serving is not None
        play.exits(play.core.serving.number)
        while play.core.candidate is None:
            assert play.core.deadline is not None
            play.wait(play.core.deadline - play.now)
        play.come_to_serve()
    assert play.core.next_epoch < 100


def test_clients_are_held_and_then_refused_while_nothing_serves() -> None:
    play = serving(Policy(hold_timeout=5))
    play.exits(1)
    assert play.wait(4.9) == []
    assert play.wait(0.2) == [do.RefuseClients()]


def test_clients_are_held_longer_for_a_candidate_that_is_about_to_serve_and_no_longer_once_it_fails() -> None:
    play = serving(Policy(hold_timeout=5, start_timeout=30))
    play.exits(1)
    play.wait(4.9)
    play.gate(2)
    play.judged(2)
    assert play.wait(0.2) == []
    assert do.RefuseClients() not in play.exits(2)
    assert do.RefuseClients() in play.wait(0)


def test_clients_that_were_held_longer_are_served() -> None:
    play = serving(Policy(hold_timeout=5))
    play.exits(1)
    play.wait(4.9)
    play.gate(2)
    play.judged(2)
    assert play.wait(1) == []
    assert play.serves(2) == [do.CommitEpoch(2)]
    assert play.wait(60) == []
    assert play.wait(20) == []


def test_a_crash_while_an_unjudged_candidate_stands_at_the_gate_starts_last_good_instead() -> None:
    play = serving()
    play.ready("b")
    play.gate(2)
    dropped, started = play.exits(1)
    assert isinstance(dropped, do.DropEpoch)
    assert started == do.StartEpoch(3, revision("a"), validate=False)


def test_a_crash_after_a_candidate_passed_the_check_lets_that_one_serve() -> None:
    play = serving()
    play.ready("b")
    play.gate(2)
    play.judged(2)
    assert play.exits(1) == []
    assert play.serves(2) == [do.CommitEpoch(2)]


def test_a_candidate_of_last_good_at_the_gate_stays_when_nothing_serves_any_more() -> None:
    play = serving()
    play.restart()
    play.gate(2)
    assert play.exits(1) == []
    assert play.judged(2) == [do.OpenGate(2)]
    assert play.serves(2) == [do.CommitEpoch(2)]


def test_what_is_wanted_is_tried_in_turn_when_last_good_cannot_be_started_any_more() -> None:
    play = serving()
    play.exits(1)
    play.ready("b")
    assert play.exits(2) == [do.StartEpoch(3, revision("b"), validate=False)]
    play.exits(3)
    assert play.wait(1) == [do.StartEpoch(4, revision("a"), validate=False)]


def test_a_draining_epoch_that_dies_takes_nothing_with_it() -> None:
    play = serving()
    play.rotate("b")
    assert play.exits(1) == []


def test_restart_never_ends_with_the_proxys_own_code() -> None:
    assert serving(Policy(restart=Restart.NEVER)).exits(1, 7) == [do.Finish(7, TRANSIENT.reason)]
    assert serving(Policy(restart=Restart.NEVER)).exits(1, -11) == [do.Finish(139, TRANSIENT.reason)]


def test_restart_on_failure_ends_after_a_proper_exit_and_restarts_after_a_crash() -> None:
    assert serving(Policy(restart=Restart.ON_FAILURE)).exits(1, 0) == [do.Finish(0, TRANSIENT.reason)]
    crashed = serving(Policy(restart=Restart.ON_FAILURE)).exits(1, 1)
    assert crashed == [do.StartEpoch(2, revision("a"), validate=False)]


def test_the_agent_gives_up_if_configured() -> None:
    play = ReconcilerDriver(Policy(give_up=3))
    play.ready("a")
    assert play.exits(1, 1) == [do.StartEpoch(2, revision("a"), validate=False)]
    assert play.exits(2, 1) == []
    assert play.wait(1) == [do.StartEpoch(3, revision("a"), validate=False)]
    (finish,) = play.exits(3, 1)
    assert isinstance(finish, do.Finish)
    assert finish.code == 1


def test_without_waiting_an_unusable_first_revision_ends_the_agent() -> None:
    play = ReconcilerDriver(Policy(wait=False))
    play.ready("a")
    assert play.exits(1, 1, PERMANENT) == [do.Finish(78, PERMANENT.reason)]


def test_restart_never_ends_with_the_code_of_a_first_epoch_that_never_served() -> None:
    play = ReconcilerDriver(Policy(restart=Restart.NEVER))
    play.ready("a")
    assert play.exits(1, 7) == [do.Finish(7, TRANSIENT.reason)]


def test_a_first_epoch_that_could_not_be_started_is_tried_again_whatever_is_restarted() -> None:
    play = ReconcilerDriver(Policy(restart=Restart.NEVER))
    play.ready("a")
    assert play.exits(1, None) == [do.StartEpoch(2, revision("a"), validate=False)]


def test_restart_never_ends_with_one_where_the_code_cannot_be_read() -> None:
    assert serving(Policy(restart=Restart.NEVER)).exits(1, None) == [do.Finish(1, TRANSIENT.reason)]


@pytest.mark.parametrize("code", [1, None])
def test_restart_on_failure_restarts_where_the_code_is_no_success(code: int | None) -> None:
    crashed = serving(Policy(restart=Restart.ON_FAILURE)).exits(1, code)
    assert crashed == [do.StartEpoch(2, revision("a"), validate=False)]


def test_an_event_of_an_epoch_that_is_gone_or_unknown_changes_nothing() -> None:
    play = serving()
    deadline = play.core.deadline
    assert play.exits(9) == play.serves(9) == play.gate(9) == play.judged(9) == play.emptied(9) == []
    assert play.core.deadline == deadline


def test_numbers_begin_where_an_earlier_agent_left_off() -> None:
    core = Reconciler(Policy(), jitter=lambda: 1.0, first_epoch=42)
    assert core.next_epoch == 42
    assert core.handle(on.RevisionReady(at=1.0, revision=revision("a"))) == [
        do.StartEpoch(42, revision("a"), validate=False)
    ]


def test_without_waiting_missing_files_at_the_first_start_end_the_agent() -> None:
    missing = on.RevisionMissing(at=1000.0, what="/etc/certs/tls.key")
    assert ReconcilerDriver(Policy(wait=True)).tell(missing) == []
    assert ReconcilerDriver(Policy(wait=False)).tell(missing) == [
        do.Finish(78, "no usable files to start from: /etc/certs/tls.key")
    ]
    assert serving(Policy(wait=False)).tell(missing) == []


# Shutdown


def test_a_stop_drains_and_then_ends() -> None:
    play = serving(Policy(stop_timeout=30))
    assert play.stop() == [do.DrainEpoch(1)]
    assert play.emptied(1) == [do.EndEpoch(1)]
    assert play.exits(1, 0) == [do.Finish(0, "stopped as asked")]


def test_a_stop_drops_the_candidate_and_cuts_what_is_left_at_its_deadline() -> None:
    play = serving(Policy(stop_timeout=30, drain_timeout=600))
    play.rotate("b")
    play.ready("c")
    assert play.stop() == [do.DropEpoch(3, "the agent stops"), do.DrainEpoch(2)]
    play.exits(3)
    assert play.wait(30) == [do.EndEpoch(1), do.EndEpoch(2)]


def test_a_second_stop_hurries() -> None:
    play = serving()
    play.stop()
    assert play.stop() == [do.EndEpoch(1)]


def test_a_stop_with_nothing_to_stop_is_the_end() -> None:
    assert ReconcilerDriver().stop() == [do.Finish(0, "stopped as asked")]


def test_a_crash_during_the_stop_is_still_a_stop() -> None:
    play = serving()
    play.stop()
    assert play.exits(1) == [do.Finish(0, "stopped as asked")]


def test_a_stop_delays_the_drain_for_the_load_balancer() -> None:
    play = serving(Policy(stop_timeout=30, drain_delay=5))
    assert play.stop() == []
    assert play.core.stopping
    assert play.wait(5) == [do.DrainEpoch(1)]
    assert play.wait(25) == [do.EndEpoch(1)]


def test_the_delay_of_a_stop_does_not_outlast_its_deadline() -> None:
    play = serving(Policy(stop_timeout=3, drain_delay=60))
    play.stop()
    assert play.wait(3) == [do.DrainEpoch(1), do.EndEpoch(1)]


def test_a_second_stop_does_not_wait_for_the_delay() -> None:
    play = serving(Policy(drain_delay=60))
    play.stop()
    assert play.stop() == [do.EndEpoch(1)]
    assert play.exits(1, 0) == [do.Finish(0, "stopped as asked")]


def test_a_drain_at_the_end_takes_as_long_as_clients_need_that_are_on_their_way() -> None:
    play = serving(Policy(stop_timeout=30, min_drain=4))
    assert play.stop() == [do.DrainEpoch(1)]
    assert play.emptied(1) == []
    assert play.wait(3.9) == []
    assert play.wait(0.1) == [do.EndEpoch(1)]
    assert not play.notes, "nothing was cut"


def test_a_rotation_does_not_heed_how_long_a_drain_at_the_end_takes() -> None:
    play = serving(Policy(min_drain=60))
    play.rotate("b")
    assert play.emptied(1) == [do.EndEpoch(1)]


def test_what_is_asked_to_drain_stays_until_it_is_asked_to_stop() -> None:
    play = serving()
    play.ready("b")
    assert play.drain() == [do.DropEpoch(2, "the agent stops"), do.DrainEpoch(1)]
    play.exits(2)
    assert play.ready("c") == []
    play.emptied(1)
    assert play.exits(1, 0) == []
    assert play.drain() == []
    assert play.stop() == [do.Finish(0, "stopped as asked")]


def test_a_stop_in_the_midst_of_a_drain_waits_for_it() -> None:
    play = serving(Policy(stop_timeout=30))
    play.drain()
    assert play.stop() == []
    assert play.stop() == [do.EndEpoch(1)]


def test_a_stop_without_a_drain_ends_everything_at_once_and_exits_with_0() -> None:
    play = serving(Policy(drain_delay=60, min_drain=60))
    play.ready("b")
    assert play.stop(now=True) == [do.EndEpoch(1), do.EndEpoch(2)]
    play.exits(2)
    assert play.exits(1) == [do.Finish(0, "stopped as asked")]


def test_a_stop_without_a_drain_ends_a_drain() -> None:
    play = serving()
    play.stop()
    assert play.stop(now=True) == [do.EndEpoch(1)]
    assert play.exits(1) == [do.Finish(0, "stopped as asked")]


INBOUND = Policy(keeps_outbound=True, stop_timeout=30)


def drained(play: ReconcilerDriver) -> bool:
    return play.core.is_drained


def test_after_a_drain_of_inbound_listeners_the_epoch_stays_until_a_stop() -> None:
    play = serving(INBOUND)
    assert play.drain() == [do.DrainEpoch(1)]
    assert not drained(play)
    assert play.wait(29) == []
    assert play.emptied(1) == []
    assert drained(play)
    assert play.wait(3600) == []
    assert play.stop() == [do.AwaitEmpty(1)]
    assert not drained(play)
    assert play.emptied(1, all_listeners=True) == [do.EndEpoch(1)]
    assert play.exits(1, 0) == [do.Finish(0, "stopped as asked")]


def test_a_drain_of_inbound_listeners_ends_at_its_deadline_and_cuts_nothing() -> None:
    play = serving(INBOUND)
    play.drain()
    assert play.wait(29) == []
    assert not drained(play)
    assert play.wait(3600) == []
    assert drained(play)
    assert play.stop() == [do.AwaitEmpty(1)]
    assert play.wait(30) == [do.EndEpoch(1)]


def test_a_stop_after_a_drain_of_inbound_listeners_waits_for_all_connections_until_its_deadline() -> None:
    play = serving(INBOUND)
    play.drain()
    play.stop()
    assert play.emptied(1) == [], "an observation of the inbound listeners, from before the stop"
    assert play.wait(29) == []
    assert play.wait(1) == [do.EndEpoch(1)]
    assert play.notes, "connections are cut"


def test_a_second_stop_after_a_drain_of_inbound_listeners_hurries() -> None:
    play = serving(INBOUND)
    play.drain()
    play.stop()
    assert play.stop() == [do.EndEpoch(1)]


def test_older_epochs_drain_and_end_beside_the_one_that_stays() -> None:
    play = serving(INBOUND)
    play.rotate("b")
    assert play.drain() == [do.DrainEpoch(2)]
    play.emptied(2)
    assert not drained(play)
    assert play.emptied(1) == [do.EndEpoch(1)]
    play.exits(1, 0)
    assert drained(play)


def test_one_that_stays_and_crashes_is_drained_all_the_same() -> None:
    play = serving(INBOUND)
    play.drain()
    assert play.exits(1) == []
    assert drained(play)
    assert play.stop() == [do.Finish(0, "stopped as asked")]


def test_a_stop_in_the_delay_before_a_drain_of_inbound_listeners_is_a_stop() -> None:
    play = serving(Policy(keeps_outbound=True, drain_delay=5))
    assert play.drain() == []
    assert play.stop() == []
    assert play.wait(5) == [do.DrainEpoch(1)]
    assert play.emptied(1) == [do.EndEpoch(1)], "as without a drain before"


def test_a_stop_without_a_drain_before_waits_for_inbound_connections_only() -> None:
    play = serving(INBOUND)
    assert play.stop() == [do.DrainEpoch(1)]
    assert play.emptied(1) == [do.EndEpoch(1)]


# Pauses, and events that ignore them


def test_a_pause_holds_rotations_until_it_is_over() -> None:
    play = serving()
    play.pause(60)
    assert play.ready("b") == []
    assert play.wait(59) == []
    assert play.wait(1) == [do.StartEpoch(2, revision("b"), validate=False)]


def test_the_end_of_a_pause_can_be_asked_for() -> None:
    play = serving()
    play.pause(600)
    play.ready("b")
    assert play.pause(0) == [do.StartEpoch(2, revision("b"), validate=False)]


def test_a_crash_or_a_certificate_about_to_end_does_not_wait_for_the_end_of_a_pause() -> None:
    play = serving()
    play.pause(600)
    assert play.exits(1) == [do.StartEpoch(2, revision("a"), validate=False)]
    play.come_to_serve()
    play.ready("b")
    assert play.urgent(play.now, play.now + 60) == [do.StartEpoch(3, revision("b"), validate=False)]


def test_what_is_asked_for_now_waits_for_neither_pause_nor_drains_and_leaves_nothing_of_the_old() -> None:
    play = serving(Policy(drains=1, drain_timeout=600))
    play.rotate("b")
    play.pause(600)
    assert play.ready("c") == []
    assert play.restart(now=True) == [do.StartEpoch(3, revision("c"), validate=False)]
    assert play.come_to_serve() == [do.CommitEpoch(3), do.DrainEpoch(2), do.EndEpoch(2)]
    play.exits(2)
    play.emptied(1)
    play.exits(1)
    play.pause(0)
    assert play.rotate("d") == [do.CommitEpoch(4), do.DrainEpoch(3)]


def test_a_restart_now_that_a_crash_has_answered_ends_no_later_epoch() -> None:
    play = serving()
    play.restart(now=True)
    play.exits(1)
    assert play.come_to_serve() == [do.CommitEpoch(2)]
    play.wait(60)
    play.pause(60)
    assert play.ready("b") == []
    play.pause(0)
    assert play.come_to_serve() == [do.CommitEpoch(3), do.DrainEpoch(2)]


# Memory


def stay_short_of_memory(play: ReconcilerDriver, attempts: int) -> list[float]:
    """Let this many attempts find no memory, the current one first; return the delays after each."""
    delays = []
    for _ in range(attempts):
        candidate = play.core.candidate
        assert candidate is not None
        assert play.finds_no_memory(candidate.number) == []
        assert play.core.deadline is not None
        delays.append(play.core.deadline - play.now)
        play.wait(delays[-1])
    return delays


def test_a_start_that_there_is_no_memory_for_waits_with_growing_delays_and_says_so_once() -> None:
    play = serving(Policy(retry_limit=60))
    play.ready("b")
    delays = stay_short_of_memory(play, 12)
    assert delays[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert delays[-1] == pytest.approx(60)
    assert [note.topic for note in play.notes] == [LogTopic.SHORT]
    assert play.core.serving is not None
    assert play.core.last_failure is not None


def test_an_attempt_after_a_shortage_is_marked_until_there_is_memory_or_something_else_to_try() -> None:
    play = serving()
    play.ready("b")
    play.finds_no_memory(2)
    assert play.wait(0.2) == [do.StartEpoch(3, revision("b"), validate=False, again=True)]
    play.finds_no_memory(3)
    assert play.ready("c") == [do.StartEpoch(4, revision("c"), validate=False)]
    play.finds_no_memory(4)
    assert [note.topic for note in play.notes] == [LogTopic.SHORT, LogTopic.SHORT]
    play.wait(0.2)
    play.come_to_serve()
    assert play.ready("d") == [do.StartEpoch(6, revision("d"), validate=False)]


def test_a_shortage_is_no_failure_that_the_agent_gives_up_after() -> None:
    play = serving(Policy(give_up=3, crashes_forgiven=0))
    play.ready("b")
    stay_short_of_memory(play, 6)
    assert [type(effect) for effect in play.exits(1)] == [do.DropEpoch, do.StartEpoch]
    assert not play.core.stopping


def test_without_memory_for_two_what_serves_is_replaced_but_not_before_its_certificate_is_about_to_end() -> None:
    play = serving(Policy(low_memory=LowMemory.REPLACE, retry_limit=10))
    play.urgent(play.now + 30, expires_at=play.now + 200)
    play.ready("b")
    while not play.core.desired.is_urgent(play.now):
        stay_short_of_memory(play, 1)
    candidate = play.core.candidate
    assert candidate is not None
    assert play.finds_no_memory(candidate.number) == [do.EndEpoch(1)]
    assert [note.topic for note in play.notes] == [LogTopic.SHORT, LogTopic.REPLACED]
    number = play.core.next_epoch
    assert play.exits(1, 0) == [do.StartEpoch(number, revision("b"), validate=False, again=True)]
    assert play.come_to_serve() == [do.CommitEpoch(number)]


def replaced() -> ReconcilerDriver:
    """Return a driver in which epoch 1 was just ended to free memory for revision `b`."""
    play = serving(Policy(low_memory=LowMemory.REPLACE, hold_timeout=3, end_timeout=5))
    play.urgent(play.now, expires_at=play.now + 60)
    play.ready("b")
    assert play.finds_no_memory(2) == [do.EndEpoch(1)]
    return play


def test_clients_are_held_while_an_epoch_is_replaced_and_refused_if_that_takes_too_long() -> None:
    assert replaced().wait(3) == [do.RefuseClients()]


def test_a_replaced_epoch_that_does_not_leave_is_killed_and_its_successor_started() -> None:
    play = replaced()
    play.wait(4.9)
    assert play.wait(0.1) == [do.KillEpoch(1), do.StartEpoch(3, revision("b"), validate=False)]
    assert play.exits(1) == []


def test_last_good_comes_back_when_what_replaced_it_cannot_be_used() -> None:
    play = replaced()
    play.exits(1, 0)
    assert play.exits(3, 1, PERMANENT) == [do.StartEpoch(4, revision("a"), validate=False)]


@pytest.mark.parametrize("refused", [False, True])
def test_nothing_is_replaced_by_the_same_or_by_what_was_refused(refused: bool) -> None:
    play = serving(Policy(low_memory=LowMemory.REPLACE))
    if refused:
        play.ready("b")
        play.exits(2, 1, PERMANENT)
    else:
        play.restart()
    play.urgent(play.now, expires_at=play.now + 60)
    stay_short_of_memory(play, 3)


def test_a_candidate_that_found_no_memory_just_as_what_serves_died_is_not_waited_with() -> None:
    play = serving()
    play.restart()
    assert play.exits(1) == []
    assert play.finds_no_memory(2) == [do.StartEpoch(3, revision("a"), validate=False)]


# An earlier agent


def adopted(play: ReconcilerDriver, epoch: int, state: State, name: str = "a") -> list[do.Effect]:
    event = on.EpochAdopted(at=play.now, epoch=epoch, revision=revision(name), pid=100 + epoch, state=state)
    return play.tell(event)


def test_an_adopted_epoch_serves_on_and_the_same_content_starts_nothing() -> None:
    play = ReconcilerDriver()
    assert adopted(play, 7, State.SERVING) == [do.CommitEpoch(7)]
    assert play.ready("a") == []
    assert play.ready("b") == [do.StartEpoch(8, revision("b"), validate=False)]


def test_an_adopted_epoch_that_dies_is_started_again_from_its_own_revision() -> None:
    play = ReconcilerDriver()
    adopted(play, 7, State.SERVING)
    assert play.exits(7, None) == [do.StartEpoch(8, revision("a"), validate=False)]


def test_an_adopted_drain_goes_on_until_it_is_empty_or_over() -> None:
    play = ReconcilerDriver(Policy(drain_timeout=600))
    adopted(play, 7, State.SERVING, "b")
    assert adopted(play, 6, State.DRAINING) == [do.DrainEpoch(6)]
    assert adopted(play, 5, State.DRAINING) == [do.DrainEpoch(5)]
    assert play.emptied(6) == [do.EndEpoch(6)]
    play.exits(6, 0)
    assert play.wait(600) == [do.EndEpoch(5)]


def test_a_rotation_whose_gate_was_open_is_finished() -> None:
    play = ReconcilerDriver()
    adopted(play, 7, State.SERVING)
    assert adopted(play, 8, State.OPENING, "b") == [do.OpenGate(8)]
    assert play.ready("b") == []
    assert play.serves(8) == [do.CommitEpoch(8), do.DrainEpoch(7)]


def test_a_rotation_whose_gate_was_open_is_given_up_at_its_deadline() -> None:
    play = ReconcilerDriver(Policy(start_timeout=30))
    adopted(play, 7, State.SERVING)
    adopted(play, 8, State.OPENING, "b")
    assert [type(effect) for effect in play.wait(30)] == [do.DropEpoch]
    assert play.core.serving is not None


def test_a_change_that_may_wait_takes_the_place_of_what_serves_at_its_hour() -> None:
    play = serving()
    assert play.ready("b", not_before=play.now + 600) == []
    assert play.wait(599) == []
    assert play.wait(1) == [do.StartEpoch(2, revision("b"), validate=False)]


def test_a_change_that_may_wait_does_not_where_expiry_is_near() -> None:
    play = serving()
    play.urgent(play.now + 300, play.now + 900)
    assert play.ready("b", not_before=play.now + 600) == []
    assert play.wait(299) == []
    assert play.wait(1) == [do.StartEpoch(2, revision("b"), validate=False)]


def test_a_change_that_may_wait_does_not_where_nothing_serves_or_an_operator_asks() -> None:
    assert ReconcilerDriver().ready("a", not_before=5000) == [do.StartEpoch(1, revision("a"), validate=False)]
    play = serving()
    play.ready("b", not_before=play.now + 600)
    assert play.restart() == [do.StartEpoch(2, revision("b"), validate=False)]


def test_near_expiry_a_pause_is_over() -> None:
    play = serving()
    play.urgent(play.now + 30, play.now + 90)
    play.pause(600)
    assert play.ready("b") == []
    assert play.wait(30) == [do.StartEpoch(2, revision("b"), validate=False)]


# Missing resources of a candidate

SILENT = "it waits for its listeners: the control plane ads does not answer"


def test_a_first_candidate_with_a_reason_for_waiting_outlives_its_start_deadline() -> None:
    play = ReconcilerDriver()
    play.ready("a")
    play.awaits(1, SILENT)
    assert [note.topic for note in play.notes] == [LogTopic.AWAITED]
    assert SILENT in play.notes[0].text
    assert play.wait(300) == []
    play.gate(1)
    assert play.judged(1) == [do.OpenGate(1)]


def test_where_the_attempts_are_limited_it_counts_as_one() -> None:
    play = ReconcilerDriver(Policy(give_up=1))
    play.ready("a")
    play.awaits(1, SILENT)
    play.wait(30)
    assert play.exits(1) == [do.Finish(1, f"no epoch could be started: {play.core.last_failure.reason}")]  # type: ignore[union-attr]


def test_one_that_is_silent_again_is_dropped_at_its_deadline() -> None:
    play = ReconcilerDriver()
    play.ready("a")
    play.awaits(1, SILENT)
    play.awaits(1, "")
    assert isinstance(play.wait(30)[0], do.DropEpoch)


def test_beside_a_serving_epoch_it_is_dropped_and_the_reason_names_the_missing_resources() -> None:
    play = serving()
    play.ready("b")
    play.awaits(2, SILENT)
    dropped = play.wait(30)[0]
    assert isinstance(dropped, do.DropEpoch)
    assert dropped.reason.endswith(f"(starting): {SILENT}")
    assert play.core.last_failure is not None
    assert SILENT in play.core.last_failure.reason


def test_it_is_dropped_if_another_revision_can_be_tried() -> None:
    play = serving()
    play.exits(1)
    play.awaits(2, SILENT)
    play.ready("b")
    assert [type(effect) for effect in play.wait(10)] == [do.RefuseClients, do.DropEpoch, do.StartEpoch]


def test_an_epoch_that_serves_waits_for_nothing() -> None:
    play = serving()
    play.awaits(1, SILENT)
    assert not [note for note in play.notes if note.topic is LogTopic.AWAITED]
