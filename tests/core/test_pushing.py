"""Certificates are pushed into the serving epoch, and a push that fails is undone."""

import pytest

from agent.core import effects as do
from agent.core import events as on
from agent.core.desired import DesiredState
from agent.core.effects import Effect, LogTopic
from agent.core.epochs import Epoch, State
from agent.core.policy import LowMemory, Policy
from agent.core.pushing import Pushing
from agent.core.triggers import Trigger
from tests.core.reconciler_driver import PERMANENT, TRANSIENT, ReconcilerDriver, revision, serving


def pushing(policy: Policy | None = None) -> ReconcilerDriver:
    """Return a driver in which epoch 1 serves revision `a` and takes pushes."""
    return serving(policy, push_base="base")


def start(epoch: int, name: str) -> Effect:
    return do.StartEpoch(epoch, revision(name), validate=False)


def start_validated(epoch: int, name: str) -> Effect:
    """The start of an epoch with another configuration."""
    return do.StartEpoch(epoch, revision(name, "another"), validate=True)


def push(name: str, epoch: int = 1, *, restores: bool = False) -> Effect:
    return do.PushRevision(epoch, revision(name), restores)


def ready(play: ReconcilerDriver, name: str, not_before: float = float("-inf")) -> list[Effect]:
    """Let a revision be ready that can be pushed."""
    return play.ready(name, not_before=not_before, push_base="base")


def topics(play: ReconcilerDriver) -> list[LogTopic]:
    return [note.topic for note in play.notes]


# What is pushed


def test_a_changed_certificate_is_pushed_and_no_epoch_starts() -> None:
    play = pushing()
    assert ready(play, "b") == [push("b")]
    assert play.pushed(1) == [do.CommitPush(1, revision("b"))]
    epoch = play.core.epochs[1]
    assert (epoch.revision, epoch.pushes, epoch.pushing) == (revision("b"), 1, None)
    assert play.core.desired.last_good == revision("b")
    assert play.core.deadline is None, "nothing more is due"


def test_what_is_pushed_becomes_last_good_only_when_it_serves() -> None:
    play = pushing()
    ready(play, "b")
    assert play.core.desired.last_good == play.core.epochs[1].revision == revision("a")


@pytest.mark.parametrize(
    ("base", "takes_pushes"),
    [("", True), ("another", True), ("base", False)],
    ids=["nothing can be pushed", "more changed than can be pushed", "the epoch takes no pushes"],
)
def test_what_cannot_be_pushed_starts_an_epoch(base: str, takes_pushes: bool) -> None:
    play = pushing()
    play.core.epochs[1].takes_pushes = takes_pushes
    assert play.ready("b", push_base=base) == [start(2, "b")]


def test_a_revision_without_a_base_is_not_pushed_over_another_without_one() -> None:
    play = serving()
    play.core.epochs[1].takes_pushes = True
    assert play.ready("b") == [start(2, "b")]


def test_nothing_is_pushed_while_nothing_serves() -> None:
    play = pushing()
    play.exits(1)
    assert not Pushing(DesiredState(Policy())).brings(None, revision("b", push_base="base"))
    play.core.desired.last_good = None
    assert Pushing.is_under_way(play.core.serving) is False


def test_nothing_and_the_same_are_not_brought_by_a_push() -> None:
    decides = Pushing(DesiredState(Policy()))
    epoch = Epoch(1, revision("a", push_base="base"), 0.0, State.SERVING, takes_pushes=True)
    assert not decides.brings(epoch, None)
    assert not decides.brings(epoch, revision("a", push_base="base"))
    assert decides.brings(epoch, revision("b", push_base="base"))


def test_an_operator_who_asks_for_a_restart_gets_one() -> None:
    play = pushing()
    ready(play, "b")
    assert play.restart() == [], "one thing at a time"
    assert play.pushed(1) == [do.CommitPush(1, revision("b")), start(2, "b")]
    assert play.core.epochs[2].trigger is Trigger.OPERATOR


def test_a_change_beside_a_request_comes_with_the_restart() -> None:
    play = pushing()
    play.pause(10)
    play.restart()
    ready(play, "b")
    assert play.wait(10) == [start(2, "b")]


