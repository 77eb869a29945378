from pathlib import Path

import pytest

from agent.core.triggers import Trigger


@pytest.mark.parametrize(
    ("trigger", "label"),
    [
        (Trigger.START, "start"),
        (Trigger.CERTIFICATE, "certificate"),
        (Trigger.CONFIGURATION, "configuration"),
        (Trigger.OPERATOR, "operator"),
        (Trigger.CRASH, "crash"),
        (Trigger.MEMORY, "memory"),
        (Trigger.HUNG, "hung"),
        (Trigger.ADOPTION, "adoption"),
    ],
)
def test_each_trigger_is_the_metric_label_that_dashboards_know(trigger: Trigger, label: str) -> None:
    assert str(trigger) == label
    assert Trigger(label) is trigger


def test_the_set_is_closed_and_the_reference_lists_it() -> None:
    reference = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    table = reference.partition("### Triggers")[2].partition("###")[0]
    assert {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")} == set(Trigger)
    with pytest.raises(ValueError, match="earthquake"):
        Trigger("earthquake")
