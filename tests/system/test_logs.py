"""What is written to the log during a rotation: by the agent and by its proxies."""

import json

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually

QUIET = 3  # lines of a proxy in a start and an end; Envoy writes 140 at its own default level


def rotated(bed: AgentFixture) -> None:
    """Rotate once, and wait until the log tells how that went."""
    bed.start()
    bed.journal.mark()
    bed.rotate()
    bed.served()
    eventually(lambda: bed.journal.named("rotation.done"), what="the rotation is logged")


def test_a_rotation_is_a_few_lines_and_each_is_json(bed_apart: AgentFixture) -> None:
    bed = bed_apart
    bed.proxy_args = ["--concurrency", "1"] if "envoy" in bed.binary.name else []
    rotated(bed)
    lines = bed.journal.path.read_text(encoding="utf-8").splitlines()
    trees = [json.loads(line) for line in lines]
    assert all({"timestamp", "severityText", "body", "attributes"} <= tree.keys() for tree in trees)
    assert len([tree for tree in trees if "eventName" not in tree]) <= QUIET


def test_a_proxys_line_names_its_epoch_and_is_json_whatever_it_says(bed_apart: AgentFixture) -> None:
    bed = bed_apart
    bed.proxy_args = ["--log-level", "info"]
    bed.start()

    def proxys() -> list[dict[str, object]]:
        trees = [json.loads(line) for line in bed.journal.path.read_text(encoding="utf-8").splitlines()]
        return [tree for tree in trees if "eventName" not in tree]

    eventually(proxys, what="the proxy writes a line")
    attributes = proxys()[-1]["attributes"]
    assert isinstance(attributes, dict)
    assert attributes["epoch"] == bed.serving().number


def test_the_facts_of_a_rotation_are_attributes(bed_apart: AgentFixture) -> None:
    bed = bed_apart
    rotated(bed)
    (done,) = bed.journal.named("rotation.done")
    (change,) = done.attributes["changes"]
    phases = done.attributes["phases"]
    assert done.attributes["trigger"] == "certificate"
    assert f"{int(change['before'], 16):x}" != f"{int(change['after'], 16):x}" == f"{bed.serial_served():x}"
    assert {"launch", "start", "judge", "open", "handover"} <= phases.keys()
    assert done.attributes["duration"] == pytest.approx(sum(phases.values()), abs=1e-4)
    assert [each["matches"] for each in done.attributes["seen"]] == [True]
    (serving,) = bed.journal.named("epoch.serving")
    assert serving.attributes["pid"] == bed.serving_pid()
