"""The events: what every one of them carries, and the words that leave the program."""

from dataclasses import FrozenInstanceError, fields
from typing import get_args

import pytest

from agent.core import events as on
from agent.core.events import EpochEvent, Event, Failure, FailureKind
from agent.core.triggers import Trigger

EVENTS = get_args(Event)
OF_EPOCHS = get_args(EpochEvent)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.__name__))
def test_every_event_carries_its_time_and_is_written_out(event: type) -> None:
    assert "at" in {each.name for each in fields(event)}
    assert all(each.kw_only for each in fields(event))


@pytest.mark.parametrize("event", OF_EPOCHS, ids=lambda event: str(event.__name__))
def test_every_event_of_an_epoch_names_it(event: type) -> None:
    assert "epoch" in {each.name for each in fields(event)}


def test_an_event_that_another_agents_epoch_brings_is_not_ignored_as_unknown() -> None:
    """Events of unknown epochs are dropped; this one makes its epoch known."""
    assert on.EpochAdopted in EVENTS
    assert on.EpochAdopted not in OF_EPOCHS


def test_an_event_cannot_be_changed_after_it_happened() -> None:
    event = on.EpochServes(at=1.0, epoch=7)
    with pytest.raises(FrozenInstanceError):
        event.epoch = 8  # type: ignore[misc]


def test_what_is_left_out_is_the_harmless_choice() -> None:
    restart = on.RestartAsked(at=1.0)
    assert (restart.now, restart.trigger) == (False, Trigger.OPERATOR)
    assert on.EpochJudged(at=1.0, epoch=1).failure is None
    assert not Failure(FailureKind.TRANSIENT, "it fell over").pinned


def test_the_kinds_of_failure_have_the_names_of_the_saved_history() -> None:
    assert [kind.value for kind in FailureKind] == ["verdict", "accident", "shortage"]