@pytest.mark.parametrize("trigger", [Trigger.OPERATOR, Trigger.HUNG])
def test_a_restart_that_was_asked_for_goes_on_and_the_change_is_pushed_into_the_new_epoch(trigger: Trigger) -> None:
    play = pushing()
    play.tell(on.RestartAsked(at=play.now, trigger=trigger))
    assert ready(play, "b") == [], "the restart is not dropped for it"
    assert play.come_to_serve(takes_pushes=True) == [do.CommitEpoch(2), do.DrainEpoch(1), push("b", 2)]


# One at a time


def test_pushes_come_one_by_one_and_the_newest_is_next() -> None:
    play = pushing()
    assert ready(play, "b") == [push("b")]
    assert ready(play, "c") == []
    assert ready(play, "d") == []
    assert play.wait(60) == []
    assert play.pushed(1) == [do.CommitPush(1, revision("b")), push("d")]
    assert play.pushed(1) == [do.CommitPush(1, revision("d"))]
    assert play.core.epochs[1].pushes == 2


def test_what_is_taken_back_during_its_push_is_pushed_back() -> None:
    play = pushing()
    ready(play, "b")
    ready(play, "a")
    assert play.pushed(1) == [do.CommitPush(1, revision("b")), push("a")]


def test_another_base_waits_for_the_push_and_starts_an_epoch() -> None:
    play = pushing()
    ready(play, "b")
    assert play.ready("c", "another", push_base="other") == []
    assert play.pushed(1) == [do.CommitPush(1, revision("b")), start_validated(2, "c")]


def test_a_candidate_is_dropped_when_a_push_suffices() -> None:
    play = pushing()
    assert play.ready("b", "another", push_base="other") == [start_validated(2, "b")]
    [dropped, pushed] = ready(play, "c")
    assert isinstance(dropped, do.DropEpoch)
    assert (dropped.epoch, pushed) == (2, push("c"))


def test_a_candidate_that_already_serves_is_not_dropped_for_a_push() -> None:
    play = pushing()
    play.ready("b", "another", push_base="other")
    play.gate(2)
    play.judged(2)
    assert ready(play, "c") == [], "its gate is open"


def test_a_candidate_of_a_revision_that_no_push_brings_goes_on() -> None:
    play = pushing()
    play.ready("b", "another", push_base="other")
    assert play.ready("c", "third", push_base="third") == []


# When


def test_a_paused_push_waits() -> None:
    play = pushing()
    play.pause(10)
    assert ready(play, "b") == []
    assert play.wait(9.9) == []
    assert play.wait(0.2) == [push("b")]


def test_a_push_waits_for_its_schedule() -> None:
    play = pushing()
    assert ready(play, "b", not_before=play.now + 30) == []
    assert play.wait(29.9) == []
    assert play.wait(0.2) == [push("b")]
    assert LogTopic.HELD_BY_DRAINS not in topics(play)


@pytest.mark.parametrize("hold", ["pause", "schedule"])
def test_near_expiry_a_push_waits_neither_for_pause_nor_schedule(hold: str) -> None:
    play = pushing()
    play.urgent(play.now + 5, play.now + 60)
    if hold == "pause":
        play.pause(600)
    assert ready(play, "b", not_before=play.now + 600 * (hold == "schedule")) == []
    assert play.wait(4.9) == []
    assert play.wait(0.2) == [push("b")]
    assert play.pushed(1) == [do.CommitPush(1, revision("b"))]
    assert ready(play, "c", not_before=play.now + 600) == [push("c")]


def test_a_push_waits_for_no_drain() -> None:
    play = serving(Policy(drains=1, drain_patience=600), push_base="base")
    play.restart()
    play.come_to_serve(takes_pushes=True)
    assert [epoch.number for epoch in play.core.draining] == [1]
    assert ready(play, "b") == [push("b", 2)]
    assert LogTopic.HELD_BY_DRAINS not in topics(play)


def test_a_push_waits_for_no_still_disk() -> None:
    play = pushing(Policy(burst=1, quiet_timeout=5))
    for name in "bcdef":
        assert ready(play, name) == [push(name)]
        play.pushed(1)


