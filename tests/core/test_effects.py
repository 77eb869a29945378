"""The effects: values that can be compared, and the log events that operators know them by."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from agent.core import effects as do
from agent.core.effects import LogTopic
from agent.core.revision import Revision

REVISION = Revision("a" * 64, "b")
REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_equal_effects_are_equal_and_usable_as_keys() -> None:
    assert do.StartEpoch(1, REVISION, validate=False) == do.StartEpoch(1, REVISION, validate=False, again=False)
    assert len({do.DropEpoch(1, "late"), do.DropEpoch(1, "late"), do.DropEpoch(2, "late")}) == 2


def test_effects_on_one_epoch_are_told_apart_by_their_kind() -> None:
    kinds = [do.JudgeEpoch(3), do.OpenGate(3), do.CommitEpoch(3), do.DrainEpoch(3), do.EndEpoch(3), do.KillEpoch(3)]
    assert len(set(kinds)) == len(kinds)


def test_an_effect_cannot_be_changed_on_its_way() -> None:
    effect = do.EndEpoch(1)
    with pytest.raises(FrozenInstanceError):
        effect.epoch = 2  # type: ignore[misc]


def test_a_message_concerns_no_epoch_unless_it_names_one() -> None:
    assert do.LogMessage(LogTopic.DOWN, "nothing serves").epoch is None


@pytest.mark.parametrize("topic", LogTopic)
def test_every_log_event_is_in_the_reference(topic: LogTopic) -> None:
    assert f"| `{topic}` |" in REFERENCE.read_text()