def test_a_push_waits_for_the_back_off_of_its_revision() -> None:
    play = pushing()
    play.core._attempts.not_before = play.now + 5
    play.core.desired.wanted = revision("b", push_base="base")
    assert play.tell(on.TimePassed(at=play.now)) == []
    assert play.wait(4.9) == []
    assert play.wait(0.2) == [push("b")]


# Refused


def test_a_refused_push_is_undone_and_not_tried_again() -> None:
    play = pushing()
    ready(play, "b")
    assert play.pushed(1, PERMANENT) == [push("a", restores=True)]
    refused = play.core.desired.refused
    assert refused is not None
    assert (refused.revision, refused.reason) == (revision("b"), PERMANENT.reason)
    assert play.pushed(1) == []
    assert topics(play)[-2:] == [LogTopic.REFUSED, LogTopic.PUSH_UNDONE]
    assert play.wait(3600) == []
    assert (play.core.epochs[1].takes_pushes, play.core.epochs[1].pushes) == (True, 0)
    assert play.core.desired.last_good == revision("a")


def test_while_a_push_is_undone_nothing_else_is_pushed() -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1, PERMANENT)
    assert ready(play, "c") == []
    assert play.pushed(1) == [push("c")]
    assert play.pushed(1) == [do.CommitPush(1, revision("c"))]


def test_a_push_that_was_refused_before_it_was_sent_has_nothing_to_undo() -> None:
    play = pushing()
    ready(play, "b")
    assert play.pushed(1, PERMANENT, is_intact=True) == []
    assert play.core.epochs[1].pushing is None
    assert ready(play, "c") == [push("c")]


def test_near_expiry_a_refused_push_is_tried_again_with_a_growing_delay() -> None:
    play = pushing()
    play.urgent(play.now, play.now + 600)
    ready(play, "b")
    delays = []
    for _ in range(4):
        play.pushed(1, PERMANENT)
        again = play.pushed(1)
        began = play.now
        if not again:
            assert play.core.deadline is not None
            again = play.wait(play.core.deadline - play.now)
        assert again == [push("b")]
        delays.append(play.now - began)
    assert delays == pytest.approx([0.0, 0.2, 0.4, 0.8])


def test_a_change_after_a_refused_push_is_pushed_at_once() -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1, PERMANENT)
    play.pushed(1)
    assert ready(play, "c") == [push("c")]


def test_an_operator_who_asks_gets_a_restart_with_what_was_refused() -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1, PERMANENT)
    play.pushed(1)
    assert play.restart() == [start(2, "b")]


# No answer


def test_an_epoch_that_does_not_answer_is_restored_and_replaced_at_once() -> None:
    play = pushing()
    ready(play, "b")
    assert play.pushed(1, TRANSIENT) == [push("a", restores=True), start(2, "b")]
    assert play.notes[-1].topic is LogTopic.PUSH_FAILED
    assert TRANSIENT.reason in play.notes[-1].text
    failures = [play.core.last_failure]
    assert play.pushed(1) == []
    assert [*failures, play.core.last_failure] == [TRANSIENT, None]
    assert play.come_to_serve(takes_pushes=True) == [do.CommitEpoch(2), do.DrainEpoch(1)]
    assert ready(play, "c") == [push("c", 2)], "the new epoch takes pushes"


def test_nothing_more_is_pushed_into_an_epoch_that_did_not_answer() -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1, TRANSIENT)
    play.pushed(1)
    play.exits(2, failure=PERMANENT)
    assert ready(play, "c") == [start(3, "c")]


def test_a_push_that_was_never_sent_is_not_undone_and_an_epoch_takes_it() -> None:
    play = pushing()
    ready(play, "b")
    assert play.pushed(1, TRANSIENT, is_intact=True) == [start(2, "b")]


def test_the_end_of_an_undoing_push_after_the_epoch_is_superseded_changes_nothing() -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1, TRANSIENT)
    play.come_to_serve(takes_pushes=True)
    assert play.pushed(1, TRANSIENT) == []
    assert not play.core.epochs[1].is_torn
    assert play.core.last_failure is None, "only the serving epoch's counts"


# Not undone


@pytest.mark.parametrize("failure", [PERMANENT, TRANSIENT])
def test_an_epoch_whose_push_cannot_be_undone_is_torn_and_replaced(failure: on.Failure) -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1, PERMANENT)
    assert play.pushed(1, failure) == [start(2, "a")], "what it served before, in a new process"
    epoch = play.core.epochs[1]
    assert (epoch.is_torn, epoch.takes_pushes) == (True, False)
    assert play.notes[-1].topic is LogTopic.PUSH_FAILED
    assert "epoch 1" in play.notes[-1].text
    assert play.come_to_serve() == [do.CommitEpoch(2), do.DrainEpoch(1)]


def test_a_torn_epoch_is_replaced_by_the_newest_revision() -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1, PERMANENT)
    ready(play, "c")
    assert play.pushed(1, TRANSIENT) == [start(2, "c")]


def test_a_torn_epoch_is_replaced_until_it_is() -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1, PERMANENT)
    play.pushed(1, TRANSIENT)
    assert play.exits(2) == []
    assert play.wait(0.2) == [start(3, "a")]


# Crashes and the end


def test_a_crash_during_a_push_starts_last_good() -> None:
    play = pushing()
    ready(play, "b")
    assert play.exits(1) == [start(2, "a")]
    assert play.come_to_serve(takes_pushes=True) == [do.CommitEpoch(2), push("b", 2)]


def test_a_crash_after_a_push_starts_what_was_pushed() -> None:
    play = pushing()
    ready(play, "b")
    play.pushed(1)
    assert play.exits(1) == [start(2, "b")]


def test_the_end_of_a_push_into_an_epoch_that_exited_is_ignored() -> None:
    play = pushing()
    ready(play, "b")
    play.exits(1)
    late = on.EpochPushed(at=play.now, epoch=1, revision=revision("b"))
    assert play.tell(late) == []
    assert play.core.desired.last_good == revision("a")


@pytest.mark.parametrize("failure", [None, PERMANENT, TRANSIENT])
def test_a_push_that_ends_while_the_agent_stops_changes_nothing(failure: on.Failure | None) -> None:
    play = pushing()
    ready(play, "b")
    play.stop()
    assert play.pushed(1, failure) == []
    assert play.core.desired.last_good == revision("a")


def test_an_epoch_that_was_ended_to_make_room_is_pushed_into_no_more() -> None:
    play = pushing(Policy(low_memory=LowMemory.REPLACE))
    play.urgent(play.now, play.now + 60)
    play.restart()
    play.ready("b", "another", push_base="other")
    play.finds_no_memory(2)
    assert play.core.serving is None or play.core.serving.pushing is None


# Adoption


def adopted(*, takes_pushes: bool, is_torn: bool) -> tuple[ReconcilerDriver, list[Effect]]:
    play = ReconcilerDriver()
    event = on.EpochAdopted(
        at=play.now,
        epoch=1,
        revision=revision("a", push_base="base"),
        pid=7,
        state=State.SERVING,
        takes_pushes=takes_pushes,
        is_torn=is_torn,
    )
    return play, play.tell(event)


def test_an_adopted_epoch_takes_pushes() -> None:
    play, effects = adopted(takes_pushes=True, is_torn=False)
    assert effects == [do.CommitEpoch(1)]
    assert ready(play, "b") == [push("b")]


def test_a_push_that_the_earlier_agent_did_not_end_is_undone() -> None:
    play, effects = adopted(takes_pushes=True, is_torn=True)
    assert effects == [do.CommitEpoch(1), push("a", restores=True)]
    assert ready(play, "b") == []
    assert play.pushed(1) == [push("b")]
    assert not play.core.epochs[1].is_torn


def test_a_push_of_the_earlier_agent_that_cannot_be_undone_ends_in_a_restart() -> None:
    play, _ = adopted(takes_pushes=True, is_torn=True)
    assert play.pushed(1, TRANSIENT) == [start(2, "a")]


def test_an_epoch_that_is_torn_and_takes_no_pushes_is_replaced() -> None:
    _, effects = adopted(takes_pushes=False, is_torn=True)
    assert effects == [do.CommitEpoch(1), start(2, "a")]


def test_an_adopted_epoch_without_slots_is_replaced_by_the_next_change() -> None:
    play, effects = adopted(takes_pushes=False, is_torn=False)
    assert effects == [do.CommitEpoch(1)]
    assert ready(play, "b") == [start(2, "b")]
